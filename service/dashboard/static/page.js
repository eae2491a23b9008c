// Times in the reader's zone, and buttons that copy. Pages can be read without it.

const zone = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "2-digit", day: "2-digit",
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short",
});

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

/** Write the times of a part of the page in the reader's zone; UTC stays on hover. */
export function localise(part) {
  for (const time of part.querySelectorAll("time[data-time]")) {
    time.textContent = zone.format(new Date(time.dateTime));
  }
  for (const label of part.querySelectorAll("text[data-clock]")) {
    if (label.textContent.includes(":")) label.textContent = clock.format(new Date(label.dataset.clock));
  }
  for (const button of part.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
  }
}

/** Copy text, over plain HTTP as well, where browsers offer no clipboard. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const from = button.dataset.copy
    ? document.getElementById(button.dataset.copy)
    : button.parentElement.querySelector("pre, code, input");
  const before = button.textContent;
  try {
    await copy(from.value ?? from.textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Could not copy";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
});

// A form is sent once, however often its button is pressed, and shows that it waits for its answer.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "dialog" || event.defaultPrevented) return;
  if (form.hasAttribute("aria-busy")) {
    event.preventDefault();
    return;
  }
  form.setAttribute("aria-busy", "true");
  setTimeout(() => setButtons(form, true)); // later: what a disabled button says is not sent
});
addEventListener("pageshow", () => {
  // Back from the answer; some browsers remember which buttons were disabled, too.
  for (const form of document.forms) {
    form.removeAttribute("aria-busy");
    setButtons(form, false);
  }
});

function setButtons(form, areDisabled) {
  for (const control of form.elements) if (control.type === "submit") control.disabled = areDisabled;
}

localise(document);
