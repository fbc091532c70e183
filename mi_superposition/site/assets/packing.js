"use strict";
// What the pages of neurons and of heads share: lists of numbers and tokens that are kept as letters, packed data, and keys that lead
// to other pages.
window.packing = (() => {
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const CODE = Object.fromEntries([...ALPHABET].map((letter, index) => [letter, index]));
  const UNKNOWN = 64 * 64 - 1;

  function lengths(packed) {
    const found = [];
    for (let at = 0; at < packed.length; at += 1) {
      if (packed[at] !== "~") found.push(CODE[packed[at]]);
      else {
        found.push(64 * CODE[packed[at + 1]] + CODE[packed[at + 2]]);
        at += 2;
      }
    }
    return found;
  }

  // A text cut into its tokens.
  function tokensOf(text, packed) {
    const characters = [...text];
    let at = 0;
    return lengths(packed).map((length) => characters.slice(at, (at += length)).join(""));
  }

  // Numbers between the two; undefined where they are not known.
  function valuesOf(packed, low, high) {
    const values = [];
    for (let at = 0; at < packed.length; at += 2) {
      const step = 64 * CODE[packed[at]] + CODE[packed[at + 1]];
      values.push(step === UNKNOWN ? undefined : low + (step / (UNKNOWN - 1)) * (high - low));
    }
    return values;
  }

  // Whole numbers of so many letters each.
  function numbersOf(packed, letters) {
    const numbers = [];
    for (let at = 0; at < packed.length; at += letters) {
      let number = 0;
      for (let next = at; next < at + letters; next += 1) number = 64 * number + CODE[packed[next]];
      numbers.push(number);
    }
    return numbers;
  }

  // What `packed_script` in site/packing.py has packed.
  async function unpacked(letters) {
    const content = atob(letters);
    const bytes = new Uint8Array(content.length);
    for (let at = 0; at < content.length; at += 1) bytes[at] = content.charCodeAt(at);
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(inflated).json();
  }

  // Of files that call `window[name]` with what they hold, as it is or packed: gives it by the file's address, loaded once by a script
  // element, as a page opened from disk may not fetch data.
  function loader(name) {
    const files = new Map();
    window[name] = (content) => document.currentScript.dispatchEvent(new CustomEvent("content", { detail: content }));
    return (address) => {
      if (!files.has(address)) {
        const loaded = new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = address;
          let called = false;
          script.addEventListener("content", ({ detail }) => {
            called = true;
            const damaged = () => reject(new Error(`${address} is damaged`));
            if (typeof detail !== "string") resolve(detail);
            else if ("DecompressionStream" in window) unpacked(detail).then(resolve, damaged);
            else reject(new Error("this browser cannot inflate data: take one of 2023 or later"));
          });
          script.onerror = () => reject(new Error(`${address} is missing`));
          // After its content, which says what is wrong with it itself.
          script.onload = () => called || reject(new Error(`${address} is damaged`));
          document.head.append(script);
        });
        // What is missing may be there the next time.
        loaded.catch(() => files.delete(address));
        files.set(address, loaded);
      }
      return files.get(address);
    };
  }

  // Keys and links to the page before and after, to a random one and to the search.
  function keys(randomAddress) {
    document.getElementById("random").addEventListener("click", (event) => {
      event.preventDefault();
      location.href = randomAddress();
    });
    const links = { p: "previous", n: "next", r: "random", "/": "search" };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !links[event.key] || event.target.closest("input, select")) return;
      event.preventDefault();
      document.getElementById(links[event.key]).click();
    });
  }

  return { tokensOf, valuesOf, numbersOf, loader, keys };
})();
