"use strict";
// Draws each figure when it comes near the screen, with text in the page's own colour, and again when the
// reader switches between light and dark.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();

  function draw(element) {
    const record = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    record.layout.font = { ...record.layout.font, color: ink };
    const slider = record.layout.sliders?.[0];
    delete record.layout.sliders;
    record.config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.newPlot(element, record);
    if (slider && !drawn.has(element)) addFrameControls(element, slider);
    drawn.add(element);
  }

  // A range input and a button in place of Plotly's slider, which the keyboard cannot move.
  function addFrameControls(element, slider) {
    const names = slider.steps.map((step) => step.label);
    const range = Object.assign(document.createElement("input"), { type: "range", min: 0, max: names.length - 1 });
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Play" });
    const shown = document.createElement("output");
    range.value = slider.active;
    range.setAttribute("aria-label", slider.currentvalue.prefix);
    const show = () => {
      shown.textContent = slider.currentvalue.prefix + names[range.value];
      range.setAttribute("aria-valuetext", names[range.value]);
      Plotly.animate(element, [names[range.value]], { mode: "immediate", frame: { duration: 0, redraw: true } });
    };
    let playing = null;
    const stop = () => {
      clearInterval(playing);
      playing = null;
      button.textContent = "Play";
    };
    range.addEventListener("input", () => { stop(); show(); });
    button.addEventListener("click", () => {
      if (playing) return stop();
      button.textContent = "Stop";
      playing = setInterval(() => {
        range.value = (Number(range.value) + 1) % names.length;
        show();
      }, 500);
    });
    const controls = document.createElement("div");
    controls.className = "frame-controls";
    controls.append(button, range, shown);
    element.closest(".scroll").after(controls);
    shown.textContent = slider.currentvalue.prefix + names[slider.active];
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
