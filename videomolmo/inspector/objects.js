// The list of objects: colour and number, whether each is shown, its name. Names are text of the user, never HTML.
function render({ model, el }) {
  const stop = new AbortController(), lines = new Map(); // id -> { line, box, name, solo }
  const root = element("div", "vm-objects", el);
  const bar = element("div", "vm-objects-bar", root);
  const list = element("div", "vm-objects-list", root);
  const ids = () => model.get("rows").map(([id]) => id);
  const hide = (hidden) => { model.set("hidden", hidden); model.save_changes(); refresh(); };
  const over = (target, objects) =>
    target.dispatchEvent(new CustomEvent("vm-hover", { detail: { objects, pane: 0 }, bubbles: true }));
  const button = (text, title, act) => {
    const made = element("button", "vm-button", bar, { textContent: text, title, type: "button" });
    made.addEventListener("click", act);
  };
  button("all", "show all objects  (a)", () => hide([]));
  button("none", "hide all objects  (h)", () => hide(ids()));
  const count = element("span", "vm-where", bar);

  const solo = (id) => {
    const others = ids().filter((one) => one !== id), hidden = model.get("hidden");
    const alone = !hidden.includes(id) && others.every((one) => hidden.includes(one));
    hide(alone ? [] : others);
  };
  const choose = (line, id) => { // colours below a row, until one is taken or the row is clicked again
    const there = list.querySelector(".vm-palette"), open = there?.dataset.id !== String(id);
    there?.remove();
    if (!open) return;
    const palette = element("div", "vm-palette", list);
    palette.dataset.id = id;
    line.after(palette);
    for (const [number, colour, ink] of model.get("palette")) {
      const made = element("button", "", palette, { type: "button", textContent: number, title: `colour ${number}` });
      Object.assign(made.style, { background: colour, color: ink });
      made.addEventListener("click", () => { palette.remove(); model.send({ kind: "colour", id, colour: number }); });
    }
  };
  const row = (id, colour, ink) => {
    const line = element("div", "vm-object", list);
    const box = element("input", "", line, { type: "checkbox", title: `show or hide object ${id}` });
    const plate = element("button", "vm-plate", line, { textContent: id, type: "button" });
    Object.assign(plate.style, { background: colour, color: ink });
    plate.title = `choose another colour for object ${id}`;
    plate.addEventListener("click", () => choose(line, id));
    const name = element("input", "vm-name", line, { type: "text", spellcheck: false, maxLength: 200 });
    name.setAttribute("aria-label", `name of object ${id}`);
    const only = element("button", "vm-button", line, { textContent: "solo", type: "button" });
    only.title = `show object ${id} alone, or all again`;
    box.addEventListener("change", () => {
      const hidden = model.get("hidden").filter((one) => one !== id);
      hide(box.checked ? hidden : [...hidden, id]);
    });
    name.addEventListener("change", () => {
      model.send({ kind: "name", id, text: name.value });
      name.value = name.dataset.kept; // until the new one is kept: it may be refused
    });
    name.addEventListener("keydown", (event) => { // the keys belong to the picture again
      if (!["Enter", "Escape"].includes(event.key)) return;
      if (event.key === "Escape") name.value = name.dataset.kept;
      event.stopPropagation();
      event.preventDefault();
      name.blur();
      el.closest(".vm-inspector")?.querySelector(".vm-view")?.focus({ preventScroll: true });
    });
    only.addEventListener("click", () => solo(id));
    line.addEventListener("pointerenter", () => over(line, [id]));
    line.addEventListener("pointerleave", () => over(line, []));
    lines.set(id, { line, box, name });
  };
  const changed = () => { // rows stay where only names are others: somebody may type into one
    const drawn = model.get("rows").map(([id, , ...colours]) => [id, ...colours].join(" ")).join();
    if (root.dataset.drawn === drawn) return refresh();
    root.dataset.drawn = drawn;
    build();
  };
  const build = () => {
    lines.clear();
    list.replaceChildren();
    for (const [id, , colour, ink] of model.get("rows")) row(id, colour, ink);
    if (model.get("more")) element("i", "", list, { textContent: model.get("more") });
    refresh();
  };
  const refresh = () => {
    const hidden = model.get("hidden"), rows = model.get("rows");
    root.dataset.hidden = hidden.join(" ");
    root.dispatchEvent(new CustomEvent("vm-shown", { bubbles: true })); // the plots listen
    count.textContent = rows.length ? `${rows.length - hidden.length} of ${rows.length} shown` : "";
    for (const [id, name] of rows) {
      const one = lines.get(id);
      if (!one) return;
      one.box.checked = !hidden.includes(id);
      if (document.activeElement !== one.name) one.name.value = name;
      one.name.dataset.kept = name;
      one.name.title = `${name} · type another name, which is kept and exported`;
    }
  };
  const mark = ({ detail: { objects, pane } }) => {
    for (const [id, { line }] of lines) line.classList.toggle("vm-hot", pane === 0 && objects.includes(id));
  };
  const attach = () => { // it is put into the page after this function
    if (stop.signal.aborted) return;
    if (!el.isConnected) requestAnimationFrame(attach);
    else (el.closest(".vm-inspector") ?? el).addEventListener("vm-hover", mark, { signal: stop.signal });
  };
  model.on("change:rows", changed);
  model.on("change:more", build);
  model.on("change:hidden", refresh);
  changed();
  attach();
  return () => {
    stop.abort();
    model.off("change:rows", changed);
    model.off("change:more", build);
    model.off("change:hidden", refresh);
  };
}

export default { render };
