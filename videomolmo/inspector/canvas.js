// Frames (one picture, or two side by side), their time line, keys and clicks.
// The kernel paints. This asks for frames, shows them, and tells what was pressed. Two requests at most are on their way,
// so a held key shows every frame the kernel can deliver and never lags behind.
const REQUESTS = 2;
const GAP = 6; // pixels between two pictures
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const MARKS = { found: "▲", absent: "△", malformed: "✕", dropped: "–", corrected: "◆" };

function element(tag, name, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.className = name;
  parent.append(made);
  return made;
}

function isDark() {
  return document.body.dataset.jpThemeLight === "false";
}

class View {
  constructor(model, el) {
    this.model = model;
    this.id = Math.random().toString(36).slice(2);
    this.wanted = 0; // the frame the user is at
    this.shown = -1; // the frame in the picture
    this.waiting = 0; // requests without an answer
    this.asked = -1;
    this.received = 0;
    this.drawn = 0;
    this.panes = []; // left edge and width of each picture, pixels of the canvas
    this.playing = null;
    this.build(el);
    this.listen();
    this.tell({ kind: "ready", width: this.root.clientWidth, dark: isDark() });
  }

  build(el) {
    this.root = element("div", "vm-view", el, { tabIndex: 0 });
    this.root.setAttribute("role", "slider");
    this.root.setAttribute("aria-label", "frame");
    this.root.dataset.lmSuppressShortcuts = "true"; // arrows and space are ours, not the notebook's
    this.titles = element("div", "vm-titles", this.root);
    this.canvas = element("canvas", "vm-picture", this.root, { width: 1, height: 1 });
    this.line = element("canvas", "vm-line", this.root, { height: 34 });
    const bar = element("div", "vm-bar", this.root);
    const button = (text, label, act) => {
      const made = element("button", "vm-button", bar, { textContent: text, title: label, type: "button" });
      made.setAttribute("aria-label", label);
      made.addEventListener("click", () => { act(); this.root.focus({ preventScroll: true }); });
      return made;
    };
    button("⇤", "key frame before  [", () => this.toKey(-1));
    button("◂", "one frame back  ←", () => this.want(this.wanted - 1));
    this.play = button("▶", "play or stop  space", () => this.toggle());
    button("▸", "one frame on  →", () => this.want(this.wanted + 1));
    button("⇥", "next key frame  ]", () => this.toKey(1));
    this.caption = element("span", "vm-caption", bar);
    this.where = element("span", "vm-where", bar);
    element("div", "vm-help", this.root, {
      textContent: "← → frame · shift ±10 · space play · home end · [ ] key frames  (click the picture first)",
    });
  }

  listen() {
    const stop = new AbortController();
    const on = (target, name, act) => target.addEventListener(name, act, { signal: stop.signal });
    on(this.root, "keydown", (event) => this.pressed(event));
    on(this.canvas, "pointerdown", (event) => this.clicked(event));
    on(this.canvas, "pointermove", (event) => this.pointed(event));
    on(this.canvas, "pointerleave", () => { this.where.textContent = ""; });
    on(this.line, "pointerdown", (event) => { this.line.setPointerCapture(event.pointerId); this.scrub(event); });
    on(this.line, "pointermove", (event) => { if (event.buttons & 1) this.scrub(event); });
    this.onMessage = (content, buffers) => this.receive(content, buffers);
    this.onTraits = () => { this.describe(); this.drawLine(); };
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change", this.onTraits);
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(this.root);
    this.theme = new MutationObserver(() => { this.tell({ kind: "theme", dark: isDark() }); this.drawLine(); });
    this.theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    this.stop = stop;
    this.describe();
  }

  close() {
    this.stop.abort();
    this.halt();
    this.sizes.disconnect();
    this.theme.disconnect();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change", this.onTraits);
    if (this.still) this.still.style.display = "";
  }

  tell(content) {
    this.model.send({ ...content, view: this.id });
  }

  // ---- frames -------------------------------------------------------------------------------------------------------
  want(frame) {
    this.wanted = Math.max(0, Math.min(this.model.get("frames") - 1, frame));
    this.ask();
  }

  ask() {
    if (this.waiting >= REQUESTS || this.asked === this.wanted || this.model.get("frames") < 1) return;
    this.asked = this.wanted;
    this.waiting += 1;
    this.tell({ kind: "go", frame: this.wanted });
  }

  async receive(content, buffers) {
    const mine = content.view === this.id;
    if (mine) this.waiting = Math.max(0, this.waiting - 1);
    else if (content.moved || this.asked < 0) this.wanted = this.asked = content.frame; // moved by somebody else
    this.ask();
    if (content.kind !== "picture") return; // the kernel could not
    const number = ++this.received;
    const types = content.types;
    const images = await Promise.all(buffers.map((one, n) => createImageBitmap(new Blob([one], { type: types[n] }))));
    if (number < this.drawn) return; // a later one was quicker
    this.drawn = number;
    this.draw(images);
    images.forEach((image) => image.close());
    this.shown = content.frame;
    this.caption.textContent = content.caption;
    Object.assign(this.root.dataset, { frame: content.frame, picture: number, kernelMs: content.ms });
    this.root.setAttribute("aria-valuenow", content.frame);
    this.root.dispatchEvent(new CustomEvent("vm-frame", { detail: content.frame, bubbles: true })); // the plots listen
    this.root.setAttribute("aria-valuetext", content.caption);
    this.drawLine();
    this.settle();
  }

  draw(images) {
    const width = images.reduce((sum, image) => sum + image.width, 0) + GAP * (images.length - 1);
    const height = Math.max(1, ...images.map((image) => image.height));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    let left = 0;
    this.panes = images.map((image) => {
      context.drawImage(image, left, 0);
      const pane = { left, width: image.width, height: image.height };
      left += image.width + GAP;
      return pane;
    });
  }

  settle() { // once, with the first picture, when everything around it stands
    if (this.still !== undefined) return;
    const before = this.root.closest(".jp-OutputArea-child")?.previousElementSibling;
    this.still = before?.querySelector("img") ? before : null; // the static picture is for readers without a kernel
    if (this.still) this.still.style.display = "none";
  }

  // ---- keys, play ---------------------------------------------------------------------------------------------------
  pressed(event) {
    if (event.ctrlKey || event.metaKey) return;
    if (event.target !== this.root && event.key === " ") return; // a focused button takes the space bar itself
    const { key } = event;
    if (key in STEPS) this.want(this.wanted + STEPS[key] * (event.shiftKey ? 10 : 1));
    else if (key === "Home") this.want(0);
    else if (key === "End") this.want(this.model.get("frames") - 1);
    else if (key === "[" || key === "PageUp") this.toKey(-1);
    else if (key === "]" || key === "PageDown") this.toKey(1);
    else if (key === " ") this.toggle();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  toKey(step) {
    const keys = this.model.get("marks").map((mark) => mark[0]);
    const next = step > 0 ? keys.find((at) => at > this.wanted) : keys.filter((at) => at < this.wanted).pop();
    if (next !== undefined) this.want(next);
  }

  toggle() {
    if (this.playing) { this.halt(); return; }
    const last = this.model.get("frames") - 1;
    if (this.wanted >= last) this.want(0);
    const from = this.wanted, begun = performance.now(), fps = this.model.get("fps") || 30;
    this.play.textContent = "⏸";
    this.playing = setInterval(() => { // in real time; frames that cannot be delivered are left out
      this.want(from + Math.floor((performance.now() - begun) / 1000 * fps));
      if (this.wanted >= last) this.halt();
    }, Math.max(10, 1000 / fps));
  }

  halt() {
    clearInterval(this.playing);
    this.playing = null;
    this.play.textContent = "▶";
  }

  // ---- pointer ------------------------------------------------------------------------------------------------------
  place(event) { // pixels of the video, and in which picture
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * this.canvas.width;
    const y = (event.clientY - box.top) / box.height * this.canvas.height;
    const pane = this.panes.findIndex((one) => x >= one.left && x < one.left + one.width && y >= 0 && y < one.height);
    const size = this.model.get("sizes")[pane];
    if (pane < 0 || !size) return null;
    const one = this.panes[pane];
    return { pane, x: (x - one.left) / one.width * size[1], y: y / one.height * size[0] };
  }

  clicked(event) {
    this.root.focus({ preventScroll: true });
    const at = this.place(event);
    if (at && event.button === 0 && this.shown >= 0) this.tell({ kind: "click", frame: this.shown, ...at });
  }

  pointed(event) {
    const at = this.place(event);
    this.where.textContent = at ? `x ${Math.floor(at.x)}  y ${Math.floor(at.y)} px` : "";
  }

  scrub(event) {
    this.root.focus({ preventScroll: true });
    const box = this.line.getBoundingClientRect();
    this.want(Math.round((event.clientX - box.left - 8) / (box.width - 16) * (this.model.get("frames") - 1)));
  }

  // ---- what is around the picture -----------------------------------------------------------------------------------
  resized() {
    clearTimeout(this.resizing);
    this.resizing = setTimeout(() => {
      if (this.root.clientWidth) this.tell({ kind: "size", width: this.root.clientWidth });
      this.drawLine();
    }, 150);
  }

  describe() {
    this.root.setAttribute("aria-valuemin", 0);
    this.root.setAttribute("aria-valuemax", Math.max(0, this.model.get("frames") - 1));
    this.root.dataset.mode = this.model.get("mode");
    this.titles.replaceChildren();
    for (const text of this.model.get("titles")) element("span", "", this.titles, { textContent: text });
  }

  drawLine() {
    const dense = window.devicePixelRatio || 1, width = this.line.clientWidth, height = 34;
    if (!width) return;
    Object.assign(this.line, { width: width * dense, height: height * dense });
    const context = this.line.getContext("2d"), style = getComputedStyle(this.root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const last = Math.max(1, this.model.get("frames") - 1);
    const x = (frame) => 8 + frame / last * (width - 16);
    context.scale(dense, dense);
    context.fillStyle = colour("--vm-faint");
    context.fillRect(8, 11, width - 16, 4);
    context.fillStyle = colour("--vm-accent");
    context.fillRect(8, 11, x(this.wanted) - 8, 4);
    context.fillStyle = colour("--vm-text");
    context.font = "11px sans-serif";
    context.textAlign = "center";
    const marks = this.model.get("marks"), room = (width - 16) / Math.max(1, marks.length);
    for (const [frame, outcome] of marks) {
      context.fillRect(x(frame) - 0.5, 8, 1, 10);
      if (room >= 9) context.fillText(MARKS[outcome] ?? "▲", x(frame), 30);
    }
    context.beginPath();
    context.arc(x(this.wanted), 13, 7, 0, 2 * Math.PI);
    context.fillStyle = colour("--vm-accent");
    context.fill();
    context.lineWidth = 2;
    context.strokeStyle = colour("--vm-ground");
    context.stroke();
  }
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
