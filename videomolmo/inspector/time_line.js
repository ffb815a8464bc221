// The time line below the pictures: key frames of each, where the user is, and dragging along it.
const MARKS = { found: "▲", absent: "△", malformed: "✕", dropped: "–", corrected: "◆" };
const SAID = { dropped: "rejected", corrected: "corrected by hand" }; // where the word on the screen is another
const LINE_PX = 34, ROW_PX = 14; // its height with the marks of one picture; of each other row of marks
const EDGE_PX = 8; // left and right of it
const BAR_PX = 11, THICK_PX = 4, KNOB_PX = 22; // of the line itself: its top and height; height of what moves along it

class TimeLine {
  constructor(model, parent, want) { // `want(frame)`: the user goes there
    this.model = model;
    this.frame = 0;
    const track = element("div", "vm-track", parent);
    this.canvas = element("canvas", "vm-line", track);
    this.knob = element("canvas", "vm-knob", track);
    const scrub = (event) => {
      const box = this.canvas.getBoundingClientRect();
      want(Math.round((event.clientX - box.left - EDGE_PX) / (box.width - 2 * EDGE_PX) * (model.get("frames") - 1)));
    };
    const on = (name, act) => this.canvas.addEventListener(name, act);
    on("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); scrub(event); });
    on("pointermove", (event) => { if (event.buttons & 1) scrub(event); });
    this.want = want;
    this.rows = ["moments", "moments_beside"].map((name) => [name, element("div", "vm-moments", parent)]);
    parent.addEventListener("keydown", (event) => this.pressed(event));
  }

  moments() { // of both pictures, in order of time
    return this.rows.flatMap(([name]) => this.model.get(name) ?? []).map(([frame]) => frame).sort((a, b) => a - b);
  }

  pressed(event) { // to the moment before, or the next one
    if (![",", "."].includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    const later = event.key === ".", frames = this.moments();
    const next = later ? frames.find((at) => at > this.frame) : frames.filter((at) => at < this.frame).pop();
    if (next !== undefined) this.want(next);
    if (frames.length) event.stopPropagation();
  }

  point() { // at the moments of each picture, in a row of its own: a click goes there
    this.spots = [];
    for (const [name, row] of this.rows) {
      const moments = this.model.get(name) ?? [];
      row.hidden = !moments.length;
      row.replaceChildren();
      for (const [frame, numbers, colour, ink, said] of moments) {
        const spot = element("button", "vm-moment", row, { textContent: numbers.join(" "), title: said, type: "button" });
        spot.setAttribute("aria-label", said);
        Object.assign(spot.style, { left: `${this.along(frame)}px`, background: colour, color: ink });
        spot.addEventListener("click", () => this.want(frame));
        this.spots.push([frame, spot]);
      }
    }
  }

  along(frame) { // of the time line's width, pixels
    return EDGE_PX + frame / Math.max(1, this.model.get("frames") - 1) * (this.width - 2 * EDGE_PX);
  }

  draw() { // what stays while frames change
    const rows = [this.model.get("marks"), this.model.get("marks_beside")].filter((marks, n) => !n || marks.length);
    const height = LINE_PX + ROW_PX * (rows.length - 1), dense = window.devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    const sides = rows.length > 1 ? ": of the left picture above, of the right one below" : "";
    this.canvas.title = `key frames${sides}; click or drag to go there`;
    const width = this.canvas.clientWidth;
    if (!width) return; // hidden
    this.width = width;
    Object.assign(this.canvas, { width: width * dense, height: height * dense });
    const context = this.canvas.getContext("2d"), style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.scale(dense, dense);
    context.fillStyle = colour("--vm-faint");
    context.fillRect(EDGE_PX, BAR_PX, width - 2 * EDGE_PX, THICK_PX);
    context.fillStyle = colour("--vm-corrected");
    for (const [start, stop] of this.model.get("repropagated") ?? []) {
      const left = this.along(start);
      context.fillRect(left, BAR_PX - 5, Math.max(3, this.along(stop - 1) - left), 3);
    }
    context.fillStyle = colour("--vm-text");
    context.font = "11px sans-serif";
    context.textAlign = "center";
    for (const [row, marks] of rows.entries()) { // the first picture's next to the line, the second's below
      const room = (width - 2 * EDGE_PX) / Math.max(1, marks.length), y = 30 + ROW_PX * row;
      for (const [frame, outcome] of marks) {
        const x = this.along(frame);
        if (row) context.fillRect(x - 0.5, y - 12, 1, 4);
        else context.fillRect(x - 0.5, 8, 1, 10);
        if (room >= 9) context.fillText(MARKS[outcome] ?? "▲", x, y);
      }
    }
    this.point();
    this.colours = [colour("--vm-accent"), colour("--vm-ground")];
    Object.assign(this.knob, { width: width * dense, height: KNOB_PX * dense });
    this.knob.getContext("2d").scale(dense, dense);
    this.go(this.frame);
  }

  go(frame) { // for every frame: drawn, for the page's own elements cannot be moved as cheaply where there is no GPU
    this.frame = frame;
    if (!this.colours) return;
    for (const [at, spot] of this.spots) if (spot.classList.contains("vm-here") !== (at === frame)) spot.classList.toggle("vm-here");
    const context = this.knob.getContext("2d"), x = this.along(frame), [accent, ground] = this.colours;
    context.clearRect(0, 0, this.width, KNOB_PX);
    context.fillStyle = accent;
    context.fillRect(EDGE_PX, BAR_PX, x - EDGE_PX, THICK_PX);
    for (const [colour, radius] of [[ground, 9], [accent, 7]]) {
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, BAR_PX + THICK_PX / 2, radius, 0, 7);
      context.fill();
    }
  }
}
