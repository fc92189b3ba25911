// Slice viewer: the volumes arrive once, every slice is composed here, and the kernel hears of it only when the user pauses.
// Volumes are stored turned so that x runs to the patient's left, y to the back and z to the feet, x fastest: a slice in
// radiological orientation is then read in memory order, without flips. "Point" is a voxel in that order, "cursor" one in the
// order of the caller's array.

const PLANES = {
  axial: { across: 0, down: 1, through: 2, marks: ["R", "L", "A", "P"] },
  coronal: { across: 0, down: 2, through: 1, marks: ["R", "L", "S", "I"] },
  sagittal: { across: 1, down: 2, through: 0, marks: ["A", "P", "S", "I"] },
};
const KEYS = [
  ["wheel, ↑ ↓", "slice; with Shift five, Page keys ten, Home and End first and last"],
  ["a c s", "axial, coronal, sagittal"],
  ["drag", "crosshair in all panes"],
  ["right- or Shift-drag", "window (across) and level (up)"],
  ["o b", "overlay, outline"],
  ["[ ]", "opacity of the overlay"],
  ["t", "slice with the largest labelled area"],
  ["space", "play and pause"],
  ["r", "reset"],
  ["?", "this list"],
];
const MISSING = 0; // code of a voxel without a number
const BACKGROUND = 1; // code of a background voxel: black, whatever the window
const HALO = 0xb4000000;
const FINE = 640; // pixels along the longer side of the layer that labels are drawn in
const LINE = 2; // of these pixels, the width of an outline and of its halo; less where a voxel has fewer
const TALLEST = 460; // of a pane, in CSS pixels
const SAVE_AFTER = 250; // ms without a change until the kernel is told
const PASSING = 400; // ms for which a page scroll that came from outside keeps passing over the viewer
const NOTCH = 50; // px of one wheel event from which it is a notch and not a trackpad
const TRACKPAD = 24; // px of trackpad movement a slice
const SLICES_PER_SECOND = 15; // when played

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const apply = (matrix, [x, y, z]) => matrix.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
const colourOf = (hex, alpha) => {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  return ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
};

function make(tag, properties = {}, ...children) {
  const { label, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  if (label) element.setAttribute("aria-label", label);
  element.append(...children);
  return element;
}

async function unzip(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decode(model) {
  const scene = model.get("_scene");
  const [volumes, labels] = await Promise.all(
    ["_volumes", "_labels"].map((name) => Promise.all(model.get(name).map(unzip))),
  );
  return { scene, volumes, labels };
}

// One volume or label map as one view draws it: voxels, geometry, and the picture of the current slice.
class Layer {
  constructor(voxels, grid) {
    Object.assign(this, { voxels, grid });
    this.strides = [1, grid.shape[0], grid.shape[0] * grid.shape[1]];
  }

  turn(plane, fineness) {
    const { shape, spacing } = this.grid;
    Object.assign(this, { width: shape[plane.across], height: shape[plane.down], slices: shape[plane.through] });
    const perMm = fineness / Math.max(this.width * spacing[plane.across], this.height * spacing[plane.down]);
    const pixelsFor = (mm) => (fineness ? clamp(Math.round(mm * perMm), 1, 16) : 1);
    this.blockWidth = pixelsFor(spacing[plane.across]);
    this.blockHeight = pixelsFor(spacing[plane.down]);
    this.image = new ImageData(this.width * this.blockWidth, this.height * this.blockHeight);
    this.pixels = new Uint32Array(this.image.data.buffer);
    [this.right, this.below, this.through] = [plane.across, plane.down, plane.through].map((axis) => this.strides[axis]);
  }
}

class Volume extends Layer {
  constructor(codes, grid, { levels }) {
    super(codes, grid);
    this.levels = levels;
    this.greys = new Uint32Array(256);
  }

  setWindow([low, high]) {
    const scale = 255 / Math.max(high - low, 1e-12);
    this.levels.forEach((value, code) => {
      const grey = code === MISSING || code === BACKGROUND ? 0 : clamp(Math.round((value - low) * scale), 0, 255);
      this.greys[code] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
    });
  }

  paint(slice) {
    const { voxels, greys, pixels, width, height, right, below } = this;
    for (let row = 0, pixel = 0; row < height; row++) {
      let voxel = slice * this.through + row * below;
      for (let column = 0; column < width; column++, voxel += right) pixels[pixel++] = greys[voxels[voxel]];
    }
  }

  textAt(point) {
    const code = this.voxels[point[0] + point[1] * this.strides[1] + point[2] * this.strides[2]];
    return code === MISSING ? "NaN" : `≈ ${Number(this.levels[code].toPrecision(3))}`;
  }
}

class LabelMap extends Layer {
  constructor(values, grid, { entries }) {
    super(values, grid);
    this.entries = entries;
    this.fills = new Uint32Array(256);
    this.lines = new Uint32Array(256);
    this.shown = new Uint8Array(256); // the label itself, 0 where it is switched off
    this.used = null; // pixels painted last, as [x, y, width, height]
  }

  setColours({ overlay, hidden, opacity, outline }) {
    this.outline = outline;
    this.shown.fill(0);
    for (const { value, name, colour } of this.entries) {
      if (overlay && !hidden.includes(name)) this.shown[value] = value;
      this.fills[value] = colourOf(colour, opacity);
      this.lines[value] = colourOf(colour, 1);
    }
  }

  paint(slice) {
    if (this.used) this.fill(...this.used, 0);
    const bounds = this.bounds(slice);
    this.used = null;
    if (!bounds) return;
    const [left, right, top, bottom] = bounds;
    for (let row = top; row <= bottom; row++) {
      let voxel = slice * this.through + row * this.below + left * this.right;
      for (let column = left; column <= right; column++, voxel += this.right) {
        const label = this.shown[this.voxels[voxel]];
        if (!label) continue;
        this.block(column, row, this.fills[label]);
        if (this.outline) this.edges(column, row, voxel, label);
      }
    }
    const { blockWidth: wide, blockHeight: high } = this;
    const x = Math.max(left - 1, 0) * wide;
    const y = Math.max(top - 1, 0) * high;
    this.used = [x, y, Math.min(right + 2, this.width) * wide - x, Math.min(bottom + 2, this.height) * high - y];
  }

  bounds(slice) {
    const { voxels, shown, width, height } = this;
    let [left, right, top, bottom] = [width, -1, height, -1];
    for (let row = 0; row < height; row++) {
      let voxel = slice * this.through + row * this.below;
      for (let column = 0; column < width; column++, voxel += this.right) {
        if (!shown[voxels[voxel]]) continue;
        if (column < left) left = column;
        if (column > right) right = column;
        if (row < top) top = row;
        bottom = row;
      }
    }
    return right < 0 ? null : [left, right, top, bottom];
  }

  // The line runs inside the label, the halo outside, so that neither hides a voxel of a neighbouring label.
  edges(column, row, voxel, label) {
    const { blockWidth: wide, blockHeight: high, right, below } = this;
    const x = column * wide;
    const y = row * high;
    const [thick, flat] = [Math.min(LINE, wide), Math.min(LINE, high)];
    const line = this.lines[label];
    const at = (inside, step) => (inside ? this.shown[this.voxels[voxel + step]] : 0);
    const [isLeft, isRight, isTop, isBottom] = [column > 0, column < this.width - 1, row > 0, row < this.height - 1];
    const [west, east, north, south] = [at(isLeft, -right), at(isRight, right), at(isTop, -below), at(isBottom, below)];
    if (west !== label) this.fill(x, y, thick, high, line);
    if (east !== label) this.fill(x + wide - thick, y, thick, high, line);
    if (north !== label) this.fill(x, y, wide, flat, line);
    if (south !== label) this.fill(x, y + high - flat, wide, flat, line);
    if (isLeft && !west) this.fill(x - thick, y, thick, high, HALO);
    if (isRight && !east) this.fill(x + wide, y, thick, high, HALO);
    if (isTop && !north) this.fill(x, y - flat, wide, flat, HALO);
    if (isBottom && !south) this.fill(x, y + high, wide, flat, HALO);
  }

  block(column, row, colour) {
    this.fill(column * this.blockWidth, row * this.blockHeight, this.blockWidth, this.blockHeight, colour);
  }

  fill(x, y, width, height, colour) {
    const { pixels } = this;
    const pitch = this.image.width;
    for (let line = y * pitch + x, end = line + height * pitch; line < end; line += pitch)
      for (let pixel = line; pixel < line + width; pixel++) pixels[pixel] = colour;
  }

  nameAt(point) {
    const value = this.voxels[point[0] + point[1] * this.strides[1] + point[2] * this.strides[2]];
    return value ? this.entries.find((entry) => entry.value === value).name : "";
  }
}

class Pane {
  constructor({ title, name, volume, labels, grid }, volumes, maps) {
    Object.assign(this, { title, index: volume, volume: volumes[volume], map: labels === null ? null : maps[labels], grid });
    this.picture = make("canvas");
    this.overlay = make("canvas", { className: "slice-viewer-labels" });
    this.across = make("div", { className: "slice-viewer-line slice-viewer-across" });
    this.down = make("div", { className: "slice-viewer-line slice-viewer-down" });
    this.frame = make("div", { className: "slice-viewer-frame" }, this.picture, this.overlay, this.across, this.down);
    this.marks = ["left", "right", "top", "bottom"].map((side) => make("i", { className: `slice-viewer-${side}` }));
    this.bar = make("div", { className: "slice-viewer-scale" });
    this.box = make("div", { className: "slice-viewer-pane", label: name }, this.frame, make("b", {}, title), ...this.marks, this.bar);
    this.box.setAttribute("role", "img");
    this.onPicture = this.picture.getContext("2d", { alpha: false });
    this.onOverlay = this.overlay.getContext("2d");
  }

  // Places the pane's grid where it lies in the field of view that all panes share, in mm.
  turn(plane, view) {
    const { shape, spacing, centre } = this.grid;
    const sides = [plane.across, plane.down].map((axis) => [centre[axis], shape[axis] * spacing[axis]]);
    [["left", "width"], ["top", "height"]].forEach(([start, length], side) => {
      const [middle, mm] = sides[side];
      this.frame.style[start] = `${(100 * (middle - mm / 2 - view.start[side])) / view.length[side]}%`;
      this.frame.style[length] = `${(100 * mm) / view.length[side]}%`;
    });
    this.box.style.aspectRatio = `${view.length[0]} / ${view.length[1]}`;
    Object.assign(this.picture, { width: this.volume.width, height: this.volume.height });
    if (this.map) Object.assign(this.overlay, { width: this.map.image.width, height: this.map.image.height });
    this.used = null;
    plane.marks.forEach((letter, side) => (this.marks[side].textContent = letter));
    const mm = [100, 50, 20, 10, 5, 2, 1].find((length) => length <= view.length[0] * 0.4) ?? 1;
    this.bar.style.width = `${(100 * mm) / view.length[0]}%`;
    this.bar.textContent = `${mm} mm`;
  }

  draw(plane, point) {
    const slice = point[plane.through];
    this.inside = slice >= 0 && slice < this.volume.slices;
    this.frame.style.visibility = this.inside ? "" : "hidden";
    if (!this.inside) return;
    this.onPicture.putImageData(this.volume.image, 0, 0);
    if (this.map) {
      if (this.used) this.onOverlay.clearRect(...this.used);
      if (this.map.used) this.onOverlay.putImageData(this.map.image, 0, 0, ...this.map.used);
      this.used = this.map.used;
    }
    this.frame.style.setProperty("--x", `${(100 * (point[plane.across] + 0.5)) / this.volume.width}%`);
    this.frame.style.setProperty("--y", `${(100 * (point[plane.down] + 0.5)) / this.volume.height}%`);
  }
}

class Viewer {
  constructor(model, element, { scene, volumes, labels }) {
    Object.assign(this, { model, scene, frames: 0, stop: new AbortController() });
    model.set("_seen", scene.number); // goes to the kernel with the next change, which is then one of this scene
    const grids = scene.grids;
    this.volumes = scene.volumes.map((entry, index) => new Volume(volumes[index], grids[entry.grid], entry));
    this.maps = scene.labels.map((entry, index) => new LabelMap(labels[index], grids[entry.grid], entry));
    const named = scene.panes.map((pane, number) => ({ ...pane, name: pane.title || `pane ${number + 1}`, grid: grids[pane.grid] }));
    this.panes = named.map((pane) => new Pane(pane, this.volumes, this.maps));
    this.build(element);
    this.watch();
    listenToWheel(this);
    listenToPointers(this);
    listenToKeys(this);
    this.turn();
    this.draw();
    this.root.dataset.ready = "true";
  }

  get plane() {
    return PLANES[this.model.get("plane")];
  }

  get point() {
    const { shape, toScreen } = this.scene.grids[0];
    return apply(toScreen, this.model.get("cursor")).map((value, axis) => clamp(Math.round(value), 0, shape[axis] - 1));
  }

  // Slices are counted as the figures count them: from the left, the back and the feet.
  get slice() {
    return this.scene.last[this.plane.through] - this.point[this.plane.through];
  }

  build(element) {
    const { signal } = this.stop;
    const button = (text, title, onclick) => make("button", { type: "button", title, onclick, label: title }, text);
    const slider = (label, properties, oninput) => make("input", { type: "range", label, title: label, oninput, ...properties });
    this.planes = Object.keys(PLANES).map((name) => button(name, `${name} slices, key ${name[0]}`, () => this.set({ plane: name })));
    this.slider = slider("slice", { className: "slice-viewer-slice" }, () => this.go(Number(this.slider.value)));
    this.playing = button("▶", "play or pause, space bar", () => this.play());
    this.largest = button("largest", "slice with the largest labelled area, key t", () => this.goToLargest());
    this.opacity = slider("opacity of the overlay", { min: 0, max: 1, step: 0.05 }, () => this.set({ opacity: Number(this.opacity.value) }));
    this.outline = button("outline", "outline of the labels, key b", () => this.toggle("outline"));
    this.overlay = button("overlay", "overlay of the labels, key o", () => this.toggle("overlay"));
    this.help = make("dl", { className: "slice-viewer-help", hidden: true });
    for (const [keys, meaning] of KEYS) this.help.append(make("dt", {}, keys), make("dd", {}, meaning));
    const extra = [button("reset", "reset, key r", () => this.reset()), button("?", "keys and mouse, key ?", () => (this.help.hidden = !this.help.hidden))];
    const names = new Map(this.maps.flatMap((map) => map.entries).map((entry) => [entry.name, entry.colour]));
    this.legend = [...names].map(([name, colour]) => this.legendEntry(name, colour));
    const bar = [...this.planes, this.playing, this.slider];
    if (this.maps.length) bar.push(this.largest, this.overlay, this.opacity, this.outline);
    this.bar = make("div", { className: "slice-viewer-bar" }, ...bar, ...extra);
    this.bar.setAttribute("role", "toolbar");
    this.grid = make("div", { className: "slice-viewer-grid" }, ...this.panes.map((pane) => pane.box));
    this.readout = make("div", { className: "slice-viewer-readout" });
    this.spoken = make("div", { className: "slice-viewer-spoken" });
    this.spoken.setAttribute("aria-live", "polite");
    const legend = make("div", { className: "slice-viewer-legend" }, ...this.legend);
    const parts = [this.bar, this.help, this.grid, ...(this.legend.length ? [legend] : []), this.readout, this.spoken];
    this.root = make("div", { className: "slice-viewer", tabIndex: 0, label: this.scene.title || "slice viewer" }, ...parts);
    this.root.setAttribute("role", "group");
    this.root.viewer = this;
    // JupyterLab looks for the attribute before it takes a key. Those with Ctrl or Cmd, such as to save, are left to it.
    const others = (event) => (event.ctrlKey || event.metaKey) && !event.altKey;
    const suppress = (event) => this.root.toggleAttribute("data-lm-suppress-shortcuts", !others(event));
    window.addEventListener("keydown", suppress, { capture: true, signal });
    this.root.addEventListener("keydown", (event) => others(event) || event.stopPropagation(), { signal });
    element.replaceChildren(this.root);
  }

  legendEntry(name, colour) {
    const title = `${name}: show or hide`;
    const swatch = make("span", { className: "slice-viewer-swatch" });
    swatch.style.background = colour;
    const onclick = () => {
      const hidden = this.model.get("hidden");
      this.set({ hidden: hidden.includes(name) ? hidden.filter((other) => other !== name) : [...hidden, name] });
    };
    const entry = make("button", { type: "button", title, onclick, label: title }, swatch, name);
    entry.dataset.name = name;
    return entry;
  }

  watch() {
    const redraw = () => this.schedule();
    const turn = () => {
      this.stale = true;
      this.schedule();
    };
    const recolour = () => {
      this.colours = null;
      this.schedule();
    };
    const events = { "change:plane": turn, "change:cursor": redraw, "change:_values": redraw };
    for (const name of ["opacity", "outline", "overlay", "hidden", "windows"]) events[`change:${name}`] = recolour;
    for (const [event, callback] of Object.entries(events)) this.model.on(event, callback);
    this.forget = () => Object.entries(events).forEach(([event, callback]) => this.model.off(event, callback));
  }

  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.model.set(name, value);
    this.schedule();
    clearTimeout(this.saving);
    this.saving = setTimeout(() => {
      this.saving = 0;
      this.model.save_changes();
      this.spoken.textContent = this.readout.textContent;
    }, SAVE_AFTER);
  }

  schedule() {
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.draw();
    });
  }

  cursorAt(point) {
    const { shape, toCursor } = this.scene.grids[0];
    const inside = point.map((value, axis) => clamp(value, 0, shape[axis] - 1));
    return apply(toCursor, inside).map(Math.round);
  }

  moveTo(point) {
    this.set({ cursor: this.cursorAt(point) });
  }

  go(slice) {
    const point = this.point;
    point[this.plane.through] = this.scene.last[this.plane.through] - slice;
    this.moveTo(point);
  }

  goToLargest() {
    if (!this.scene.largest) return;
    const point = this.point; // counted from the patient's right, front and head, as scene.largest is
    point[this.plane.through] = this.scene.largest[this.plane.through];
    this.moveTo(point);
  }

  toggle(name) {
    this.set({ [name]: !this.model.get(name) });
  }

  reset() {
    this.pause();
    this.set(structuredClone(this.scene.start));
  }

  play() {
    if (this.player) return this.pause();
    this.player = setInterval(() => {
      const [first, last] = this.range();
      this.go(this.slice >= last ? first : this.slice + 1);
    }, 1000 / SLICES_PER_SECOND);
    return this.schedule();
  }

  pause() {
    clearInterval(this.player);
    this.player = 0;
    this.schedule();
  }

  range() {
    const axis = this.plane.through;
    return [this.scene.last[axis] - this.scene.grids[0].shape[axis] + 1, this.scene.last[axis]];
  }

  turn() {
    const { plane } = this;
    this.volumes.forEach((volume) => volume.turn(plane, 0));
    this.maps.forEach((map) => map.turn(plane, FINE));
    const view = { start: [], length: [] };
    [plane.across, plane.down].forEach((axis, side) => {
      const ends = this.panes.map(({ grid }) => [-1, 1].map((sign) => grid.centre[axis] + (sign * grid.shape[axis] * grid.spacing[axis]) / 2));
      view.start[side] = Math.min(...ends.map(([start]) => start));
      view.length[side] = Math.max(...ends.map(([, end]) => end)) - view.start[side];
    });
    this.panes.forEach((pane) => pane.turn(plane, view));
    const columns = Math.min(this.scene.columns, this.panes.length);
    const widest = Math.max(TALLEST * (view.length[0] / view.length[1]), 60);
    this.grid.style.gridTemplateColumns = `repeat(auto-fit, minmax(max(110px, ${90 / columns}%), 1fr))`;
    this.grid.style.maxWidth = `${Math.round(columns * widest)}px`;
    [this.slider.min, this.slider.max] = this.range();
    this.stale = false;
    this.colours = null;
  }

  recolour() {
    const get = (name) => this.model.get(name);
    this.volumes.forEach((volume, index) => volume.setWindow(get("windows")[index]));
    this.colours = Object.fromEntries(["overlay", "hidden", "opacity", "outline"].map((name) => [name, get(name)]));
    this.maps.forEach((map) => map.setColours(this.colours));
  }

  draw() {
    if (this.stale) this.turn();
    if (!this.colours) this.recolour();
    const { plane } = this;
    const cursor = this.model.get("cursor");
    const points = this.scene.grids.map((grid, index) => (index ? apply(grid.toScreen, cursor).map(Math.round) : this.point));
    for (const layer of [...this.volumes, ...this.maps]) {
      const slice = points[this.scene.grids.indexOf(layer.grid)][plane.through];
      if (slice >= 0 && slice < layer.slices) layer.paint(slice);
    }
    this.panes.forEach((pane) => pane.draw(plane, points[this.scene.grids.indexOf(pane.grid)]));
    this.tell(points, cursor);
    this.frames += 1;
  }

  tell(points, cursor) {
    const { model, slice } = this;
    const name = model.get("plane");
    const last = this.range()[1];
    const mm = apply(this.scene.toWorld, cursor).map((value) => value.toFixed(1));
    const values = model.get("_values"); // exact ones, once the kernel has answered for this very cursor
    const exact = values.length && values[0] === cursor.join();
    const panes = this.panes.map((pane) => {
      const point = points[this.scene.grids.indexOf(pane.grid)];
      if (point.some((value, axis) => value < 0 || value >= pane.grid.shape[axis])) return `${pane.title} outside`;
      const label = pane.map?.nameAt(point);
      return `${pane.title} ${exact ? values[pane.index + 1] : pane.volume.textAt(point)}${label ? ` [${label}]` : ""}`;
    });
    this.readout.textContent = `${name} ${slice} of ${last}   voxel (${cursor.join(", ")})   mm (${mm.join(", ")})\n${panes.join("   ")}`;
    Object.assign(this.root.dataset, { slice, plane: name });
    this.slider.value = slice;
    this.slider.setAttribute("aria-valuetext", `${name} slice ${slice} of ${last}`);
    this.opacity.value = model.get("opacity");
    const press = (element, pressed) => element.setAttribute("aria-pressed", String(Boolean(pressed)));
    this.planes.forEach((button) => press(button, button.textContent === name));
    press(this.outline, this.colours.outline);
    press(this.overlay, this.colours.overlay);
    press(this.playing, this.player);
    this.legend.forEach((entry) => press(entry, !this.colours.hidden.includes(entry.dataset.name)));
  }

  // Its buttons stay on the page until the next scene is unpacked; what they set would reach that scene.
  close() {
    this.pause();
    this.stop.abort();
    this.root.inert = true;
    delete this.root.dataset.ready;
    this.forget();
    cancelAnimationFrame(this.waiting);
    if (this.saving) this.model.save_changes();
    clearTimeout(this.saving);
  }
}

function listenToWheel(viewer) {
  const { root, stop: { signal } } = viewer;
  let gathered = 0;
  let scrolled = -Infinity; // when the page was last scrolled from outside, and where the pointer was
  let place = [0, 0];
  const passing = (event) => {
    scrolled = event.timeStamp;
    place = [event.screenX, event.screenY];
  };
  const outside = (event) => root.contains(event.target) || passing(event);
  document.addEventListener("wheel", outside, { passive: true, capture: true, signal });
  const moved = (event) => {
    if (Math.hypot(event.screenX - place[0], event.screenY - place[1]) > 2) scrolled = -Infinity;
  };
  root.addEventListener("pointermove", moved, { signal });
  root.addEventListener("pointerdown", () => (scrolled = -Infinity), { signal });
  const wheel = (event) => {
    if (event.ctrlKey || event.metaKey) return; // the browser's zoom
    if (event.timeStamp - scrolled < PASSING) return passing(event);
    event.preventDefault();
    event.stopPropagation();
    const ticks = (event.wheelDeltaY || event.wheelDeltaX || 0) / 120;
    const distance = (event.deltaY || event.deltaX) * [1, 33, 400][event.deltaMode];
    let slices = Math.abs(distance) >= NOTCH ? 1 : 0;
    if (slices && Number.isInteger(ticks)) slices = Math.max(Math.abs(ticks), 1);
    if (slices) gathered = 0;
    else {
      gathered += distance;
      slices = Math.trunc(Math.abs(gathered) / TRACKPAD);
      gathered -= Math.sign(gathered) * slices * TRACKPAD;
    }
    if (slices) viewer.go(viewer.slice - Math.sign(distance) * slices * (event.shiftKey ? 5 : 1));
  };
  root.addEventListener("wheel", wheel, { passive: false, signal });
}

function listenToPointers(viewer) {
  const { root, stop: { signal } } = viewer;
  const pointers = new Map();
  const cross = (event, pane) => {
    const { left, top, width, height } = pane.frame.getBoundingClientRect();
    const inPane = [(event.clientX - left) / width, (event.clientY - top) / height];
    const { shape, toScreen, toCursor } = pane.grid;
    const place = apply(toScreen, viewer.model.get("cursor")); // what is clicked lies in the slice that the pane shows
    [viewer.plane.across, viewer.plane.down].forEach((axis, side) => {
      place[axis] = clamp(Math.floor(inPane[side] * shape[axis]), 0, shape[axis] - 1);
    });
    viewer.moveTo(apply(viewer.scene.grids[0].toScreen, apply(toCursor, place)).map(Math.round));
  };
  const level = (event, start) => {
    const [low, high] = start.windows[start.pane.index];
    const [darkest, brightest] = viewer.scene.start.windows[start.pane.index];
    const perPixel = (brightest - darkest) / 250;
    const width = Math.max(high - low + (event.clientX - start.x) * perPixel, perPixel);
    const middle = (low + high) / 2 + (event.clientY - start.y) * perPixel;
    const windows = start.windows.map((pair, index) => (index === start.pane.index ? [middle - width / 2, middle + width / 2] : pair));
    viewer.set({ windows });
  };
  const down = (event, pane) => {
    root.focus({ preventScroll: true });
    pane.box.setPointerCapture(event.pointerId);
    const start = { pane, x: event.clientX, y: event.clientY, windows: viewer.model.get("windows"), slice: viewer.slice };
    start.levels = event.button === 2 || event.shiftKey;
    pointers.set(event.pointerId, start);
    viewer.set({ active: viewer.panes.indexOf(pane) });
    if (!start.levels && event.button === 0 && pointers.size === 1) cross(event, pane);
    event.preventDefault();
  };
  const move = (event) => {
    const start = pointers.get(event.pointerId);
    if (!start) return;
    if (pointers.size > 1) viewer.go(start.slice + Math.round((start.y - event.clientY) / 8)); // two fingers scroll
    else if (start.levels) level(event, start);
    else if (event.buttons & 1) cross(event, start.pane);
  };
  const noMenu = (event) => {
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has a menu of its own
  };
  for (const pane of viewer.panes) {
    pane.box.addEventListener("contextmenu", noMenu, { signal });
    pane.box.addEventListener("pointerdown", (event) => down(event, pane), { signal });
    pane.box.addEventListener("pointermove", move, { signal });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
      pane.box.addEventListener(end, (event) => pointers.delete(event.pointerId), { signal });
  }
}

function listenToKeys(viewer) {
  const { root, model, stop: { signal } } = viewer;
  const step = (slices) => (event) => viewer.go(viewer.slice + slices * (event.shiftKey ? 5 : 1));
  const end = (which) => () => viewer.go(viewer.range()[which]);
  const fade = (change) => () => viewer.set({ opacity: clamp(Number((model.get("opacity") + change).toFixed(2)), 0, 1) });
  const moves = { ArrowUp: step(1), ArrowRight: step(1), ArrowDown: step(-1), ArrowLeft: step(-1), PageUp: step(10), PageDown: step(-10), Home: end(0), End: end(1) };
  const others = { o: () => viewer.toggle("overlay"), b: () => viewer.toggle("outline"), "[": fade(-0.1), "]": fade(0.1) };
  Object.assign(others, { t: () => viewer.goToLargest(), r: () => viewer.reset(), " ": () => viewer.play() });
  others["?"] = () => (viewer.help.hidden = !viewer.help.hidden);
  for (const plane of Object.keys(PLANES)) others[plane[0]] = () => viewer.set({ plane });
  const pressed = (event) => {
    const typed = "[]".includes(event.key) && (event.altKey || event.getModifierState("AltGraph")); // on many keyboards
    if (event.metaKey || (!typed && (event.ctrlKey || event.altKey))) return;
    const own = event.target.tagName; // sliders move by the arrow keys and buttons are pressed by the space bar
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = (own === "INPUT" ? null : moves[key]) ?? (own === "BUTTON" && key === " " ? null : others[key]);
    if (!action) return;
    action(event);
    event.preventDefault();
  };
  root.addEventListener("keydown", pressed, { signal });
}

// anywidget calls this once a model: all views of a viewer share what was unzipped.
function widget() {
  let data;
  return {
    initialize({ model }) {
      data = decode(model);
      model.on("change:_scene", () => (data = decode(model)));
    },
    async render({ model, el }) {
      el.textContent = "loading slices ...";
      let viewer = null;
      let gone = false;
      const renew = async () => {
        viewer?.close();
        viewer = null;
        const newest = data;
        const ready = await newest;
        if (!gone && newest === data) viewer = new Viewer(model, el, ready); // else a later scene is on its way
      };
      model.on("change:_scene", renew);
      await renew();
      return () => {
        gone = true;
        model.off("change:_scene", renew);
        viewer?.close();
      };
    },
  };
}

export default widget;
