"use strict";
// The examples of a head's page: every token can be the query, by the pointer or by the arrow keys, and shades the keys that it attends to.
(() => {
  const { tokensOf, valuesOf, keys } = window.packing;
  const main = document.getElementById("main");
  const largest = Number(main.dataset.largest) || 1;
  const readout = document.getElementById("readout");
  const SAID = 5;
  const shown = [];
  let weighted = false;

  // A span a token, or a character that is made of several; "…" where text is left out.
  function prepare(item) {
    const element = item.querySelector(".text");
    const tokens = tokensOf(element.textContent, item.dataset.l);
    const places = item.dataset.places.split(" ").map(Number);
    const packed = valuesOf(item.dataset.a, 0, 1);
    const lengths = valuesOf(item.dataset.n, 0, Number(item.dataset.longest));
    // Row after row of the lower triangle.
    const attention = (query, key) => (key > query ? 0 : packed[(query * (query + 1)) / 2 + key]);
    const groups = [];
    const parts = [];
    tokens.forEach((token, at) => {
      const jumps = at > 0 && places[at] !== places[at - 1] + 1;
      if (jumps) {
        const gap = document.createElement("span");
        gap.className = "gap";
        gap.textContent = " … ";
        parts.push(gap);
      }
      if (token !== "" || jumps || !groups.length) {
        const span = document.createElement("span");
        span.className = "token";
        span.textContent = token;
        groups.push({ span, tokens: [at] });
        parts.push(span);
      } else groups.at(-1).tokens.push(at);
    });
    element.replaceChildren(...parts);
    const own = groups.findIndex((group) => group.tokens.includes(Number(item.dataset.query)));
    let here = own;

    // Of a character of several tokens the example's own query, or the last of them.
    const queryOf = (group) => (group.tokens.includes(Number(item.dataset.query)) ? Number(item.dataset.query) : group.tokens.at(-1));

    function draw(tell) {
      const query = queryOf(groups[here]);
      const rows = groups.map(({ span, tokens: some }) => {
        const share = some.reduce((sum, key) => sum + attention(query, key), 0);
        const strength = some.reduce((most, key) => Math.max(most, attention(query, key) * lengths[key]), 0);
        const depth = Math.sqrt(Math.min(weighted ? strength / largest : share, 1));
        span.style.backgroundColor = depth > 0.05 ? `rgb(var(--fires) / ${(0.8 * depth).toFixed(3)})` : "";
        span.classList.toggle("query", span === groups[here].span);
        return { text: span.textContent, share, strength };
      });
      if (!tell) return;
      const measure = weighted ? "strength" : "share";
      const best = rows.filter((row) => row[measure] > 0).sort((a, b) => b[measure] - a[measure]).slice(0, SAID);
      const rest = Math.max(0, 1 - rows.reduce((sum, row) => sum + row.share, 0));
      const number = places[query];
      const where = number < 0 ? "beginning token" : `token ${number + 1} of document ${item.dataset.document}`;
      const elsewhere = rest > 0.005 ? ` · ${rest.toFixed(2)} of the attention on tokens not shown` : "";
      readout.textContent = `“${groups[here].span.textContent}” (${where}) attends to ${best.map((row) => `“${row.text}” ${row[measure].toFixed(2)}`).join(", ")}${elsewhere}`;
    }

    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", `${item.querySelector("b").textContent}: query “${groups[own]?.span.textContent.trim()}”. Arrow keys move the query. ${element.textContent}`);
    element.addEventListener("focus", () => draw(true));
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const to = event.key === "Home" ? own : here + (step ?? NaN);
      if (Number.isNaN(to) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      here = Math.min(Math.max(to, 0), groups.length - 1);
      draw(true);
      groups[here].span.scrollIntoView({ block: "nearest" });
    });
    const pick = (event) => {
      const found = groups.findIndex((group) => group.span === event.target);
      if (found < 0) return;
      here = found;
      draw(true);
    };
    element.addEventListener("pointerover", pick);
    element.addEventListener("click", pick);
    // The example is itself again when the pointer leaves it.
    element.addEventListener("pointerleave", () => {
      if (document.activeElement === element) return;
      here = own;
      draw(false);
    });
    shown.push(() => draw(document.activeElement === element));
    draw(false);
  }

  for (const item of document.querySelectorAll(".examples > li")) prepare(item);
  for (const choice of document.querySelectorAll("input[name=shade]")) {
    choice.addEventListener("change", () => {
      weighted = choice.value === "weighted" && choice.checked;
      shown.forEach((draw) => draw());
    });
  }
  const names = main.dataset.names.split(" ");
  keys(() => `${names[Math.floor(Math.random() * names.length)]}.html`);
})();
