"use strict";
// The table of a layer's units: sorted by a heading, filtered by a token or a number, a few hundred rows at a time.
(() => {
  const table = document.getElementById("units");
  const { word, layers, columns, tokens, words, names: labels } = JSON.parse(document.getElementById(table.dataset.data).textContent);
  const names = Object.keys(columns);
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const STEP = 200;
  // The first row of each layer, and how many there are.
  const firsts = [];
  let nRows = 0;
  for (const [, , , n] of layers) {
    firsts.push(nRows);
    nRows += n;
  }

  // What a row goes by, and where its page is.
  function unitOf(row) {
    let at = layers.length - 1;
    while (firsts[at] > row) at -= 1;
    const [slug, before, after] = layers[at];
    const unit = labels?.[row] ?? row - firsts[at];
    return { name: labels || layers.length === 1 ? String(unit) : `${slug}${unit}`, address: `${before}${unit}${after}` };
  }

  // The rows that go by a name, in small letters, or have its number.
  function named(wanted) {
    if (labels) return new Set(labels.flatMap((label, row) => (label.toLowerCase() === wanted ? [row] : [])));
    const found = layers.map(([slug, , , n], at) => {
      const number = wanted.startsWith(slug.toLowerCase()) ? wanted.slice(slug.length) : wanted;
      return /^\d+$/.test(number) && Number(number) < n ? firsts[at] + Number(number) : -1;
    });
    return new Set(found.filter((row) => row >= 0));
  }

  // What a filter is compared with, prepared once: tokens are named once, and rows have their numbers.
  const lower = words.map((token) => token.toLowerCase());
  const text = (row) => tokens[row].map((token) => lower[token]).join("\n");
  let sorted = { name: word, down: false };
  let limit = STEP;

  // As many decimals as give the middle one of a column's sizes three digits: the largest may be a thousand times that.
  const decimals = Object.fromEntries(
    names.map((name) => {
      const sizes = columns[name].map((value) => Math.abs(value ?? 0)).filter((size) => size > 0).sort((a, b) => a - b);
      const middle = sizes[Math.floor(sizes.length / 2)] ?? 1;
      return [name, Math.min(Math.max(2 - Math.floor(Math.log10(middle)), 0), 8)];
    }),
  );
  const written = (value, name) => value?.toFixed(decimals[name]).replace(/^-(?=[0.]*$)/, "") ?? "–";

  // All rows in their order, made anew only where another is asked for.
  function order() {
    const every = [...tokens.keys()];
    const values = columns[sorted.name];
    if (sorted.name === "tokens") {
      const texts = every.map(text);
      every.sort((a, b) => (texts[a] < texts[b] ? -1 : texts[a] > texts[b] ? 1 : a - b));
    } else if (sorted.name !== word) every.sort((a, b) => (values[a] ?? -Infinity) - (values[b] ?? -Infinity) || a - b);
    return sorted.down ? every.reverse() : every;
  }

  function filtered() {
    const wanted = filter.value.trim().toLowerCase();
    if (!wanted) return inOrder;
    const has = Uint8Array.from(lower, (token) => token.includes(wanted));
    const called = named(wanted);
    return inOrder.filter((row) => called.has(row) || tokens[row].some((token) => has[token]));
  }

  let inOrder = order();

  function draw() {
    const found = filtered();
    const body = document.createDocumentFragment();
    for (const unit of found.slice(0, limit)) {
      const { name: called, address } = unitOf(unit);
      const row = document.createElement("tr");
      const head = document.createElement("th");
      const link = document.createElement("a");
      head.scope = "row";
      link.href = address;
      link.textContent = called;
      head.append(link);
      row.append(head);
      for (const name of names) {
        const cell = document.createElement("td");
        cell.textContent = written(columns[name][unit], name);
        row.append(cell);
      }
      const cell = document.createElement("td");
      cell.className = "words";
      for (const token of tokens[unit].slice(0, 5)) {
        const code = document.createElement("code");
        code.textContent = words[token].replaceAll(" ", "·");
        cell.append(code, " ");
      }
      row.append(cell);
      body.append(row);
    }
    table.tBodies[0].replaceChildren(body);
    shown.textContent = `${found.length.toLocaleString("en")} of ${nRows.toLocaleString("en")}`;
    more.hidden = found.length <= limit;
  }

  for (const name of [word, ...names, "tokens"]) {
    const head = document.createElement("th");
    const button = document.createElement("button");
    head.scope = "col";
    if (name === "tokens") head.className = "words";
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      // The first time from the largest down, but names and tokens from the first on.
      const down = sorted.name === name ? !sorted.down : ![word, "tokens"].includes(name);
      sorted = { name, down };
      inOrder = order();
      limit = STEP;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      draw();
    });
    head.append(button);
    table.tHead.rows[0].append(head);
  }
  table.tHead.rows[0].cells[0].setAttribute("aria-sort", "ascending");
  filter.addEventListener("input", () => {
    limit = STEP;
    draw();
  });
  more.addEventListener("click", () => {
    limit += 5 * STEP;
    draw();
  });
  draw();
})();
