// The time line below the pictures: key frames of each, where the user is, and dragging along it.
const MARKS = { found: "▲", absent: "△", malformed: "✕", dropped: "–", corrected: "◆" };
const LINE_PX = 34, ROW_PX = 14; // its height with the marks of one picture; of each other row of marks
const EDGE_PX = 8; // left and right of it

function element(tag, name, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.className = name;
  parent.append(made);
  return made;
}

class TimeLine {
  constructor(model, parent, want) { // `want(frame)`: the user goes there
    this.model = model;
    this.frame = 0;
    const track = element("div", "vm-track", parent);
    this.canvas = element("canvas", "vm-line", track);
    this.passed = element("div", "vm-passed", track);
    this.knob = element("div", "vm-knob", track);
    const scrub = (event) => {
      const box = this.canvas.getBoundingClientRect();
      want(Math.round((event.clientX - box.left - EDGE_PX) / (box.width - 2 * EDGE_PX) * (model.get("frames") - 1)));
    };
    const on = (name, act) => this.canvas.addEventListener(name, act);
    on("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); scrub(event); });
    on("pointermove", (event) => { if (event.buttons & 1) scrub(event); });
    on("transitionend", () => this.draw()); // of its colour: another theme
  }

  along(frame) { // of the time line's width, pixels
    return EDGE_PX + frame / Math.max(1, this.model.get("frames") - 1) * (this.width - 2 * EDGE_PX);
  }

  draw() { // what stays while frames change
    const rows = [this.model.get("marks"), this.model.get("marks_beside")].filter((marks, n) => !n || marks.length);
    const height = LINE_PX + ROW_PX * (rows.length - 1), dense = window.devicePixelRatio || 1;
    this.canvas.style.height = `${height}px`;
    this.canvas.title = "key frames" + (rows.length > 1 ? ": of the left picture above, of the right one below" : "");
    const width = this.width = this.canvas.clientWidth;
    if (!width) return;
    Object.assign(this.canvas, { width: width * dense, height: height * dense });
    const context = this.canvas.getContext("2d"), style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    context.scale(dense, dense);
    context.fillStyle = colour("--vm-faint");
    context.fillRect(EDGE_PX, 11, width - 2 * EDGE_PX, 4);
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
    this.go(this.frame);
  }

  go(frame) { // without a layout or a canvas drawn anew: this is done for every frame
    this.frame = frame;
    const x = this.along(frame);
    this.knob.style.transform = `translateX(${x - 9}px)`;
    this.passed.style.transform = `scaleX(${x - EDGE_PX})`;
  }
}
