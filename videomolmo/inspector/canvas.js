// Frames (one picture, or two), keys, clicks and drags; the other scripts come before this in the same module.
// The kernel paints. This asks for frames, keeps and shows them, and tells what was pressed. Frames that come next on
// the way are asked for beforehand, several at once: a message costs more than a picture.
const REQUESTS = 2; // on their way at a time; one more for a frame that is waited for
const AHEAD = 24, BATCH = 12; // frames beforehand; so many of them in one request while the user goes on
const AT_REST = 4; // in one request else, and only one on its way: the user may leap away, and would wait for them
const KEPT_PIXELS = 40e6; // of pictures, those farthest from the user dropped first
const READ_MS = 80; // between two captions: nobody reads faster, and the page is laid out for each
const PAUSE_MS = 60, UNTOLD_MS = 180; // the kernel is told where the user is after such a rest, or time on the way
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const TEXT = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable=true]"; // take all keys

function isDark() {
  return document.body.dataset.jpThemeLight === "false";
}

class View {
  constructor(model, el) {
    this.model = model;
    this.id = Math.random().toString(36).slice(2);
    this.wanted = 0; // the frame the user is at
    this.shown = -1; // the frame in the picture
    this.told = -1; // the frame the kernel knows of
    this.step = 1; // which way the user goes
    this.age = -1; // of what is kept; the kernel counts on when pictures change
    this.kept = new Map(); // frame -> { images, caption, ms }
    this.refused = new Set(); // frames the kernel could not paint
    this.pending = []; // frames of each request without an answer
    this.coming = new Set(); // all of them, until decoded
    this.drawn = 0; // pictures so far
    this.panes = []; // where each picture is, pixels of the canvas
    this.playing = null;
    this.sharp = 1; // pixels of the picture for each CSS pixel
    this.home = null; // where the user was before a plot showed another frame for a moment
    this.build(el);
    this.listen();
    this.tell({ kind: "ready", ...this.room(), dark: isDark() });
  }

  build(el) {
    this.root = element("div", "vm-view", el, { tabIndex: 0 });
    this.root.setAttribute("role", "slider");
    this.root.setAttribute("aria-label", "frame");
    this.titles = element("div", "vm-titles", this.root);
    this.glass = element("div", "vm-glass", this.root);
    this.canvas = element("canvas", "vm-picture", this.glass, { width: 1, height: 1 });
    this.where = element("span", "vm-over", this.glass); // what is under the pointer: moves nothing around it
    this.zoom = new Zoom(this.root, this.glass, this.canvas);
    this.sketch = new Sketch(this.model, this.glass, this.zoom);
    this.pointer = new Pointer(this);
    this.lost = new Lost(this.model, (event) => {
      this.model.send({ kind: "probe", view: this.id });
      if (!(event.key in STEPS)) this.catchUp(); // what a control does it may do to this frame
    });
    this.phrases = new Phrases(this.model, this.root, (alone) => this.tell({ kind: "alone", ...alone }));
    this.line = new TimeLine(this.model, this.root, (frame) => {
      this.root.focus({ preventScroll: true });
      this.want(frame);
    });
    const bar = element("div", "vm-bar", this.root);
    this.arrange = new Arrange(this.model, bar, this.glass.parentElement, () => this.redraw());
    this.glass.after(this.arrange.row);
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
    this.caption = element("div", "", element("div", "vm-caption", bar), { textContent: " " });
    button("⊖", "zoom out  −", () => this.enlarge(1 / ZOOM_STEP));
    button("⊕", "zoom in  + (Ctrl and wheel; drag to pan, with the middle button while drawing)", () => this.enlarge(ZOOM_STEP));
    button("⤢", "whole picture  0", () => this.enlarge(0));
    this.hints = new Hints(this.model, this.root);
  }

  listen() {
    const stop = new AbortController();
    const on = (target, name, act) => target.addEventListener(name, act, { signal: stop.signal });
    on(this.root, "keydown", (event) => this.pressed(event));
    this.pointer.listen(on);
    on(this.glass, "wheel", (event) => {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      this.enlarge(event.deltaY < 0 ? ZOOM_STEP : 1 / ZOOM_STEP, event);
    });
    this.onMessage = (content, buffers) => this.receive(content, buffers);
    this.onTraits = () => {
      this.wanted = Math.max(0, Math.min(this.wanted, this.model.get("frames") - 1)); // of another result, perhaps
      this.describe();
      this.line.frame = this.wanted;
      this.line.draw();
      this.pointer.grip = null; // of another mode, perhaps
      this.redraw();
    };
    this.model.on("msg:custom", this.onMessage);
    this.model.on("change", this.onTraits);
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(this.root);
    this.theme = new MutationObserver(() => {
      this.tell({ kind: "theme", dark: isDark() });
      // JupyterLab hides the page while its theme changes, and shows it without telling the observer of sizes.
      for (const wait of [50, 250, 1000, 4000]) setTimeout(() => this.line.draw(), wait);
    });
    this.theme.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    this.stop = stop;
    this.describe();
    this.attach(on);
  }

  attach(on) { // keys and clicks of the whole inspector, once this is in the page
    if (this.stop.signal.aborted) return;
    if (!this.root.isConnected) { requestAnimationFrame(() => this.attach(on)); return; }
    const whole = this.root.closest(".vm-inspector") ?? this.root;
    this.lost.watch(whole, this.stop.signal);
    // The notebook's shortcuts (x cuts the cell) are off in here, but for those with Ctrl, such as saving.
    const suppress = (event) => whole.toggleAttribute("data-lm-suppress-shortcuts", !(event?.ctrlKey || event?.metaKey));
    suppress();
    window.addEventListener("keydown", suppress, { capture: true, signal: this.stop.signal });
    on(whole, "vm-hover", (event) => this.phrases.mark(event.detail));
    on(whole, "vm-seek", ({ detail: { frame, stay } }) => this.seek(frame, stay));
    if (whole === this.root) return;
    on(whole, "pointerover", (event) => {
      const control = event.target.closest?.("[class*=vm-tip-]"), id = control?.className.match(/vm-tip-(\w+)/)[1];
      const titled = control ? [control, ...control.querySelectorAll("[title]")] : []; // some have a title of their own
      for (const one of titled) one.title = this.model.get("tips")[id] ?? "";
    });
    on(whole, "keydown", (event) => this.pressed(event));
    const back = () => setTimeout(() => this.root.focus({ preventScroll: true }));
    let byMouse = false; // whoever goes through the controls with Tab stays there
    on(whole, "pointerdown", () => { byMouse = true; });
    on(whole, "click", (event) => {
      if (event.detail && !event.target.closest(TEXT) && !this.root.contains(event.target)) back();
    });
    on(whole, "change", (event) => { if (byMouse && !event.target.matches("[type=text]")) back(); });
    whole.addEventListener("keydown", (event) => { // fields of ipywidgets let no key out
      byMouse = false;
      if (event.target.matches?.(TEXT) && ["Enter", "Escape"].includes(event.key)) back();
    }, { capture: true, signal: this.stop.signal });
  }

  close() {
    this.tell({ kind: "closed" }); // the kernel need keep nothing for it
    this.stop.abort();
    this.phrases.close();
    this.lost.close();
    this.halt();
    clearTimeout(this.later);
    clearTimeout(this.silent);
    clearTimeout(this.saying);
    this.forget();
    this.sizes.disconnect();
    this.theme.disconnect();
    this.model.off("msg:custom", this.onMessage);
    this.model.off("change", this.onTraits);
  }

  tell(content) {
    try {
      this.model.send({ ...content, view: this.id });
    } catch { // its line is closed: another kernel runs
      this.halt();
      this.say("the kernel that made this is gone: run the cell again");
      this.lost.show();
    }
  }

  // ---- frames -------------------------------------------------------------------------------------------------------
  want(frame) {
    const last = this.model.get("frames") - 1, wanted = Math.max(0, Math.min(last, frame));
    if (wanted === 0 || wanted === last) this.step = wanted ? -1 : 1; // only one way is left
    else if (wanted !== this.wanted) this.step = wanted > this.wanted ? 1 : -1;
    this.near = Math.abs(wanted - this.wanted) <= 2; // stepping or playing, not leaping
    this.wanted = wanted;
    this.line.go(wanted);
    this.paint();
    this.ask();
  }

  ask(idle = false) { // `idle`: nothing happened for a while
    const lacks = (frame) => !this.kept.has(frame) && !this.coming.has(frame) && !this.refused.has(frame);
    const urgent = this.model.get("frames") > 0 && lacks(this.wanted);
    const missing = urgent ? [this.wanted] : this.near || idle ? this.ahead(lacks, idle) : [];
    const free = this.pending.length < (urgent ? REQUESTS + 1 : idle ? 1 : REQUESTS);
    if (free && (missing.length || idle && this.told !== this.wanted)) {
      missing.forEach((frame) => this.coming.add(frame));
      this.go(missing);
      if (urgent) this.silent ??= setTimeout(() => this.say("waiting for the kernel: does another cell run?"), SILENT_MS);
      this.toldAt = performance.now();
      this.ask();
    } else if (!idle) {
      const at = this.wanted;
      this.later ??= setTimeout(() => {
        this.later = null;
        this.ask(at === this.wanted || performance.now() - this.toldAt > UNTOLD_MS);
      }, PAUSE_MS);
    }
  }

  go(pictures) { // tell the kernel where the user is, and which pictures are lacking; it answers each time
    this.pending.push(pictures);
    this.tell({ kind: "go", frame: this.told = this.wanted, pictures });
  }

  catchUp() { // before something is done to the frame: within a rest it is not told
    if (this.told !== this.wanted) this.go([]);
  }

  act(key) { // the kernel does it to the frame that the user sees, however quickly the key came after another
    this.catchUp();
    this.tell({ kind: "key", key });
  }

  ahead(lacks, idle) { // frames to come that are lacking, unless they are few and not soon
    const coming = Array.from({ length: AHEAD }, (_, n) => this.wanted + (n + 1) * this.step);
    const there = coming.filter((frame) => frame >= 0 && frame < this.model.get("frames"));
    const missing = there.filter(lacks).slice(0, BATCH);
    if (idle) return missing.slice(0, AT_REST);
    const soon = missing.length && Math.abs(missing[0] - this.wanted) <= AHEAD - BATCH;
    return soon || missing.length >= Math.min(BATCH, there.length) ? missing : [];
  }

  receive(content, buffers) {
    if (content.kind === "over") { this.pointer.named(content); return; }
    clearTimeout(this.silent);
    this.silent = null;
    const mine = content.view === this.id, asked = mine ? this.pending.shift() ?? [] : [];
    if (content.age !== this.age) this.forget(content.age);
    if (!mine && (content.moved || this.shown < 0)) { // moved by somebody else
      this.wanted = this.told = content.frame;
      this.line.go(this.wanted);
    }
    const each = content.frames.length ? buffers.length / content.frames.length : 0;
    content.frames.forEach((frame, n) => {
      const files = buffers.slice(n * each, (n + 1) * each).map((one, at) => [one, content.types[n * each + at]]);
      const rest = { caption: content.captions[n], ms: content.ms / content.frames.length, sharp: content.sharp };
      this.coming.add(frame); // also one that was not asked for: else it is, while it is decoded, and comes twice
      this.decode(frame, files, rest);
    });
    for (const frame of asked.filter((one) => !content.frames.includes(one))) {
      this.coming.delete(frame);
      this.refused.add(frame);
    }
    this.paint();
    this.ask();
  }

  async decode(frame, files, rest) {
    const age = this.age;
    const images = await Promise.all(files.map(([file, type]) => createImageBitmap(new Blob([file], { type }))));
    if (age !== this.age) return images.forEach((image) => image.close()); // out of date, or nobody looks any more
    this.drop(frame);
    this.kept.set(frame, { images, ...rest, fresh: true });
    this.coming.delete(frame);
    const room = KEPT_PIXELS / images.reduce((sum, image) => sum + image.width * image.height, 1);
    while (this.kept.size > Math.max(2 * AHEAD, room)) this.drop(this.farthest());
    this.paint();
    this.ask();
  }

  farthest() {
    const away = (frame) => Math.abs(frame - this.wanted);
    return [...this.kept.keys()].reduce((far, frame) => (away(frame) > away(far) ? frame : far));
  }

  drop(frame) {
    this.kept.get(frame)?.images.forEach((image) => image.close());
    this.kept.delete(frame);
  }

  forget(age) {
    for (const frame of [...this.kept.keys()]) this.drop(frame);
    this.coming.clear(); // what is still on its way is asked for again
    this.refused.clear();
    this.age = age;
  }

  paint() { // the wanted frame, or the nearest to it that is here on the way there
    let frame = this.wanted;
    const back = Math.sign(this.shown - frame);
    if (this.shown >= 0 && this.near) while (!this.kept.has(frame) && frame !== this.shown) frame += back;
    const one = this.kept.get(frame);
    if (!one || frame === this.shown && !one.fresh) return;
    one.fresh = false;
    this.draw(one, frame);
    if (this.shown < 0) this.root.classList.add("vm-live"); // styles go by this: what changes with each frame is dear
    this.shown = frame;
    this.say(one.caption);
    Object.assign(this.root.dataset, { frame, picture: ++this.drawn, kernelMs: one.ms });
    this.root.setAttribute("aria-valuenow", frame);
    this.root.dispatchEvent(new CustomEvent("vm-frame", { detail: frame, bubbles: true })); // the plots listen
  }

  say(caption) {
    this.words = caption;
    if (this.saying) return;
    this.caption.firstChild.data = caption; // the text alone: nothing around it is laid out again
    this.root.setAttribute("aria-valuetext", caption);
    this.saying = setTimeout(() => { this.saying = 0; if (this.words !== caption) this.say(this.words); }, READ_MS);
  }

  redraw() {
    const one = this.kept.get(this.shown);
    if (one) this.draw(one, this.shown);
  }

  draw({ images, sharp = 1 }, frame) {
    this.panes = this.arrange.panes(images);
    const width = Math.max(1, ...this.panes.map((one) => one.left + one.width));
    const height = Math.max(1, ...this.panes.map((one) => one.top + one.height));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    if (images.length > 1) context.clearRect(0, 0, width, height); // of two sizes one leaves room
    if (images.length) this.arrange.draw(context, images, this.panes);
    this.sharp = sharp;
    this.zoom.fit(sharp);
    if (!this.pointer.draws) this.sketch.clear(); // its outcome is in the picture
    for (const [at, ...mark] of this.model.get("pending") ?? []) {
      if (at === frame) markPending(context, (place) => this.pointer.inPicture(0, place), mark, sharp);
    }
  }

  room() { // what the kernel paints for: CSS pixels, and pixels of the screen for each of them
    return { width: this.width = this.root.clientWidth, sharp: this.asked = this.zoom.density };
  }

  enlarge(by, event) {
    this.zoom.enlarge(by, event);
    this.resized();
  }

  // ---- keys, play ---------------------------------------------------------------------------------------------------
  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.takes(event)) return;
    const { key } = event;
    this.home = null;
    if (key in STEPS) { // a held key goes on when the picture is there: no frame is left out, none comes after it
      if (!event.repeat || this.shown === this.wanted) this.want(this.wanted + STEPS[key] * (event.shiftKey ? 10 : 1));
    }
    else if (key === "Home") this.want(0);
    else if (key === "End") this.want(this.model.get("frames") - 1);
    else if (key === "[" || key === "PageUp") this.toKey(-1);
    else if (key === "]" || key === "PageDown") this.toKey(1);
    else if (key === " ") this.toggle();
    else if (key === "+" || key === "=") this.enlarge(ZOOM_STEP);
    else if (key === "-") this.enlarge(1 / ZOOM_STEP);
    else if (key === "0") this.enlarge(0);
    else if (key === "?") this.hints.toggle();
    else if (key === "V" && this.arrange.isPair) this.arrange.next();
    else if (key === "F" && this.arrange.isOnTop) this.arrange.flip();
    else if ((this.model.get("shortcuts") ?? []).includes(key)) { if (!event.repeat) this.act(key); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  takes({ target, key }) { // a control that has the focus takes some keys itself
    if (target === this.root || !target.matches) return false;
    if (target.matches(TEXT)) return true;
    if (key === " " || key === "Enter") return target.matches("button, input, [role=button]");
    return target.matches("[role=slider]") && /^(Arrow|Page|Home|End)/.test(key);
  }

  seek(frame, stay) { // a plot shows a frame for a moment (null: no longer), or goes there
    if (frame !== null && !stay) this.home ??= this.wanted;
    const to = frame ?? this.home;
    if (stay || frame === null) this.home = null;
    if (to !== null && to !== this.wanted) this.want(to);
  }

  toKey(step) {
    const marks = ["marks", "marks_beside"].flatMap((name) => this.model.get(name));
    const keys = marks.map(([at]) => at).sort((a, b) => a - b);
    const next = step > 0 ? keys.find((at) => at > this.wanted) : keys.filter((at) => at < this.wanted).pop();
    if (next !== undefined) this.want(next);
  }

  toggle() {
    if (this.playing) { this.halt(); return; }
    const last = () => this.model.get("frames") - 1; // of another result by and by, perhaps
    if (this.wanted >= last()) this.want(0);
    const fps = this.model.get("fps") || 30;
    let from = this.wanted, due = from, begun = performance.now();
    this.play.textContent = "⏸";
    this.playing = setInterval(() => { // in real time; frames that cannot be delivered are left out
      if (this.wanted !== due) [from, begun] = [this.wanted, performance.now()]; // the user went elsewhere
      this.want(from + Math.floor((performance.now() - begun) / 1000 * fps));
      due = this.wanted;
      if (due >= last()) this.halt();
    }, Math.max(10, 1000 / fps));
  }

  halt() {
    clearInterval(this.playing);
    this.playing = null;
    this.play.textContent = "▶";
  }

  // ---- what is around the picture -----------------------------------------------------------------------------------
  resized() {
    clearTimeout(this.resizing);
    this.resizing = setTimeout(() => {
      const width = this.root.clientWidth;
      if (width && (width !== this.width || this.zoom.density !== this.asked)) this.tell({ kind: "size", ...this.room() });
      this.zoom.fit(this.sharp);
      this.line.draw();
    }, 150);
  }

  describe() {
    this.root.setAttribute("aria-valuemin", 0);
    this.root.setAttribute("aria-valuemax", Math.max(0, this.model.get("frames") - 1));
    this.root.dataset.mode = this.model.get("mode");
    this.arrange.describe(this.root);
    this.titles.replaceChildren();
    for (const [n, [name, more]] of this.model.get("titles").entries()) {
      const title = element("div", "", this.titles, { title: `${name}\n${more}` });
      if (this.arrange.isPair) element("i", "", title, { textContent: `${SIDES[this.arrange.layout][n]} ` });
      element("b", "", title, { textContent: name });
      element("span", "", title, { textContent: more });
    }
    this.phrases.draw();
    this.hints.draw();
  }
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.close();
}

export default { render };
