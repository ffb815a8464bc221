// What the symbols and keys mean: the legend of the time line, and three lines for those who see this the first time.
const SEEN = "videomolmo-hints-seen";
const LINES = [
  "Click the picture, then  ← →  one frame ·  Shift  ten ·  space  play ·  [ ]  key frames ·  d  next doubtful frame ·  + − 0  zoom",
  "Hover over a phrase to see its masks alone, over an object to find its phrase, over a plot to look at a frame (a click stays) ·  f b m g e  layers ·  a h  all, none ·  l  rule ·  < >  τ ·  , .  opacity",
  "Correct:  p  point on an object ·  n  point off it ·  r  remove a point ·  1–9  its object ·  x  reject this key frame ·  w  swap ids from here on ·  s  split ·  j  merge ·  z  undo ·  y  redo ·  Esc  navigate",
];

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
    const said = words.length ? [`key frames: ${words.join("  ")}`] : [];
    const moments = ["moments", "moments_beside"].some((name) => (this.model.get(name) ?? []).length);
    if (moments) said.push("① pointed at, keys , and . lead there");
    this.legend.textContent = said.join("  ·  ");
  }
}

function seen() {
  try { return localStorage.getItem(SEEN) === "yes"; } catch { return false; }
}
