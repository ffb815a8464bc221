// What the symbols and keys mean: the legend of the time line, and three lines for those who see this the first time.
const SEEN = "videomolmo-hints-seen";
const LINES = [
  "Click the picture, then  ← →  one frame ·  Shift  ten ·  space  play ·  [ ]  key frames ·  d  next doubtful frame ·  + − 0  zoom",
  "Hover over a phrase to see its masks alone, over an object to find its phrase, over a plot to look at a frame (a click stays) ·  f b m g e  layers ·  a h  all, none ·  l  rule ·  < >  τ ·  , .  opacity",
  "Correct:  p  point on an object ·  n  point off it (drag a point to move it) ·  r  remove a point ·  q  box ·  P  brush ·  R  eraser ·  1–9  its object ·  x  reject this key frame ·  w  swap ids from here on ·  s  split ·  j  merge ·  z  undo ·  y  redo ·  Esc  navigate",
];
const PAIR = "Compare:  V  side by side, stacked, swipe, overlay ·  F  one, then the other ·  v  next difference";
const DOING = { // what dragging does in a mode, beside the legend
  add: "click: a point on the object · drag a point: move it", off: "click: a point off the object · drag a point: move it",
  remove: "click a point, or a corner of a box: remove it", box: "drag a rectangle around the object",
  brush: "drag: add to the mask ·  (  )  width · Enter apply · z undo stroke",
  erase: "drag: take from the mask ·  (  )  width · Enter apply · z undo stroke",
};

class Hints {
  constructor(model, parent) {
    this.model = model;
    const box = element("div", "vm-help", parent);
    this.legend = element("span", "vm-legend", box);
    const button = element("button", "vm-button", box, { textContent: "? keys", title: "show or hide the keys  ?" });
    button.type = "button";
    button.addEventListener("click", () => this.toggle());
    this.lines = element("div", "vm-hints", parent);
    for (const line of LINES) element("div", "", this.lines, { textContent: line });
    this.pair = element("div", "", this.lines, { textContent: PAIR });
    this.lines.hidden = seen();
  }

  toggle() {
    this.lines.hidden = !this.lines.hidden;
    try { localStorage.setItem(SEEN, "yes"); } catch { /* a page without storage shows them each time */ }
  }

  draw() {
    const there = new Set(["marks", "marks_beside"].flatMap((name) => this.model.get(name)).map(([, outcome]) => outcome));
    const words = Object.keys(MARKS).filter((one) => there.has(one)).map((one) => `${MARKS[one]} ${SAID[one] ?? one}`);
    if ((this.model.get("repropagated") ?? []).length) words.push("▬ re-propagated");
    const doing = DOING[this.model.get("mode")], said = words.length ? [`key frames: ${words.join("  ")}`] : [];
    const moments = ["moments", "moments_beside"].some((name) => (this.model.get(name) ?? []).length);
    if (moments) said.push("① pointed at, keys , and . lead there");
    this.legend.textContent = [doing, ...said].filter(Boolean).join("  ·  ");
    this.pair.hidden = this.model.get("sizes").length < 2;
  }
}

function seen() {
  try { return localStorage.getItem(SEEN) === "yes"; } catch { return false; }
}
