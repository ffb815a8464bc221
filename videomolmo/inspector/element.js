// A new element in another; texts are data of the user, set as properties and never read as HTML.
function element(tag, name, parent, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.className = name;
  parent.append(made);
  return made;
}
