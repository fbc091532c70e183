"use strict";
// The page of one of a layer's units, which stand many in a file: that whose number the address has behind "#".
(() => {
  const { numbersOf, loader, keys } = window.packing;
  const { between, prepare } = window.examples;
  const main = document.getElementById("main");
  const readout = document.getElementById("readout");
  const { units: nUnits, together, folder, name, hook: own } = main.dataset;
  // Of every hook with pages what its units' addresses begin with.
  const addresses = JSON.parse(document.getElementById("hooks").textContent);
  const siteTitle = document.title.split(" · ").slice(1).join(" · ");
  const parts = document.querySelectorAll("#lists > section");
  let wanted = 0;
  let drawn;

  function made(tag, text = "", className = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function linked(text, address) {
    const link = made("a", text);
    link.href = address;
    return link;
  }

  const fileAt = loader("neuronUnits");

  // A file has its units column by column.
  function unitOf(content, place) {
    return Object.fromEntries(Object.entries(content.units).map(([name, column]) => [name, column[place]]));
  }

  // All examples of a unit as items of lists, in their order.
  function items(unit, content) {
    const texts = numbersOf(unit.text, content.letters).map((number) => content.tokens[number]);
    const [high, low] = unit.activations;
    const activations = [...high].map((letter, at) => letter + low[at]);
    let token = 0;
    let activation = 0;
    return unit.examples.map(([number, peak, first, kept, nTokens, nActivations], at) => {
      const item = made("li");
      item.dataset.at = `${number} ${peak} ${first} ${kept}`;
      item.dataset.a = activations.slice(activation, (activation += nActivations)).join("");
      item.append(made("b", unit.shown[at]), " ", made("span", "", "text"));
      prepare(item, texts.slice(token, (token += nTokens)));
      return item;
    });
  }

  function tokenList([title, tokens, values, counts], content) {
    const list = made("ol", "", "tokens");
    tokens.forEach((token, at) => {
      const item = made("li");
      item.append(made("code", content.tokens[token].replaceAll(" ", "·")), ` ${values[at]}`);
      if (counts.length) item.append(" ", made("small", `${counts[at].toLocaleString("en")} ×`));
      list.append(item);
    });
    return [made("h3", content.titles[title]), list];
  }

  function unitList([title, numbers, values, ofHooks], content) {
    const list = made("ul", "", "units");
    numbers.forEach((number, at) => {
      const item = made("li");
      const [hook, names] = ofHooks.length ? content.hooks[ofHooks[at]] : [own, ""];
      const text = hook === own ? String(number) : `${names}${number}`;
      item.append(Object.hasOwn(addresses, hook) ? linked(text, `${addresses[hook]}${number}`) : text, ` ${values[at]}`);
      list.append(item);
    });
    return [made("h3", content.titles[title]), list];
  }

  function draw(number, unit, content) {
    document.title = `${name} ${number} · ${siteTitle}`;
    document.getElementById("name").textContent = `${name} ${number}`;
    document.getElementById("previous").href = `#${(number + Number(nUnits) - 1) % nUnits}`;
    document.getElementById("next").href = `#${(number + 1) % nUnits}`;
    document.querySelectorAll("#facts span").forEach((fact, at) => (fact.textContent = unit.facts[at]));
    document.getElementById("related").replaceChildren(
      ...unit.related.map(([why, links]) => {
        const item = made("li", `${why} `);
        links.forEach(([text, address], at) => item.append(at ? ", " : "", linked(text, `../${address}`)));
        return item;
      }),
    );
    between(...unit.range.map(Number));
    const all = items(unit, content);
    let first = 0;
    const groups = unit.counts.map((count) => all.slice(first, (first += count)));
    document.getElementById("largest").replaceChildren(...groups[0]);
    const histogram = parts[0].querySelector("svg");
    histogram.setAttribute("viewBox", `0 0 ${unit.bins} 40`);
    histogram.firstElementChild.setAttribute("d", unit.outline);
    const ends = parts[0].querySelectorAll(".ends span");
    [ends[0].textContent, ends[2].textContent] = unit.edges;
    const lists = [...unit.tokenLists.map((list) => tokenList(list, content)), ...unit.unitLists.map((list) => unitList(list, content))];
    document.getElementById("lists").replaceChildren(
      parts[0],
      ...lists.map((list) => {
        const section = made("section");
        section.append(...list);
        return section;
      }),
    );
    const smallest = document.getElementById("smallest");
    smallest.hidden = !groups[1].length;
    smallest.querySelector("ol").replaceChildren(...groups[1]);
    const intervals = document.getElementById("intervals");
    intervals.replaceChildren(
      intervals.firstElementChild,
      ...unit.tenths.flatMap((title, at) => {
        const list = made("ol", "", "examples");
        list.append(...groups[at + 2]);
        return [made("h3", title), list];
      }),
    );
  }

  async function show() {
    const number = /^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : wanted;
    wanted = number;
    main.setAttribute("aria-busy", "true");
    try {
      if (number >= Number(nUnits)) throw new Error(`“${location.hash}”: this layer has 0 to ${nUnits - 1}`);
      const content = await fileAt(`${folder}/${Math.floor(number / together)}.js`);
      // Somebody may have gone on meanwhile.
      if (wanted !== number) return;
      readout.textContent = "";
      draw(number, unitOf(content, number % together), content);
      drawn = number;
    } catch (problem) {
      if (wanted !== number) return;
      readout.textContent = problem.message;
    }
    main.setAttribute("aria-busy", "false");
    // Where the reader was, if this leads back; else the top.
    window.scrollTo(0, history.state?.y ?? 0);
  }

  window.addEventListener("hashchange", async () => {
    if (!/^#\d+$/.test(location.hash)) {
      // "Skip to content": the address goes on naming the unit.
      history.replaceState(history.state, "", `#${wanted}`);
      return;
    }
    await show();
    document.getElementById("name").focus({ preventScroll: true });
  });
  if ("onscrollend" in window) {
    // The browser itself would go there before the unit is drawn.
    history.scrollRestoration = "manual";
    // Of the unit that is shown, not of one that is on its way.
    document.addEventListener("scrollend", () => {
      if (["", `#${drawn}`].includes(location.hash)) history.replaceState({ y: window.scrollY }, "");
    });
  }
  keys(() => `#${Math.floor(Math.random() * nUnits)}`);
  show();
})();
