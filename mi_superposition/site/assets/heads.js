"use strict";
// The overview of heads: a chart whose axes and colour are chosen among the measures; every point is a link.
(() => {
  const svg = document.getElementById("points");
  const { names, layers, axes, measures } = JSON.parse(document.getElementById(svg.dataset.data).textContent);
  const [x, y, colour] = ["x", "y", "colour"].map((id) => document.getElementById(id));
  const controls = ["untrained", "permuted"].map((id) => document.getElementById(id));
  const legend = document.getElementById("legend");
  const meanings = document.getElementById("meanings");
  const readout = document.getElementById("readout");
  const [HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [420, 64, 48, 14, 16];
  // As wide as there is room, so that its words stay as large as they are.
  let WIDTH = 640;
  const layer = { name: "layer", label: "layer", meaning: "The layer of the head.", values: layers, untrained: null, permuted: null };
  const byName = Object.fromEntries([...measures, layer].map((measure) => [measure.name, measure]));

  for (const [select, first] of [[x, axes[0]], [y, axes[1]], [colour, axes[2]]]) {
    for (const measure of [...measures, layer]) {
      const option = document.createElement("option");
      option.value = measure.name;
      option.textContent = measure.label;
      option.selected = measure.name === first;
      select.append(option);
    }
  }

  function element(name, attributes, parent) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  const finite = (values) => (values ?? []).filter((value) => value !== null);

  // Round numbers from below the smallest to above the largest.
  function ticks(values, most) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const found = [];
    for (let n = Math.floor(low / step); n <= Math.ceil(high / step); n += 1) found.push(n * step);
    return { found, step, low: found[0], high: found.at(-1) };
  }

  const decimals = (step) => Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toString());

  function scale(measure) {
    const used = [...finite(measure.values), ...controls.flatMap((box) => (box.checked ? finite(measure[box.id]) : []))];
    return ticks(used.length ? used : [0, 1], WIDTH < 480 ? 4 : 6);
  }

  function draw() {
    WIDTH = Math.max(300, Math.min(736, svg.parentElement.clientWidth));
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    const [across, up, shade] = [x, y, colour].map((select) => byName[select.value]);
    const [horizontal, vertical] = [scale(across), scale(up)];
    const at = (value, { low, high }, from, to) => from + ((value - low) / (high - low)) * (to - from);
    const left = (value) => at(value, horizontal, LEFT, WIDTH - RIGHT);
    const high = (value) => at(value, vertical, HEIGHT - BOTTOM, TOP);
    const shades = finite(shade.values);
    const [least, most] = [Math.min(...shades), Math.max(...shades)];
    const focused = document.activeElement?.closest?.("#points a")?.dataset.name;
    svg.replaceChildren();
    const grid = element("g", { class: "grid", "aria-hidden": "true" }, svg);
    for (const value of horizontal.found) {
      element("line", { x1: left(value), x2: left(value), y1: TOP, y2: HEIGHT - BOTTOM }, grid);
      element("text", { x: left(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, grid).textContent = value.toFixed(decimals(horizontal.step));
    }
    for (const value of vertical.found) {
      element("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: high(value), y2: high(value) }, grid);
      element("text", { x: LEFT - 8, y: high(value) + 4, "text-anchor": "end" }, grid).textContent = value.toFixed(decimals(vertical.step));
    }
    element("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, grid).textContent = across.label;
    const title = element("text", { x: 14, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle" }, grid);
    title.setAttribute("transform", `rotate(-90 14 ${(TOP + HEIGHT - BOTTOM) / 2})`);
    title.textContent = up.label;
    for (const box of controls) {
      const [first, second] = [across[box.id], up[box.id]];
      if (!box.checked || !first || !second) continue;
      const group = element("g", { class: box.id, "aria-hidden": "true" }, svg);
      first.forEach((value, head) => {
        if (value === null || second[head] === null) return;
        const [cx, cy] = [left(value), high(second[head])];
        if (box.id === "untrained") element("circle", { cx, cy, r: 4.5 }, group);
        else element("path", { d: `M${cx - 3.5} ${cy - 3.5}l7 7m0-7l-7 7` }, group);
      });
    }
    names.forEach((name, head) => {
      const [first, second] = [across.values[head], up.values[head]];
      if (first === null || second === null) return;
      const said = `${name}: ${across.label} ${short(first)}, ${up.label} ${short(second)}, ${shade.label} ${short(shade.values[head])}`;
      const link = element("a", { href: `heads/${name}.html`, "aria-label": said, "data-name": name }, svg);
      const share = most > least ? (shade.values[head] - least) / (most - least) : 0.5;
      const point = element("circle", { cx: left(first), cy: high(second), r: 7, class: "head" }, link);
      point.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
      element("title", {}, link).textContent = said;
      for (const event of ["focus", "pointerover"]) link.addEventListener(event, () => (readout.textContent = said));
      if (name === focused) link.focus();
    });
    legend.replaceChildren(`${shade.label}: ${short(least)} `, Object.assign(document.createElement("span"), { className: "ramp" }), ` ${short(most)}`);
    meanings.replaceChildren();
    for (const measure of new Set([across, up, shade])) {
      const missing = measure === layer ? "" : measure.permuted ? ` Permuted: ${measure.permutedIs}.` : " Permuting the attention does not change it.";
      meanings.append(
        Object.assign(document.createElement("dt"), { textContent: measure.label }),
        Object.assign(document.createElement("dd"), { textContent: `${measure.meaning}${missing}` }),
      );
    }
  }

  for (const input of [x, y, colour, ...controls]) input.addEventListener("change", draw);
  window.addEventListener("resize", draw);
  draw();
})();
