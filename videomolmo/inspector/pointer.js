// What the pointer does in the picture: it tells what is below it, clicks, moves an enlarged picture, draws.
const DRAGGED_PX = 4; // a press that moves farther is no click

class Pointer {
  constructor(view) {
    this.view = view;
    this.press = null; // what is held down, since when and where
    this.grip = null; // the point below it that can be dragged: x, y, and how near is near enough
  }

  listen(on) {
    const { canvas, where, root, sketch } = this.view;
    on(canvas, "pointerdown", (event) => this.pressed(event));
    on(canvas, "pointerup", (event) => this.released(event));
    on(canvas, "pointermove", (event) => this.moved(event));
    on(canvas, "pointercancel", () => { this.press = null; sketch.clear(); });
    on(canvas, "pointerleave", () => {
      where.textContent = "";
      this.over = this.grip = null;
      if (!this.press) sketch.clear();
      hover(root, []);
    });
  }

  get draws() {
    return Boolean(this.press?.kind);
  }

  at(event) { // pixels of the canvas
    const { canvas } = this.view, box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * canvas.width, (event.clientY - box.top) / box.height * canvas.height];
  }

  place(event, beyond = -1) { // pixels of the video, and in which picture; `beyond` its edges of this one
    const { arrange, panes, model } = this.view, [x, y] = this.at(event);
    const pane = beyond < 0 ? arrange.under(x, y, panes) : beyond, size = model.get("sizes")[pane];
    if (pane < 0 || !size) return null;
    const one = panes[pane];
    return { pane, x: (x - one.left) / one.width * size[1], y: (y - one.top) / one.height * size[0] };
  }

  inPicture(pane, [x, y]) { // pixels of the canvas, of a place in a video
    const one = this.view.panes[pane], [height, width] = this.view.model.get("sizes")[pane];
    return [one.left + x / width * one.width, one.top + y / height * one.height];
  }

  inFrame(pane, place) { // CSS pixels of the frame around the picture
    const { pan } = this.view.zoom;
    return this.inPicture(pane, place).map((one, n) => one * this.shrunk + pan[n]);
  }

  get shrunk() { // CSS pixels for each pixel of the canvas
    const { zoom, canvas } = this.view;
    return zoom.size[0] * zoom.by / canvas.width;
  }

  scale(pane) { // CSS pixels for each pixel of a video
    return this.view.panes[pane].width / this.view.model.get("sizes")[pane][1] * this.shrunk;
  }

  pressed(event) {
    const { view } = this, { root, canvas, arrange, panes } = view;
    root.focus({ preventScroll: true });
    if (event.button > 1 || this.press || !panes.length) return;
    if (event.button) event.preventDefault(); // the middle one would scroll
    canvas.setPointerCapture(event.pointerId);
    const from = [event.clientX, event.clientY], at = this.place(event), mode = view.model.get("mode"), { button } = event;
    this.press = { from, button, mode, pan: view.zoom.pan, frame: view.shown, dragged: false, path: at ? [[at.x, at.y]] : [] };
    if (button || !at || view.shown < 0) return;
    const { grip } = this, near = grip && at.pane === 0 && Math.hypot(grip[0] - at.x, grip[1] - at.y) <= grip[2];
    const parts = mode === "navigate" && arrange.grabs(this.at(event)[0], panes, this.shrunk);
    Object.assign(this.press, { pane: at.pane, kind: view.sketch.kind(mode, near), grip, parts });
    if (this.press.kind === "stroke") this.draw(event);
  }

  released(event) {
    const { view, press } = this, at = this.place(event);
    if (!press || event.button !== press.button) return;
    this.press = null;
    if (press.button || press.parts) return;
    if (press.kind && (press.dragged || press.kind === "stroke")) {
      const { frame, pane, kind, path, grip } = press;
      const points = kind === "point" ? [grip.slice(0, 2), path.at(-1)] : shortened(path);
      view.tell({ kind: "drawn", what: kind, frame, pane, points });
      return;
    }
    view.sketch.clear();
    if (!press.dragged && at && view.shown >= 0) view.tell({ kind: "click", frame: view.shown, ...at });
  }

  moved(event) {
    const { view, press } = this, at = this.place(event);
    const moved = press && [event.clientX - press.from[0], event.clientY - press.from[1]];
    if (moved && Math.hypot(...moved) > DRAGGED_PX) press.dragged = press.kind || press.parts || view.zoom.by > 1;
    if (press?.parts) view.arrange.move(this.at(event)[0] / view.panes[0].width);
    else if (press?.kind) this.draw(event);
    else if (press?.dragged) view.zoom.move(press.pan.map((one, n) => one + moved[n]));
    else this.hovered(at);
  }

  hovered(at) {
    const { view } = this;
    this.over = at;
    view.where.textContent = at ? `x ${Math.floor(at.x)}  y ${Math.floor(at.y)} px` : "";
    if (at && DRAWN[view.model.get("mode")] === "stroke") {
      view.sketch.ring([at.x, at.y], (one) => this.inFrame(at.pane, one), this.scale(at.pane));
    }
    this.wonder();
  }

  draw(event) { // as far as the pointer went
    const { pane, kind, path, mode } = this.press;
    for (const one of [...event.getCoalescedEvents?.() ?? [], event]) {
      const { x, y } = this.place(one, pane);
      path.push([x, y]);
    }
    this.view.sketch.show(kind, path, (one) => this.inFrame(pane, one), this.scale(pane), mode);
    const [from, to] = [path[0], path.at(-1)], size = from.map((one, n) => Math.round(Math.abs(to[n] - one)));
    this.view.where.textContent = kind === "box" ? `${size.join(" × ")} px` : "";
  }

  wonder() { // what is under the pointer: one question at a time, the latest
    const { view, over } = this;
    if (!over || this.wondering || view.shown < 0 || over === this.wondered) return;
    this.wondered = over;
    this.wondering = true;
    view.tell({ kind: "hover", frame: view.shown, ...over });
  }

  named({ view, objects, names, pane, grip = null }) {
    const { id, root, where } = this.view;
    if (view !== id) return;
    this.wondering = false;
    this.grip = this.over ? grip : null;
    root.classList.toggle("vm-grip", Boolean(this.grip));
    if (this.over) {
      hover(root, objects, pane);
      const { x, y } = this.over, place = `x ${Math.floor(x)}  y ${Math.floor(y)} px`;
      where.textContent = names.length ? `${names.join(", ")} · ${place}` : place;
    }
    this.wonder();
  }
}
