// The caption below the pictures: each phrase in its object's colour. Over a phrase, or with the keyboard on it, its
// masks are shown alone; over an object its phrases are marked, and its row in the list.
const ENTER_MS = 80, LEAVE_MS = 60; // before a mask is shown alone, and before all come back: the pointer passes over

function hover(inside, objects, pane = 0) { // tell the whole inspector what the pointer is over
  inside.dispatchEvent(new CustomEvent("vm-hover", { detail: { objects, pane }, bubbles: true }));
}

class Phrases {
  constructor(model, parent, tell) { // `tell(pane, objects)`: these alone, or all again with null
    this.model = model;
    this.tell = tell;
    this.box = element("div", "vm-sentences", parent);
    this.phrases = []; // { made, pane, objects }
    this.alone = null;
  }

  draw() {
    const captions = this.model.get("captions") ?? [];
    if (this.drawn === JSON.stringify(captions)) return;
    this.drawn = JSON.stringify(captions);
    this.phrases = [];
    this.box.replaceChildren();
    for (const [pane, pieces] of captions.entries()) {
      const line = element("div", "vm-sentence", this.box);
      for (const [text, objects] of pieces) {
        if (!objects.length) line.append(text);
        else if (objects.length === 1) this.phrase(line, pane, text, objects).append(this.number(objects[0][0]));
        else {
          this.phrase(line, pane, text, objects);
          for (const one of objects) this.phrase(line, pane, String(one[0]), [one]);
        }
      }
    }
  }

  number(id) {
    return Object.assign(document.createElement("sup"), { textContent: id });
  }

  phrase(line, pane, text, objects) {
    const ids = objects.map(([id]) => id), names = ids.length > 1 ? `objects ${ids.join(", ")}` : `object ${ids[0]}`;
    const made = element("span", "vm-phrase", line, { textContent: text, tabIndex: 0, title: `${names}: shown alone` });
    made.setAttribute("role", "button");
    made.setAttribute("aria-label", `${text}, ${names}`);
    made.dataset.objects = ids.join(" ");
    if (ids.length === 1) Object.assign(made.style, { background: objects[0][1], color: objects[0][2] });
    else {
      const steps = objects.map(([, colour], n) => `${colour} ${n / ids.length * 100}% ${(n + 1) / ids.length * 100}%`);
      made.style.borderImage = `linear-gradient(90deg, ${steps.join(", ")}) 1`;
      made.classList.add("vm-many");
    }
    const enter = () => { hover(made, ids, pane); this.show({ pane, objects: ids }, ENTER_MS); };
    const leave = () => { hover(made, [], pane); this.show(null, LEAVE_MS); };
    for (const name of ["pointerenter", "focus"]) made.addEventListener(name, enter);
    for (const name of ["pointerleave", "blur"]) made.addEventListener(name, leave);
    this.phrases.push({ made, pane, objects: ids });
    return made;
  }

  show(alone, wait) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      if (JSON.stringify(alone) !== JSON.stringify(this.alone)) this.tell(this.alone = alone);
    }, wait);
  }

  mark({ objects, pane }) { // phrases of these objects
    for (const one of this.phrases) {
      const about = one.pane === pane && one.objects.some((id) => objects.includes(id));
      one.made.classList.toggle("vm-hot", about);
    }
  }

  close() {
    clearTimeout(this.waiting);
  }
}
