// A file from the kernel to the browser, part by part, as a link that keeps it.
function render({ model, el }) {
  const link = element("a", "vm-download", el, { href: "#" });
  const told = element("span", "vm-download-told", el);
  told.setAttribute("role", "status");
  let parts = null, at = 0, url = null;

  const size = (bytes) => bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB`
    : `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
  const forget = () => {
    if (url) URL.revokeObjectURL(url);
    [parts, at, url] = [null, 0, null];
    link.href = "#";
    link.removeAttribute("download");
    told.textContent = "";
  };
  const draw = () => {
    forget();
    const [name, bytes] = [model.get("name"), model.get("size")];
    link.hidden = !name;
    link.textContent = name ? `download ${name}${bytes ? ` (${size(bytes)})` : ""}` : "";
  };
  const ask = () => {
    try {
      model.send({ kind: "get", at });
    } catch {
      parts = null;
      told.textContent = "the kernel of this page is gone: load the page again";
    }
  };
  const receive = (content, buffers) => {
    if (!parts || content.kind === "part" && content.at !== at) return; // of another view, or of what was offered before
    if (content.kind !== "part") { parts = null; told.textContent = content.why; return; }
    parts.push(buffers[0]);
    at += buffers[0].byteLength;
    told.textContent = ` ${size(at)} of ${size(content.of)}`;
    if (at < content.of) { ask(); return; }
    url = URL.createObjectURL(new Blob(parts));
    parts = null;
    link.href = url;
    link.download = model.get("name");
    told.textContent = " kept by the browser";
    link.click();
  };
  link.addEventListener("click", (event) => {
    if (url) return; // the browser's own business now
    event.preventDefault();
    if (parts) return;
    [parts, at] = [[], 0];
    ask();
  });
  model.on("msg:custom", receive);
  model.on("change", draw);
  draw();
  return () => {
    forget();
    model.off("msg:custom", receive);
    model.off("change", draw);
  };
}

export default { render };
