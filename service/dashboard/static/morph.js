// Makes a part of the page like a newer version of it, and changes only what differs: focus, selection,
// scroll positions, open details and what somebody is typing stay.

/** Attributes that people and our scripts set, and a newer version does not take back. */
const KEPT = new Set(["open", "tabindex"]);

/** Make `old` like `fresh`. */
export function morph(old, fresh) {
  if (old.isEqualNode(fresh) || isBusy(old)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
  } else if (old.nodeType === Node.ELEMENT_NODE) {
    morphAttributes(old, fresh);
    morphChildren(old, fresh);
  } else if (!isSelected(old)) {
    old.data = fresh.data;
  }
}

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !KEPT.has(name)) old.setAttribute(name, value);
  }
}

function morphChildren(old, fresh) {
  const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
  const byId = new Map();
  for (const child of [...old.children]) {
    if (wanted.has(child.id)) byId.set(child.id, child);
    else if (child.id && !holdsBusy(child)) child.remove();
  }
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    while (at?.id && !wanted.has(at.id)) at = at.nextSibling; // kept for its form: it stays where it is
    const same = at && !at.id && !child.id && at.nodeName === child.nodeName ? at : null;
    const known = byId.get(child.id) ?? same;
    if (!known) {
      old.insertBefore(document.importNode(child, true), at);
    } else {
      if (known === at) at = at.nextSibling;
      else move(old, known, at);
      morph(known, child);
    }
  }
  while (at) {
    const next = at.nextSibling;
    if (!holdsBusy(at)) at.remove();
    at = next;
  }
}

function move(parent, child, before) {
  if (parent.moveBefore) parent.moveBefore(child, before);
  else parent.insertBefore(child, before);
}

/** Whether it is a form that somebody is writing in, or that waits for its answer: it is left alone. */
function isBusy(node) {
  if (node.nodeName !== "FORM") return false;
  const active = document.activeElement;
  return node.hasAttribute("aria-busy") || (node.contains(active) && active.matches("input, textarea, select"));
}

/** Whether there is such a form in it: a row whose job is gone from the list stays as long. */
function holdsBusy(node) {
  return isBusy(node) || [...(node.querySelectorAll?.("form") ?? [])].some(isBusy);
}

function isSelected(text) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(text, true);
}
