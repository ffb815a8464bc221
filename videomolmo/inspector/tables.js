// A table below the picture: a click on the head of a column sorts it, one on a row goes to its frame. It is filled when
// it is opened. Texts are data of the user, never HTML.
function render({ model, el }) {
  const stop = new AbortController();
  const root = element("details", "vm-table", el);
  const title = element("summary", "", root, { title: model.get("hint") });
  const box = element("div", "vm-table-box", root);
  const table = element("table", "", box);
  const head = element("tr", "", element("thead", "", table)), body = element("tbody", "", table);
  const note = element("div", "vm-table-note", root);
  let sorted = { column: null, down: false }, now = -1;

  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not known stands last, either way
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    return sorted.down ? -order : order;
  };
  const order = () => {
    const numbers = model.get("rows").map((_, n) => n), { column } = sorted, rows = model.get("rows");
    return column === null ? numbers : numbers.sort((a, b) => compare(rows[a][column], rows[b][column]) || a - b);
  };
  const go = (frame) => root.dispatchEvent(new CustomEvent("vm-seek", { detail: { frame, stay: true }, bubbles: true }));
  const text = (value, digits) => value === null ? "–" : typeof value === "number" ? value.toFixed(digits) : value;

  const columns = () => {
    head.replaceChildren();
    for (const [n, [name, hint]] of model.get("columns").entries()) {
      const cell = element("th", "", head);
      const button = element("button", "", cell, { type: "button", title: `${hint}; click to sort` });
      button.textContent = name + (sorted.column === n ? (sorted.down ? " ▼" : " ▲") : "");
      cell.setAttribute("aria-sort", sorted.column !== n ? "none" : sorted.down ? "descending" : "ascending");
      button.addEventListener("click", () => {
        sorted = { column: n, down: sorted.column === n && !sorted.down };
        fill();
        head.children[n].firstChild.focus({ preventScroll: true });
      });
    }
    if (model.get("buttons").length) element("th", "", head);
  };
  const line = (n) => {
    const row = element("tr", "", body), frame = model.get("frames")[n], button = model.get("buttons")[n];
    row.dataset.frame = frame;
    row.classList.toggle("vm-here", frame === now);
    for (const [at, value] of model.get("rows")[n].entries()) {
      const cell = element("td", typeof value === "number" ? "vm-number" : "", row);
      cell.textContent = text(value, model.get("columns")[at][2] ?? 0);
      cell.title = String(value ?? "");
    }
    if (frame !== null) {
      row.tabIndex = 0;
      row.title = `go to frame ${frame}`;
      row.addEventListener("click", () => go(frame));
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.stopPropagation(); go(frame); } });
    }
    if (button === undefined) return;
    const made = element("button", "vm-button", element("td", "", row), { textContent: button[0], title: button[1] });
    made.type = "button";
    made.addEventListener("click", (event) => { event.stopPropagation(); model.send({ kind: "press", row: n }); });
  };
  const fill = () => {
    title.textContent = model.get("title");
    if (!root.open) return;
    columns();
    body.replaceChildren();
    for (const n of order()) line(n);
    note.textContent = model.get("note") || (model.get("rows").length ? "" : "…"); // the kernel is at it
  };
  const here = ({ detail: frame }) => { // the row of the frame that is shown
    now = frame;
    for (const row of body.querySelectorAll(".vm-here")) row.classList.remove("vm-here");
    if (root.open) for (const row of body.querySelectorAll(`[data-frame="${frame}"]`)) row.classList.add("vm-here");
  };
  const attach = () => { // it is put into the page after this function
    if (stop.signal.aborted) return;
    const whole = el.isConnected && el.closest(".vm-inspector");
    if (!whole) { requestAnimationFrame(attach); return; }
    now = Number(whole.querySelector(".vm-view")?.dataset.frame ?? -1);
    whole.addEventListener("vm-frame", here, { signal: stop.signal });
  };
  root.open = model.get("unfolded");
  root.addEventListener("toggle", () => { model.set("unfolded", root.open); model.save_changes(); fill(); });
  model.on("change", fill);
  fill();
  attach();
  return () => {
    stop.abort();
    model.off("change", fill);
  };
}

export default { render };
