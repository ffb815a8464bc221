// What a person draws on the picture, until the kernel's picture shows what came of it: a rectangle, strokes of the
// brush, a point that is dragged. Coordinates are pixels of the video; `place` gives those of the frame in the page.
const DRAWN = { box: "box", brush: "stroke", erase: "stroke" }; // mode -> what a drag draws
const DRAGGING = ["add", "off"]; // modes in which points that are there can be dragged
const MOST_CORNERS = 4000; // of one stroke

class Sketch {
  constructor(model, glass, zoom) {
    Object.assign(this, { model, zoom });
    this.canvas = element("canvas", "vm-sketch", glass, { width: 1, height: 1 });
    this.is_clear = true;
  }

  kind(mode, grip) { // of a press: what it begins to draw; null: nothing
    return DRAWN[mode] ?? (grip && DRAGGING.includes(mode) ? "point" : null);
  }

  begin() { // in pixels of the screen, so that lines are sharp
    const dense = window.devicePixelRatio || 1, context = this.canvas.getContext("2d");
    const [width, height] = this.zoom.size.map((one) => Math.round(one * dense));
    context.setTransform(1, 0, 0, 1, 0, 0);
    if (this.canvas.width === width && this.canvas.height === height) context.clearRect(0, 0, width, height);
    else Object.assign(this.canvas, { width, height });
    context.scale(dense, dense);
    this.is_clear = false;
    return context;
  }

  clear() {
    if (!this.is_clear) this.begin();
    this.is_clear = true;
  }

  line(context, draw, colour = "white") { // seen on any ground
    for (const [tone, width] of [["black", 3], [colour, 1.5]]) {
      Object.assign(context, { strokeStyle: tone, lineWidth: width });
      context.beginPath();
      draw();
      context.stroke();
    }
  }

  rectangle(a, b, place) {
    const context = this.begin(), [[left, top], [right, bottom]] = [place(a), place(b)];
    this.line(context, () => context.rect(left, top, right - left, bottom - top));
  }

  stroke(points, place, scale, erases) { // in the object's colour; white where it is erased
    const [diameter, colour] = this.model.get("pen"), context = this.begin();
    Object.assign(context, { lineWidth: Math.max(1, diameter * scale), lineCap: "round", lineJoin: "round" });
    context.strokeStyle = erases ? "white" : colour;
    context.beginPath();
    for (const [n, point] of points.entries()) context[n ? "lineTo" : "moveTo"](...place(point));
    if (points.length === 1) context.lineTo(...place(points[0]));
    this.canvas.style.opacity = "0.6"; // of the stroke as a whole: it may cross itself
    context.stroke();
  }

  point(at, place) {
    const context = this.begin(), [x, y] = place(at);
    this.line(context, () => context.arc(x, y, 8, 0, 7));
    this.line(context, () => { context.moveTo(x - 8, y); context.lineTo(x + 8, y); context.moveTo(x, y - 8); context.lineTo(x, y + 8); });
  }

  ring(at, place, scale) { // where the brush is, and how wide
    const context = this.begin(), [diameter, colour] = this.model.get("pen");
    this.canvas.style.opacity = "1";
    this.line(context, () => context.arc(...place(at), Math.max(1, diameter * scale / 2), 0, 7), colour);
  }

  show(kind, points, place, scale, mode) {
    this.canvas.style.opacity = "1";
    if (kind === "box") this.rectangle(points[0], points.at(-1), place);
    else if (kind === "stroke") this.stroke(points, place, scale, mode === "erase");
    else this.point(points.at(-1), place);
  }
}

function shortened(points) { // a long stroke told in fewer corners
  const step = Math.ceil(points.length / MOST_CORNERS);
  return points.filter((_, n) => n % step === 0 || n === points.length - 1);
}

// A point or box whose masks are being made, on the canvas of the picture: `at` gives its pixels.
function markPending(context, at, mark, dense) {
  const size = 7 * dense;
  const both = (draw, widths = [4 * dense, 2 * dense]) => {
    for (const [n, colour] of ["black", "white"].entries()) {
      Object.assign(context, { strokeStyle: colour, lineWidth: widths[n] });
      context.beginPath();
      draw();
      context.stroke();
    }
  };
  context.setLineDash([3 * dense, 2 * dense]);
  if (mark.length === 4) {
    const [[left, top], [right, bottom]] = [at(mark.slice(0, 2)), at(mark.slice(2))];
    both(() => context.rect(left, top, right - left, bottom - top));
    context.setLineDash([]);
    return;
  }
  const [x, y] = at(mark);
  both(() => context.arc(x, y, size, 0, 7));
  context.setLineDash([]);
  Object.assign(context, { strokeStyle: "white", lineWidth: 2 * dense });
  context.beginPath();
  context.moveTo(x - size, y);
  context.lineTo(x + size, y);
  if (mark[2]) { context.moveTo(x, y - size); context.lineTo(x, y + size); }
  context.stroke();
}
