"use strict";
// Search over the whole site: pages, figures and tables by their words; neurons by their name, or by a token.
(() => {
  const input = document.getElementById("find");
  const found = document.getElementById("found");
  const list = document.getElementById("entries");
  const MOST = 40;
  const files = input.dataset.entries.split(" ").filter(Boolean);
  const version = input.dataset.version;
  const entries = new Map();
  const folder = input.dataset.units;
  let asked = false;
  let units = null;

  // Every section's entries come as a script of their own, in whatever order they load.
  window.siteSearch = (some) => {
    entries.set(document.currentScript.dataset.file, some);
    search();
  };

  window.neuronSearch = (content) => {
    units = content;
    search();
  };

  function load() {
    if (asked) return;
    asked = true;
    for (const file of folder ? [...files, `${folder}search.js`] : files) {
      const script = document.createElement("script");
      script.src = `${file}?${version}`;
      script.dataset.file = file;
      // What is missing is not found; the rest is.
      script.onerror = () => {
        entries.set(file, []);
        search();
      };
      document.head.append(script);
    }
  }

  function row(address, title, where) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = address;
    link.textContent = title;
    item.append(link, where);
    return item;
  }

  function unitRows(query) {
    if (!units) return [];
    const name = query.replaceAll(" ", "").toLowerCase();
    for (const layer of units.layers) {
      const number = name.startsWith(layer.slug.toLowerCase()) ? name.slice(layer.slug.length) : "";
      if (/^\d+$/.test(number) && Number(number) < layer.fires.length) {
        return [row(`${folder}${layer.slug}${Number(number)}.html`, `${layer.name}, ${Number(number)}`, " · page")];
      }
    }
    if (!units.tokens.some((token) => token.toLowerCase().includes(query.toLowerCase()))) return [];
    return [row(`${folder}index.html#search=${encodeURIComponent(query)}`, `Neurons and “${query}”`, " · units that fire on this token or raise its logit")];
  }

  function search() {
    load();
    // Pages show a space within a token as a dot.
    const query = input.value.replaceAll("·", " ").trim();
    list.replaceChildren();
    found.textContent = "";
    if (!query || files.some((file) => !entries.has(file))) return;
    const words = query.toLowerCase().split(/\s+/);
    const hits = [];
    // In the order of the files, which is that of the site.
    for (const file of files) {
      for (const [address, title, where, text] of entries.get(file)) {
        const inTitle = title.toLowerCase();
        const everywhere = `${inTitle} ${where} ${text}`.toLowerCase();
        if (words.every((word) => everywhere.includes(word))) {
          hits.push([words.filter((word) => inTitle.includes(word)).length, address, title, where]);
        }
      }
    }
    hits.sort((a, b) => b[0] - a[0]);
    const rows = unitRows(query);
    rows.push(...hits.slice(0, MOST).map(([, address, title, where]) => row(address, title, where === title ? "" : ` · ${where}`)));
    list.append(...rows);
    const n = rows.length + Math.max(hits.length - MOST, 0);
    found.textContent = `${n} ${n === 1 ? "result" : "results"}${hits.length > MOST ? `, first ${rows.length} shown` : ""}`;
  }

  input.addEventListener("focus", load);
  input.addEventListener("input", search);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target instanceof HTMLInputElement) return;
    event.preventDefault();
    input.focus();
  });
})();
