// The picture enlarged and moved inside its frame. The kernel is asked for finer pictures; until they come, and beyond
// what it paints, the browser enlarges those there are.
const MAX_ZOOM = 16, ZOOM_STEP = 1.5, FINEST = 4; // FINEST: pictures are painted for so many pixels of the screen at most

class Zoom {
  constructor(root, glass, picture) {
    Object.assign(this, { root, glass, picture });
    this.by = 1;
    this.pan = [0, 0]; // left and top of the enlarged picture in the frame, CSS pixels
    this.size = [1, 1]; // of the frame
  }

  get density() { // pixels to be painted for each CSS pixel of the frame
    return Math.min(FINEST, (window.devicePixelRatio || 1) * 2 ** Math.ceil(Math.log2(this.by)));
  }

  enlarge(by, event = null) { // around the pointer or the middle; 0: not at all any more
    const box = this.glass.getBoundingClientRect(), before = this.by;
    const at = event ? [event.clientX - box.left, event.clientY - box.top] : this.size.map((one) => one / 2);
    this.by = Math.min(MAX_ZOOM, Math.max(1, before * by));
    this.move(this.pan.map((one, n) => at[n] - (at[n] - one) * this.by / before));
  }

  move(pan) {
    this.pan = pan.map((one, n) => Math.min(0, Math.max(this.size[n] * (1 - this.by), one)));
    this.place();
  }

  fit(sharp) { // to a picture that is drawn, with so many pixels for each CSS pixel
    const { width, height } = this.picture, room = this.root.clientWidth - 8;
    const scale = Math.min(1 / sharp, room > 0 ? room / width : Infinity);
    if (this.by === 1) this.size = [width * scale, height * scale]; // enlarged, the frame stays as it is
    this.move(this.pan);
  }

  place() {
    const placed = [...this.size, this.by, ...this.pan].join();
    if (placed === this.placed) return; // what changes the page is dear
    this.placed = placed;
    const [width, height] = this.size.map((one) => `${one}px`);
    Object.assign(this.glass.style, { width, height });
    const transform = `translate(${this.pan[0]}px, ${this.pan[1]}px)`;
    Object.assign(this.picture.style, { width: `${this.size[0] * this.by}px`, transform });
    this.root.classList.toggle("vm-zoomed", this.by > 1);
  }
}
