"use strict";
// The table of a layer's units: sorted by a heading, filtered by a token or a number, a few hundred rows at a time.
(() => {
  const table = document.getElementById("units");
  const { word, slug, columns, tokens, names: labels } = JSON.parse(document.getElementById(table.dataset.data).textContent);
  const names = Object.keys(columns);
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const STEP = 200;
  // What a filter is compared with, prepared once.
  const words = tokens.map((list) => list.join("\n").toLowerCase());
  let sorted = { name: word, down: false };
  let limit = STEP;
  // What a unit goes by, where that is not its number.
  const label = (unit) => labels?.[unit] ?? String(unit);

  // As many decimals as make the largest number of a column four digits long.
  const decimals = Object.fromEntries(
    names.map((name) => {
      const largest = columns[name].reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
      return [name, largest > 0 ? Math.min(Math.max(2 - Math.floor(Math.log10(largest)), 0), 8) : 0];
    }),
  );

  const compare = {
    number: (name) => (a, b) => (columns[name][a] ?? -Infinity) - (columns[name][b] ?? -Infinity) || a - b,
    unit: () => (a, b) => a - b,
    token: () => (a, b) => (words[a] < words[b] ? -1 : words[a] > words[b] ? 1 : a - b),
  };

  function order() {
    const wanted = filter.value.trim().toLowerCase();
    const rows = [...tokens.keys()].filter((unit) => !wanted || words[unit].includes(wanted) || label(unit).toLowerCase() === wanted);
    const kind = sorted.name === word ? "unit" : sorted.name === "tokens" ? "token" : "number";
    rows.sort(compare[kind](sorted.name));
    return sorted.down ? rows.reverse() : rows;
  }

  function draw() {
    const rows = order();
    const body = document.createDocumentFragment();
    for (const unit of rows.slice(0, limit)) {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      const link = document.createElement("a");
      head.scope = "row";
      link.href = `${slug}${label(unit)}.html`;
      link.textContent = label(unit);
      head.append(link);
      row.append(head);
      for (const name of names) {
        const cell = document.createElement("td");
        cell.textContent = columns[name][unit]?.toFixed(decimals[name]) ?? "–";
        row.append(cell);
      }
      const cell = document.createElement("td");
      cell.className = "words";
      for (const token of tokens[unit].slice(0, 5)) {
        const code = document.createElement("code");
        code.textContent = token.replaceAll(" ", "·");
        cell.append(code, " ");
      }
      row.append(cell);
      body.append(row);
    }
    table.tBodies[0].replaceChildren(body);
    shown.textContent = `${rows.length.toLocaleString("en")} of ${tokens.length.toLocaleString("en")}`;
    more.hidden = rows.length <= limit;
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
