"use strict";
// Search over all units by token: those that fire on it and those that raise its logit, the strongest first.
(() => {
  const input = document.getElementById("search");
  const found = document.getElementById("found");
  const results = document.getElementById("results");
  const MOST = 100;
  let index = null;

  window.neuronSearch = (content) => {
    index = content;
    search();
  };

  function load() {
    if (index || document.getElementById("search-data")) return;
    const script = document.createElement("script");
    script.id = "search-data";
    script.src = input.dataset.search;
    script.onerror = () => (found.textContent = "the search index is missing");
    document.head.append(script);
  }

  function hits(lists, wanted) {
    const ranked = [];
    lists.forEach((tokens, unit) => {
      const rank = tokens.findIndex((token) => wanted.has(token));
      if (rank >= 0) ranked.push([rank, unit]);
    });
    return ranked.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }

  function section(title, layer, ranked) {
    const part = document.createElement("section");
    const heading = document.createElement("h3");
    const list = document.createElement("ul");
    heading.textContent = `${layer.name}: ${title} (${ranked.length.toLocaleString("en")})`;
    list.className = "units";
    for (const [rank, unit] of ranked.slice(0, MOST)) {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `${input.dataset.folder}${layer.address[0]}${unit}${layer.address[1]}`;
      link.textContent = unit;
      item.append(link, ` #${rank + 1}`);
      list.append(item);
    }
    if (ranked.length > MOST) list.append(Object.assign(document.createElement("li"), { textContent: "…" }));
    part.append(heading, list);
    return part;
  }

  function search() {
    if (!index) return load();
    // Written with or without the space before it, in small letters or capitals; a part of a token only where none is whole.
    const plain = (token) => token.replaceAll("·", " ").trim().toLowerCase();
    const query = plain(input.value);
    results.replaceChildren();
    found.textContent = "";
    if (!query) return undefined;
    let wanted = index.tokens.map((token, number) => [token, number]).filter(([token]) => plain(token) === query);
    if (!wanted.length) wanted = index.tokens.map((token, number) => [token, number]).filter(([token]) => plain(token).includes(query));
    const numbers = new Set(wanted.map(([, number]) => number));
    let total = 0;
    for (const layer of index.layers) {
      for (const [title, lists] of [["fires on this token", layer.fires], ["raises the logit of this token", layer.raises]]) {
        const ranked = hits(lists, numbers);
        total += ranked.length;
        if (ranked.length) results.append(section(title, layer, ranked));
      }
    }
    const names = wanted.slice(0, 5).map(([token]) => `“${token.replaceAll(" ", "·")}”`).join(", ");
    found.textContent = total ? `${names}${wanted.length > 5 ? ", …" : ""}` : "no unit has this token among its strongest ones";
    return undefined;
  }

  input.addEventListener("focus", load);
  input.addEventListener("input", search);
  // "#search" alone asks for the field, "#search=TOKEN" for what it would find.
  if (location.hash.startsWith("#search=")) {
    input.value = decodeURIComponent(location.hash.slice("#search=".length));
    search();
  }
  if (location.hash.startsWith("#search")) input.focus();
})();
