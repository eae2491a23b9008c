// Lists: suggestions in the search box, and the boxes that select rows. Both work without it.

const MAX_OFFERED = 12;

/** Where the term under the caret begins. */
function termStart(input) {
  const before = input.value.slice(0, input.selectionStart ?? input.value.length);
  let start = 0, quoted = false;
  for (let i = 0; i < before.length; i++) {
    if (before[i] === '"') quoted = !quoted;
    else if (before[i] === " " && !quoted) start = i + 1;
  }
  return start;
}

function suggest(input) {
  const all = [...(input.list?.options ?? [])].map((option) => option.value);
  if (!all.length) return;
  // The browser's own list completes the whole box, and not the term that is being typed.
  input.removeAttribute("list");
  const box = document.createElement("ul");
  box.id = "offered";
  box.className = "offered";
  box.setAttribute("role", "listbox");
  box.setAttribute("aria-label", "Suggestions");
  box.hidden = true;
  input.parentElement.append(box);
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-controls", box.id);
  input.setAttribute("aria-autocomplete", "list");
  let at = -1;

  const close = () => {
    box.hidden = true;
    at = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = (to) => {
    at = to;
    [...box.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
    const current = box.children[at];
    if (!current) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", current.id);
    current.scrollIntoView({ block: "nearest" });
  };
  const take = (term) => {
    const start = termStart(input);
    const rest = input.value.slice(input.selectionStart).replace(/^\S+/, "");
    const space = /[:.]$/.test(term) ? "" : " ";
    input.value = input.value.slice(0, start) + term + space + rest.trimStart();
    const caret = start + term.length + space.length;
    input.setSelectionRange(caret, caret);
    close();
    if (!space) offer();
  };
  const offer = () => {
    const typed = input.value.slice(termStart(input), input.selectionStart).toLowerCase();
    const found = all.filter((term) => term.toLowerCase().startsWith(typed) && term.toLowerCase() !== typed);
    // Nothing typed: the fields alone.
    const offered = typed ? found : [...new Set(found.map((term) => term.replace(/^([^:]*:).*/, "$1")))];
    box.replaceChildren(...offered.slice(0, MAX_OFFERED).map((term, i) => {
      const item = document.createElement("li");
      item.id = `offered-${i}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      item.textContent = term;
      item.addEventListener("pointerdown", (event) => { event.preventDefault(); take(term); });
      return item;
    }));
    at = -1;
    box.hidden = !box.children.length;
    input.setAttribute("aria-expanded", String(!box.hidden));
    input.removeAttribute("aria-activedescendant");
  };
  input.setAttribute("aria-expanded", "false");
  input.addEventListener("input", offer);
  input.addEventListener("focus", offer);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (box.hidden) {
      if (event.key === "ArrowDown") offer();
      return;
    }
    const last = box.children.length - 1;
    if (event.key === "ArrowDown") mark(at >= last ? 0 : at + 1);
    else if (event.key === "ArrowUp") mark(at <= 0 ? last : at - 1);
    else if (event.key === "Enter" && at >= 0) take(box.children[at].textContent);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

for (const input of document.querySelectorAll("input[data-suggest]")) suggest(input);

const boxes = () => [...document.querySelectorAll("[data-rows] input[type=checkbox][name=ids]")];

/** Say how many rows are selected, and offer what acts on them only then. */
function showSelection() {
  const all = boxes(), selected = all.filter((box) => box.checked).length;
  for (const master of document.querySelectorAll("[data-select-all]")) {
    master.hidden = false;
    master.checked = selected > 0 && selected === all.length;
    master.indeterminate = selected > 0 && selected < all.length;
  }
  for (const words of document.querySelectorAll("[data-selected]")) words.textContent = selected ? `${selected} selected:` : "None selected";
  for (const button of document.querySelectorAll("#selection button")) button.disabled = !selected;
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-select-all]")) {
    for (const box of boxes()) box.checked = event.target.checked;
  } else if (!event.target.matches("[name=ids]")) return;
  showSelection();
});
addEventListener("pageshow", showSelection);
showSelection();
