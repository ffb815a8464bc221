// A file from the browser to the kernel: the kernel asks for each part, so that neither side holds the whole of it.
const megabytes = (bytes) => (bytes / 1e6).toLocaleString("en", { maximumFractionDigits: bytes < 1e7 ? 1 : 0 });

function render({ model, el }) {
  const box = element("div", "vm-drop", el);
  const label = element("label", "", box);
  element("b", "", label, { textContent: "Drop a video here" });
  element("span", "", label, { textContent: ` or choose a file (at most ${megabytes(model.get("limit"))} MB)` });
  const input = element("input", "", label, { type: "file", accept: "video/*,.mkv,.gif,.ts,.avi,.mov" });
  const line = element("div", "vm-drop-line", box, { hidden: true });
  const bar = element("progress", "", line, { max: 1, value: 0 });
  const words = element("span", "", line);
  const cancel = element("button", "vm-button", line, { textContent: "cancel", type: "button" });
  const told = element("div", "vm-drop-told", box);
  told.setAttribute("role", "status");
  let file = null, id = null;

  const tell = (text, error = false) => { told.textContent = text; told.classList.toggle("vm-error", error); };
  const end = () => { file = id = null; line.hidden = true; input.value = ""; box.removeAttribute("aria-busy"); };
  const send = (content, parts = []) => {
    try {
      model.send(content, undefined, parts);
    } catch {
      end();
      tell("the kernel of this page is gone: load the page again", true);
    }
  };

  function begin(chosen) {
    if (chosen.size > model.get("limit")) { // said at once; the kernel says so, too
      tell(`${chosen.name} has ${megabytes(chosen.size)} MB, at most ${megabytes(model.get("limit"))} MB are taken: cut it`, true);
      return;
    }
    if (file) send({ kind: "cancel", id });
    file = chosen;
    id = Math.random().toString(36).slice(2);
    bar.value = 0;
    words.textContent = file.name;
    line.hidden = false;
    box.setAttribute("aria-busy", "true");
    tell("");
    send({ kind: "begin", id, name: file.name, size: file.size });
  }

  async function answer(content) {
    if (content.id !== id) return; // of a file that was cancelled
    if (content.kind === "want") {
      const mine = id, from = file;
      const end = Math.min(from.size, content.at + content.bytes);
      let part;
      try {
        part = await from.slice(content.at, end).arrayBuffer();
      } catch { // it changed or went away since it was chosen
        part = new ArrayBuffer(0);
      }
      if (mine !== id) return;
      send({ kind: "part", id, at: content.at }, [part]);
      bar.value = end / from.size;
      words.textContent = `${from.name}: ${megabytes(end)} of ${megabytes(from.size)} MB`;
    } else if (content.kind === "done") {
      end();
      tell(""); // what it is, or why it is none, is said by whoever opens it
    } else {
      end();
      tell(content.why, true);
    }
  }

  let turn = Promise.resolve(); // parts go in the order in which they are asked for
  const onMessage = (content) => { turn = turn.then(() => answer(content)); };
  model.on("msg:custom", onMessage);
  cancel.addEventListener("click", () => { send({ kind: "cancel", id }); end(); tell("cancelled: nothing was kept"); });
  input.addEventListener("change", () => { if (input.files[0]) begin(input.files[0]); });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    box.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      box.classList.toggle("vm-over-drop", name === "dragenter" || name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) begin(event.dataTransfer.files[0]);
    });
  }
  return () => {
    if (file) send({ kind: "cancel", id });
    model.off("msg:custom", onMessage);
  };
}

export default { render };
