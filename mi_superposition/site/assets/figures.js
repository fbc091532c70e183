"use strict";
// Draws each figure when it comes near the screen, with text in the page's own colour, and again when the
// reader switches between light and dark.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  function draw(element) {
    const record = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    const panel = getComputedStyle(document.documentElement).getPropertyValue("--panel").trim();
    record.layout.font = { ...record.layout.font, color: ink };
    for (const slider of record.layout.sliders ?? []) {
      Object.assign(slider, { bgcolor: panel, activebgcolor: panel, font: { size: 10, color: ink } });
    }
    record.config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.newPlot(element, record);
    drawn.add(element);
  }

  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          near.unobserve(entry.target);
          draw(entry.target);
        }
      }
    },
    { rootMargin: "600px" },
  );
  for (const element of document.querySelectorAll(".figure")) near.observe(element);
  dark.addEventListener("change", () => drawn.forEach(draw));
})();
