// Where one picture or two stand: beside each other, one above the other, or on top of each other at full size, parted
// by a line that is dragged (swipe) or faded into each other (overlay).
const GAP = 6; // pixels between two pictures
const LAYOUTS = { side: "side by side", stack: "stacked", swipe: "swipe", overlay: "overlay" };
const SIDES = { side: ["left", "right"], stack: ["upper", "lower"], swipe: ["left", "right"], overlay: ["first", "second"] };
const NEAR_PX = 9; // of the line between both halves: a press so near drags it

class Arrange {
  constructor(model, bar, parent, changed) { // `changed()`: to be drawn anew
    this.model = model;
    this.changed = changed;
    this.part = 0.5; // where the line is, or how much of the second is seen
    const title = "how the two pictures stand  (V)", choice = element("select", "vm-layout", bar, { title });
    for (const [value, textContent] of Object.entries(LAYOUTS)) element("option", "", choice, { value, textContent });
    choice.addEventListener("change", () => this.choose(choice.value));
    this.choice = choice;
    this.row = element("div", "vm-part", parent);
    const label = element("span", "", this.row);
    this.range = element("input", "", this.row, { type: "range", min: 0, max: 100, value: 50 });
    this.range.addEventListener("input", () => this.move(this.range.value / 100));
    this.other = element("span", "", this.row);
    this.label = label;
  }

  get layout() {
    return this.isPair ? this.model.get("arranged") ?? "side" : "side";
  }

  get isPair() {
    return this.model.get("sizes").length > 1;
  }

  get isOnTop() {
    return this.layout === "swipe" || this.layout === "overlay";
  }

  choose(layout) {
    this.model.set("arranged", layout);
    this.model.save_changes();
  }

  next() {
    const all = Object.keys(LAYOUTS);
    if (this.isPair) this.choose(all[(all.indexOf(this.layout) + 1) % all.length]);
  }

  flip() { // the one, then the other, for eyes that see what moves
    if (this.isOnTop) this.move(this.part > 0.5 ? 0 : 1);
  }

  move(part) {
    this.part = Math.min(1, Math.max(0, part));
    this.range.value = 100 * this.part;
    this.changed();
  }

  describe(root) {
    root.dataset.layout = this.layout;
    this.choice.hidden = !this.isPair;
    this.choice.value = this.layout;
    this.row.hidden = !this.isOnTop;
    const swipes = this.layout === "swipe", what = swipes ? "the line between both" : "how much of the second is seen";
    this.range.title = `${what}  (F: one, then the other)`;
    this.range.setAttribute("aria-label", what);
    [this.label.textContent, this.other.textContent] = SIDES[this.layout];
  }

  panes(images) { // of each picture, pixels of the canvas
    let [left, top] = [0, 0];
    const first = images[0];
    return images.map((image) => {
      const { width, height } = this.isOnTop ? first : image, pane = { left, top, width, height };
      if (this.layout === "stack") top += height + GAP;
      else if (!this.isOnTop) left += width + GAP;
      return pane;
    });
  }

  draw(context, images, panes) {
    const put = (n) => context.drawImage(images[n], panes[n].left, panes[n].top, panes[n].width, panes[n].height);
    put(0);
    if (images.length < 2) return;
    const { width, height } = panes[0], at = Math.round(this.part * width);
    context.save();
    if (this.layout === "overlay") context.globalAlpha = this.part;
    if (this.layout === "swipe") {
      context.beginPath();
      context.rect(at, 0, width - at, height);
      context.clip();
    }
    put(1);
    context.restore();
    if (this.layout !== "swipe") return;
    const thin = Math.max(2, Math.round(width / 400));
    for (const [colour, thick] of [["black", 2 * thin], ["white", thin]]) {
      context.fillStyle = colour;
      context.fillRect(at - thick / 2, 0, thick, height);
    }
  }

  under(x, y, panes) { // which picture is seen at a pixel of the canvas; -1: none
    const { width } = panes[0] ?? { width: 0 }, inside = (one) => x >= one.left && x < one.left + one.width;
    const found = panes.findIndex((one) => inside(one) && y >= one.top && y < one.top + one.height);
    if (found < 0 || !this.isOnTop || panes.length < 2) return found;
    return this.layout === "swipe" ? Number(x >= this.part * width) : Number(this.part > 0.5);
  }

  grabs(x, panes, scale) { // whether a press there drags the line
    return this.layout === "swipe" && panes.length > 1 && Math.abs(x - this.part * panes[0].width) * scale < NEAR_PX;
  }
}
