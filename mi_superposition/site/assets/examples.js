"use strict";
// Examples on a unit's page: a span a token (or a character that is made of several), shaded by activation, its value where the
// pointer or the arrow keys are, and the whole document on demand.
window.examples = (() => {
  const { valuesOf, loader } = window.packing;
  const readout = document.getElementById("readout");
  // Documents in a file.
  const together = Number(document.getElementById("main").dataset.documents);
  let low, high, reach, decimals;

  // The range in which activations are kept.
  function between(smallest, largest) {
    [low, high] = [smallest, largest];
    reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
    // As many decimals as tell the steps apart in which activations are kept.
    decimals = Math.max(3, 3 - Math.floor(Math.log10(reach)));
  }

  // Document, place of the example, place of the first token shown, place of the first activation kept.
  function whereabouts(item) {
    const [number, peak, first, kept] = item.dataset.at.split(" ");
    return { number, peak: Number(peak), first: Number(first), kept: Number(kept) };
  }

  // Activations by place in the document; places the model did not see together with the example are absent.
  function activationsOf(item) {
    const { kept } = whereabouts(item);
    const values = valuesOf(item.dataset.a, low, high).map((value, at) => [kept + at, value]);
    return new Map(values.filter(([, value]) => value !== undefined));
  }

  function show(span) {
    const value = span.dataset.value;
    const [first, last] = [Number(span.dataset.place) + 1, Number(span.dataset.end)];
    const where = `${last > first ? `tokens ${first} to ${last}` : `token ${first}`} of document ${whereabouts(span.closest("li")).number}`;
    readout.textContent = `“${span.textContent}” ${value === undefined ? "activation not stored" : value} · ${where}`;
    document.querySelector(".here")?.classList.remove("here");
    span.classList.add("here");
  }

  function fill(element, tokens, first, item) {
    const values = activationsOf(item);
    const { peak } = whereabouts(item);
    const spans = [];
    let marked = 0;
    for (let index = 0; index < tokens.length; ) {
      const span = document.createElement("span");
      const place = first + index;
      span.textContent = tokens[index];
      // A token without a text belongs to the character before it.
      do index += 1;
      while (index < tokens.length && tokens[index] === "");
      const end = first + index;
      const kept = [];
      for (let at = place; at < end; at += 1) if (values.has(at)) kept.push(values.get(at));
      span.dataset.place = place;
      span.dataset.end = end;
      if (kept.length) {
        span.dataset.value = kept.map((value) => value.toFixed(decimals)).join(", ");
        const value = kept.reduce((most, other) => (Math.abs(other) > Math.abs(most) ? other : most));
        const depth = Math.min(Math.abs(value) / reach, 1);
        if (depth > 0.02) span.style.backgroundColor = `rgb(var(--${value > 0 ? "fires" : "falls"}) / ${(0.62 * depth).toFixed(3)})`;
      }
      if (place <= peak && peak < end) {
        span.className = "peak";
        marked = spans.length;
      }
      spans.push(span);
    }
    element.replaceChildren(...spans);
    return marked;
  }

  const fileAt = loader("neuronDocuments");

  async function wholeDocument(number) {
    const address = `documents/${Math.floor(Number(number) / together)}.js`;
    const tokens = (await fileAt(address))[number];
    if (!tokens) throw new Error(`${address} is damaged`);
    return tokens;
  }

  // An item of a list of examples, whose tokens are `part`.
  function prepare(item, part) {
    const text = item.querySelector(".text");
    const { number, first } = whereabouts(item);
    let here = fill(text, part, first, item);
    text.tabIndex = 0;
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `${item.querySelector("b").textContent} at “${text.children[here]?.textContent.trim()}”. Arrow keys read the tokens. ${text.textContent}`);
    text.addEventListener("focus", () => text.children[here] && show(text.children[here]));
    text.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      here = Math.min(Math.max(here + step, 0), text.children.length - 1);
      show(text.children[here]);
      text.children[here].scrollIntoView({ block: "nearest" });
    });
    text.addEventListener("pointerover", (event) => event.target !== text && show(event.target));
    text.addEventListener("click", (event) => {
      if (event.target === text) return;
      here = [...text.children].indexOf(event.target);
      show(event.target);
    });
    const button = document.createElement("button");
    button.type = "button";
    button.className = "whole";
    button.textContent = "whole document";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", async () => {
      const open = button.getAttribute("aria-expanded") === "true";
      try {
        const tokens = open ? part : await wholeDocument(number);
        here = fill(text, tokens, open ? first : 0, item);
        button.setAttribute("aria-expanded", String(!open));
        button.textContent = open ? "whole document" : "short excerpt";
        item.classList.toggle("open", !open);
      } catch (problem) {
        readout.textContent = problem.message;
      }
    });
    item.append(" ", button);
  }

  return { between, prepare };
})();
