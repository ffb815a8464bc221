// When the kernel is gone (restarted, shut down, died) one note over the whole inspector says so, and what to do.
// ipywidgets takes its widgets off a kernel that restarts; of one that died nothing is heard but that nothing can be sent.
const OFF_CLASS = "jupyter-widgets-disconnected";
const SILENT_MS = 4000; // without an answer the kernel is busy, or gone
const HEADING = "The kernel behind this inspector is gone";
const WHY = "It was restarted, shut down, or it died. What is drawn here stays, but no control reaches anything any more.";
const AGAIN = "Run this cell again to go on (click it, then Shift+Enter), after the cells before it that it needs.";
const RELOAD = "Reload this page to go on.";

class Lost {
  constructor(model, probe) { // `probe(event)`: sends something; throws where nothing can be sent
    this.model = model;
    this.probe = probe;
  }

  watch(whole, signal) {
    this.whole = whole;
    const look = () => { if (whole.closest(`.${OFF_CLASS}`) || whole.querySelector(`.${OFF_CLASS}`)) this.show(); };
    this.classes = new MutationObserver(look);
    this.classes.observe(whole, { attributeFilter: ["class"] });
    for (const name of ["pointerdown", "keydown"]) { // of a kernel that died nobody tells until something is sent
      whole.addEventListener(name, (event) => {
        if (!event.target.closest?.(".vm-view")) try { this.probe(event); } catch { this.show(); }
      }, { capture: true, signal });
    }
    look();
  }

  show() {
    const { whole } = this;
    if (!whole || this.note?.isConnected) return;
    for (const part of whole.children) part.inert = true; // neither pointer nor keyboard get there
    whole.classList.add("vm-lost");
    this.note = element("div", "vm-gone", whole);
    this.note.setAttribute("role", "alert");
    const box = element("div", "", this.note);
    element("b", "", box, { textContent: HEADING });
    const what = document.querySelector(".jp-Notebook") ? AGAIN : RELOAD;
    for (const textContent of [WHY, what, this.model.get("kept_in")]) element("p", "", box, { textContent: textContent ?? "" });
  }

  close() {
    this.classes?.disconnect();
  }
}
