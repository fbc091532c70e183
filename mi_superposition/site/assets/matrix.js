"use strict";
// A matrix that zooms from the whole to single cells. Tiles are images, values are scripts loaded where the pointer is:
// both work on a page opened from disk.
(() => {
  const values = new Map();
  const TILE_LIMIT = 400;

  // Called by the value files.
  globalThis.matrixValues = async (key, packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    values.set(key, new Int8Array(await new Response(stream).arrayBuffer()));
    document.dispatchEvent(new CustomEvent("matrix-values", { detail: key }));
  };

  class Viewer {
    constructor(root) {
      this.root = root;
      this.record = JSON.parse(document.getElementById(root.dataset.matrix).textContent);
      this.canvas = root.querySelector("canvas");
      this.readout = root.querySelector(".matrix-readout");
      this.view = this.record.views[0];
      this.tiles = new Map();
      this.pointers = new Map();
      this.cell = null;
      this.spot = -1;
      // The place of each neuron in each view, to find a cell's value in the view that holds it.
      for (const view of this.record.views) {
        view.place = new Map(view.order.map((neuron, place) => [neuron, place]));
      }
      this.levels = Math.max(0, Math.ceil(Math.log2(this.record.size / this.record.tile)));
      this.addControls();
      this.listen();
      new ResizeObserver(() => this.resize()).observe(this.canvas);
      this.resize();
      this.followAddress();
      addEventListener("hashchange", () => this.followAddress());
    }

    // --- what is on the screen: cells x .. x + width / scale, y likewise; scale in CSS pixels per cell ---

    get smallest() {
      return Math.min(this.width, this.height) / this.record.size;
    }

    resize() {
      const box = this.canvas.getBoundingClientRect();
      if (!box.width) return;
      const wasWhole = this.scale === undefined || this.scale <= this.smallest * 1.001;
      [this.width, this.height] = [box.width, box.height];
      this.ratio = devicePixelRatio || 1;
      this.canvas.width = Math.round(box.width * this.ratio);
      this.canvas.height = Math.round(box.height * this.ratio);
      if (wasWhole) this.showAll();
      else this.moveTo(this.x, this.y, this.scale);
    }

    showAll() {
      this.moveTo(0, 0, this.smallest);
    }

    moveTo(x, y, scale) {
      const { size } = this.record;
      this.scale = Math.min(Math.max(scale, this.smallest), 64);
      const wide = this.width / this.scale;
      const high = this.height / this.scale;
      const clamp = (value, span) => (span >= size ? (size - span) / 2 : Math.min(Math.max(value, 0), size - span));
      this.x = clamp(x, wide);
      this.y = clamp(y, high);
      this.redraw();
    }

    zoom(factor, left = this.width / 2, top = this.height / 2) {
      const before = this.scale;
      const scale = Math.min(Math.max(before * factor, this.smallest), 64);
      this.moveTo(this.x + left / before - left / scale, this.y + top / before - top / scale, scale);
    }

    pan(right, down) {
      this.moveTo(this.x + right / this.scale, this.y + down / this.scale, this.scale);
    }

    alongDiagonal(by) {
      const middle = (this.x + this.width / this.scale / 2 + this.y + this.height / this.scale / 2) / 2;
      const step = (by * Math.min(this.width, this.height)) / this.scale / 2;
      this.centre(middle + step, this.scale);
    }

    centre(place, scale) {
      this.moveTo(place - this.width / scale / 2, place - this.height / scale / 2, scale);
    }

    showStretch(start, length) {
      this.centre(start + length / 2, Math.min(this.width, this.height) / (length * 3));
    }

    // --- drawing ---

    redraw() {
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = 0;
        this.draw();
      });
    }

    draw() {
      const context = this.canvas.getContext("2d");
      const { tile, size } = this.record;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      const pixels = this.scale * this.ratio;
      const level = Math.min(Math.max(Math.floor(Math.log2(1 / pixels) + 0.5), 0), this.levels);
      const cells = tile * 2 ** level;
      const last = Math.ceil(size / cells) - 1;
      const from = (start) => Math.max(Math.floor(start / cells), 0);
      const to = (start, span) => Math.min(Math.floor((start + span / this.scale) / cells), last);
      context.imageSmoothingEnabled = pixels < 1;
      // The coarsest level first, so that there is something to see while finer tiles come in.
      const drawLevel = (shown, span, rows, columns) => {
        for (let row = rows[0]; row <= rows[1]; row++) {
          for (let column = columns[0]; column <= columns[1]; column++) this.drawTile(context, shown, row, column, span);
        }
      };
      if (level < this.levels) drawLevel(this.levels, tile * 2 ** this.levels, [0, 0], [0, 0]);
      drawLevel(level, cells, [from(this.y), to(this.y, this.height)], [from(this.x), to(this.x, this.width)]);
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      this.drawMarks(context);
      Object.assign(this.canvas.dataset, { level, view: this.view.key, scale: this.scale.toFixed(4) });
    }

    drawTile(context, level, row, column, cells) {
      // Only tiles on and above the diagonal exist; the others are those, mirrored.
      const mirrored = row > column;
      const image = this.tile(level, mirrored ? column : row, mirrored ? row : column);
      if (!image) return;
      const pixels = this.scale * this.ratio;
      const step = pixels * 2 ** level;
      const left = (column * cells - this.x) * pixels;
      const top = (row * cells - this.y) * pixels;
      if (mirrored) context.setTransform(0, step, step, 0, left, top);
      else context.setTransform(step, 0, 0, step, left, top);
      context.drawImage(image, 0, 0);
    }

    tile(level, row, column) {
      const address = `matrix/${this.record.id}/${this.view.key}/${level}/${row}-${column}.png`;
      let image = this.tiles.get(address);
      if (image) {
        this.tiles.delete(address);
      } else {
        image = new Image();
        image.onload = () => this.redraw();
        image.src = address;
      }
      // Kept in the order of use; the one unused for longest goes first.
      this.tiles.set(address, image);
      if (this.tiles.size > TILE_LIMIT) this.tiles.delete(this.tiles.keys().next().value);
      return image.complete && image.naturalWidth ? image : null;
    }

    drawMarks(context) {
      const accent = getComputedStyle(this.root).getPropertyValue("--mark").trim();
      context.strokeStyle = accent;
      context.lineWidth = 1.5;
      if (this.view === this.record.views[0]) {
        for (const [start, length] of this.record.spots) this.outline(context, start, start, length, 3);
      }
      if (this.cell) this.outline(context, this.cell.column, this.cell.row, 1, 5);
    }

    outline(context, column, row, length, least) {
      const side = Math.max(length * this.scale, least);
      const shift = (side - length * this.scale) / 2;
      context.strokeRect((column - this.x) * this.scale - shift, (row - this.y) * this.scale - shift, side, side);
    }

    // --- what is under the pointer ---

    cellAt(left, top) {
      const column = Math.floor(this.x + left / this.scale);
      const row = Math.floor(this.y + top / this.scale);
      const inside = (place) => place >= 0 && place < this.record.size;
      return inside(row) && inside(column) ? { row, column } : null;
    }

    point(cell) {
      this.cell = cell;
      this.redraw();
      this.describe();
    }

    describe() {
      if (!this.cell) return;
      const [a, b] = [this.view.order[this.cell.row], this.view.order[this.cell.column]];
      const value = this.value(a, b);
      const shown = value === undefined ? "…" : value.toFixed(2).replace("-", "−");
      this.readout.replaceChildren(
        "Neurons ", this.name(a), " and ", this.name(b), `: ${this.record.what} ${shown}`,
        ` (positions ${this.cell.row} and ${this.cell.column} in the order)`,
      );
    }

    name(neuron) {
      const address = this.record.pages[neuron];
      if (!address) return `${neuron}`;
      return Object.assign(document.createElement("a"), { href: address, textContent: `${neuron}` });
    }

    value(a, b) {
      const { record } = this;
      const holder = record.views.find((view) => view.key === (this.view.valuesOf ?? this.view.key));
      let [row, column] = [holder.place.get(a), holder.place.get(b)];
      if (row > column) [row, column] = [column, row];
      const { tile, size } = record;
      const [down, right] = [Math.floor(row / tile), Math.floor(column / tile)];
      const key = `${record.id}/${holder.key}/${down}-${right}`;
      if (!values.has(key)) {
        values.set(key, null);
        const script = document.createElement("script");
        script.src = `matrix/${record.id}/${holder.key}/values/${down}-${right}.js`;
        document.head.append(script);
      }
      const tileValues = values.get(key);
      if (!tileValues) return undefined;
      const width = Math.min(tile, size - right * tile);
      return tileValues[(row - down * tile) * width + (column - right * tile)] / 127;
    }

    // The row's page, or else the column's; browsers allow one window a click. The line below links both.
    openPage() {
      if (!this.cell) return;
      const neurons = [this.view.order[this.cell.row], this.view.order[this.cell.column]];
      const neuron = neurons.find((candidate) => this.record.pages[candidate]);
      if (neuron !== undefined) open(this.record.pages[neuron], `neuron-${neuron}`);
    }

    // --- controls ---

    addControls() {
      const button = (parent, label, text, act) => {
        const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
        if (label !== text) made.setAttribute("aria-label", label);
        made.title = label;
        made.addEventListener("click", act);
        parent.append(made);
        return made;
      };
      const views = this.root.querySelector(".matrix-views");
      this.viewButtons = this.record.views.map((view) => button(views, view.label, view.label, () => this.show(view)));
      const controls = this.root.querySelector(".matrix-controls");
      button(controls, "Zoom in", "+", () => this.zoom(2));
      button(controls, "Zoom out", "−", () => this.zoom(0.5));
      button(controls, "Show the whole matrix", "All", () => this.showAll());
      button(controls, "Back along the diagonal", "↖", () => this.alongDiagonal(-1));
      button(controls, "Forward along the diagonal", "↘", () => this.alongDiagonal(1));
      if (this.record.spots.length) button(controls, "Next spot", "Next spot", () => this.nextSpot());
      this.show(this.view);
    }

    nextSpot() {
      this.spot = (this.spot + 1) % this.record.spots.length;
      this.show(this.record.views[0]);
      this.showStretch(...this.record.spots[this.spot]);
    }

    show(view) {
      this.view = view;
      this.viewButtons.forEach((made, index) => made.setAttribute("aria-pressed", this.record.views[index] === view));
      if (this.scale !== undefined) this.redraw();
      this.describe();
    }

    // An address such as #similarity=120,8 shows the stretch of 8 places from place 120 on.
    followAddress() {
      const [id, at] = location.hash.slice(1).split("=");
      if (id !== this.record.id || !at) return;
      const [start, length] = at.split(",").map(Number);
      if (!(start >= 0 && length > 0)) return;
      this.show(this.record.views[0]);
      this.showStretch(start, length);
      this.root.scrollIntoView();
    }

    moveCell(down, right) {
      const { size } = this.record;
      const keep = (place) => Math.min(Math.max(place, 0), size - 1);
      const start = this.cell ?? {
        row: Math.floor(this.y + this.height / this.scale / 2),
        column: Math.floor(this.x + this.width / this.scale / 2),
      };
      const cell = { row: keep(start.row + down), column: keep(start.column + right) };
      // The page moves only when the cell would leave the screen.
      const left = (cell.column + 0.5 - this.x) * this.scale;
      const top = (cell.row + 0.5 - this.y) * this.scale;
      const over = (at, span) => (at < 0 ? at - span / 4 : at > span ? at - (span * 3) / 4 : 0);
      this.pan(over(left, this.width), over(top, this.height));
      this.point(cell);
    }

    listen() {
      const { canvas } = this;
      const keys = {
        "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5),
        Home: () => this.showAll(), ",": () => this.alongDiagonal(-1), ".": () => this.alongDiagonal(1),
        ArrowLeft: () => this.moveCell(0, -1), ArrowRight: () => this.moveCell(0, 1),
        ArrowUp: () => this.moveCell(-1, 0), ArrowDown: () => this.moveCell(1, 0), Enter: () => this.openPage(),
      };
      canvas.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
      });
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
      }, { passive: false });
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        canvas.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
        this.moved = this.pointers.size > 1;
      });
      canvas.addEventListener("pointermove", (event) => this.pointerMoved(event));
      canvas.addEventListener("pointerup", (event) => {
        if (!this.moved && this.pointers.has(event.pointerId)) {
          this.point(this.cellAt(event.offsetX, event.offsetY));
          // A finger cannot hover: its first tap only tells, the links in the line below open the pages.
          if (event.pointerType === "mouse") this.openPage();
        }
        this.pointers.delete(event.pointerId);
      });
      canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
      document.addEventListener("matrix-values", () => this.describe());
    }

    pointerMoved(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType === "mouse") this.point(this.cellAt(event.offsetX, event.offsetY));
        return;
      }
      const now = { x: event.offsetX, y: event.offsetY };
      if (this.pointers.size === 2) {
        const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
        const apart = (a, b) => Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1);
        this.zoom(apart(now, other) / apart(before, other), (now.x + other.x) / 2, (now.y + other.y) / 2);
        this.pan((before.x - now.x) / 2, (before.y - now.y) / 2);
      } else {
        if (Math.hypot(now.x - before.x, now.y - before.y) < 3 && !this.moved) return;
        this.moved = true;
        this.pan(before.x - now.x, before.y - now.y);
      }
      this.pointers.set(event.pointerId, now);
    }
  }

  for (const root of document.querySelectorAll(".matrix")) root.viewer = new Viewer(root);
})();
