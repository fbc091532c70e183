"use strict";
// The page of one unit: its examples, unpacked where they stand.
(() => {
  const { tokensOf, keys } = window.packing;
  const { between, prepare } = window.examples;
  const main = document.getElementById("main");
  between(Number(main.dataset.low), Number(main.dataset.high));
  for (const item of document.querySelectorAll(".examples > li")) prepare(item, tokensOf(item.querySelector(".text").textContent, item.dataset.l));

  const prefix = document.getElementById("next").getAttribute("href").replace(/\d+\.html$/, "");
  keys(() => `${prefix}${Math.floor(Math.random() * Number(main.dataset.units))}.html`);
})();
