// Plotly figures that share one time line with the picture beside them. The kernel draws the figures; this shows them,
// moves their line of time, and tells which frame was hovered over or clicked. The line is an element of its own above
// each plot: moving a shape makes plotly draw the whole figure anew, which no scrubbing survives.
// plotly's own notebook widget brings the whole library with every figure and may show before its data is there; here
// the library is fetched once a page, and only from the kernel, so that nothing needs a network.
const LIBRARY = "videomolmoPlotly";
const PATIENCE_MS = 5000, LOOK_MS = 50; // until a view goes on or asks again; between two looks for the library
const REST_MS = 80; // while frames follow each other
const SIGNS = {
  diamond: "◆", circle: "●", square: "■", "triangle-up": "▲", "triangle-right": "▶", "triangle-left": "◀",
  "triangle-down": "▼", x: "✖", "line-ew-open": "―",
};
const CONFIG = { responsive: true, displayModeBar: false }; // its buttons would lie over the lines

// The library is large and comes down the same line as the first picture, which people wait for.
function pictured(inspector) {
  return new Promise((resolve) => {
    if (inspector.querySelector(".vm-live")) resolve();
    inspector.addEventListener("vm-frame", resolve, { once: true });
    setTimeout(resolve, PATIENCE_MS); // a result without frames has none
  });
}

// Gives the library, once it is in the page. One view asks for all of them; where no answer comes, or one that is no
// library, the next one asks, ever more rarely: the kernel that was asked may be busy, or gone.
function library(model, closed) {
  const page = (globalThis[LIBRARY] ??= { Plotly: null, asked: -Infinity, waiting: [] });
  page.patience = PATIENCE_MS;
  page.waiting.unshift(model); // its kernel is the newest
  return new Promise((resolve) => {
    const receive = (content, buffers) => { if (content.kind === "library") load(page, buffers[0]); };
    const look = () => {
      if (page.Plotly || closed.aborted) {
        page.waiting.splice(page.waiting.indexOf(model), 1);
        model.off("msg:custom", receive);
        if (!closed.aborted) resolve(page.Plotly);
        return;
      }
      setTimeout(look, LOOK_MS);
      if (page.waiting[0] === model && performance.now() - page.asked > page.patience) ask();
    };
    const ask = () => {
      page.waiting.push(page.waiting.shift());
      try {
        model.send({ kind: "library" });
      } catch { return; } // its line to a kernel is closed: the next one's turn
      if (page.asked > -Infinity) page.patience *= 2;
      page.asked = performance.now();
    };
    model.on("msg:custom", receive);
    look();
  });
}

function load(page, file) {
  if (page.Plotly) return;
  const before = globalThis.Plotly, script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([file], { type: "text/javascript" }));
  script.onload = () => {
    if (globalThis.Plotly !== before) page.Plotly = globalThis.Plotly;
    if (before) globalThis.Plotly = before; // what others loaded stays theirs
    URL.revokeObjectURL(script.src);
  };
  document.head.append(script);
}

async function render({ model, el }) {
  el.classList.add("vm-stack");
  const plots = [], open = new AbortController();
  let Plotly = null, frame = 0, told = null, drawing = Promise.resolve();

  // Hovering shows a frame for a moment, a click goes there; without a picture beside it the kernel is told.
  const seek = (to, stay) => {
    if (to === told && !stay) return;
    told = to;
    const view = el.closest(".vm-inspector")?.querySelector(".vm-view");
    if (view) view.dispatchEvent(new CustomEvent("vm-seek", { detail: { frame: to, stay }, bubbles: true }));
    else if (to !== null) model.send({ kind: "go", frame: to });
  };
  const pick = (plot, { points, event }, stay) => {
    const axis = points?.[0]?.xaxis; // the frame under the mouse, not that of the nearest point of a line
    if (axis) seek(Math.max(0, Math.round(under(plot, event, axis))), stay);
  };
  const explain = (plot, data) => { // plotly's own legend takes the plot's room where it is narrow
    const legend = plot.closest("details")?.querySelector(".vm-legend");
    legend?.replaceChildren(...data.filter((one) => one.name && one.showlegend !== false).map((one) => {
      const made = document.createElement("span"), sign = document.createElement("b");
      sign.textContent = SIGNS[one.marker?.symbol] ?? (one.mode === "lines" && one.meta?.decision ? "▬" : "―");
      sign.style.color = one.marker?.color ?? one.line?.color;
      made.append(sign, ` ${one.name}`);
      return made;
    }));
  };
  const fold = (plot, name) => { // what is not wanted can be folded away
    const box = document.createElement("details"), title = document.createElement("summary");
    box.open = true;
    box.className = "vm-plot";
    title.textContent = name;
    box.append(title, Object.assign(document.createElement("div"), { className: "vm-legend" }), plot);
    box.addEventListener("toggle", () => box.open && plot.layout && Plotly.Plots.resize(plot));
    el.append(box);
  };
  const under = (plot, event, axis) => axis.p2d(event.clientX - plot.getBoundingClientRect().left - axis._offset);
  const draw = async () => {
    const figures = model.get("figures").map((text) => JSON.parse(text)), hidden = unseen();
    while (plots.length > figures.length) { Plotly.purge(plots.at(-1)); plots.pop().closest("details").remove(); }
    for (const [n, { data, layout }] of figures.entries()) {
      for (const one of data) one.visible = !hidden.has(String(one.meta?.object));
      const plot = plots[n] ?? document.createElement("div");
      const clear = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" }; // the page's own ground
      const wide = { ...layout, ...clear, autosize: true, hoverdistance: -1, showlegend: false };
      if (wide.shapes?.length) wide.shapes[0] = { ...wide.shapes[0], visible: false };
      plot.style.height = `${layout.height}px`; // a figure that is resized takes the size of its box
      if (!plots[n]) {
        plots[n] = plot;
        fold(plot, model.get("names")?.[n] ?? "");
        await Plotly.newPlot(plot, data, wide, CONFIG);
        plot.on("plotly_hover", (event) => pick(plot, event, false));
        plot.on("plotly_click", (event) => pick(plot, event, true));
        plot.addEventListener("mouseleave", () => seek(null, false));
        plot.on("plotly_afterplot", () => place(plot));
        plot.now = Object.assign(document.createElement("div"), { className: "vm-now" });
        plot.append(plot.now);
      } else await Plotly.react(plot, data, wide, CONFIG);
      explain(plot, data);
      place(plot);
    }
    el.dataset.drawn = Number(el.dataset.drawn ?? 0) + 1;
  };
  const unseen = () => { // objects that the list beside the plots hides
    const list = el.closest(".vm-inspector")?.querySelector(".vm-objects")?.dataset.hidden;
    return new Set(list?.split(" ").filter(Boolean));
  };
  let shown = "";
  const choose = () => {
    const now = [...unseen()].join();
    if (now !== shown && plots.length) { shown = now; redraw(); }
  };
  const redraw = () => { drawing = drawing.then(draw); return drawing; };
  const place = (plot) => { // where plotly put its axes is known only to itself
    const { xaxis, _size: room } = plot._fullLayout ?? {};
    if (!xaxis || !plot.now) return;
    const inside = xaxis.range[0] <= frame && frame <= xaxis.range[1];
    const transform = `translate(${xaxis._offset + xaxis.d2p(frame) - 1}px, ${room.t}px)`;
    Object.assign(plot.now.style, { visibility: inside ? "" : "hidden", transform, height: `${room.h}px` });
    plot.now.dataset.frame = frame;
  };
  let resting = 0; // the timer between two moves of the lines: they may lag behind a held key, the pictures may not
  const moved = (event) => {
    frame = event.detail;
    if (resting) return;
    const at = frame;
    plots.forEach(place);
    resting = setTimeout(() => { resting = 0; if (frame !== at) moved({ detail: frame }); }, REST_MS);
  };
  const resized = new ResizeObserver(() => plots.forEach((plot) => plot.layout && Plotly.Plots.resize(plot)));

  const begin = async () => {
    while (!el.isConnected) { // it is put into the page after this function
      if (open.signal.aborted) return;
      await new Promise(requestAnimationFrame);
    }
    const inspector = el.closest(".vm-inspector") ?? el;
    inspector.addEventListener("vm-frame", moved, { signal: open.signal });
    inspector.addEventListener("vm-shown", choose, { signal: open.signal });
    if (inspector !== el) await pictured(inspector); // alone there is none
    Plotly = await library(model, open.signal);
    frame = Number(inspector.querySelector(".vm-view")?.dataset.frame ?? 0);
    model.on("change:figures", redraw);
    redraw().then(() => resized.observe(el));
  };
  begin();
  return () => {
    open.abort();
    clearTimeout(resting);
    resized.disconnect();
    model.off("change:figures", redraw);
    plots.forEach((plot) => Plotly.purge(plot));
  };
}

export default { render };
