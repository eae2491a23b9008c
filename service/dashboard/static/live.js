// Keeps the regions of a page up to date: `<section id="counts" data-live>`. The server says that
// something changed; the page is asked for again, and what differs in its regions is changed in place.
// A page that names another address (`data-live-url`), such as a list of the very rows that it shows, is
// asked for there.
// A page that is hidden or paused asks for nothing.

import { morph } from "./morph.js";
import { localise } from "./page.js";

const POLL = 5_000; // from one look to the next where there is no stream
const LONGEST = 15_000; // without an event: times that pass change a page as well
const SHORTEST = 1_000;
const SILENCE = 40_000; // a stream says something every 15 s
const STREAM_AGAIN = 30_000; // after the server refused a stream
const OFFLINE = 5_000; // until a failure is called that
const LATE = 20_000;
const STOPPED = "stopped";
const ANSWERS = { 403: "No longer permitted", 404: "No longer there", 503: "Service unavailable" };
const STORED = "finmind.live";

const root = document.body.dataset.root;
const panel = document.getElementById("live");
const words = panel.querySelector("[role=status]");
const button = panel.querySelector("button");
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });

let stream = null;
let isRefused = false; // the server has no stream for this page
let heardAt = 0;
let timer = 0;
let streamTimer = 0;
let request = null;
let notBefore = 0;
let isDue = false; // something changed while a request was on its way
let failingSince = 0;
let answered = 0; // the status of the last answer; 0: there was none
let isSignedOut = false;
let isPaused = stored() === "paused";

function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null; // storage can be forbidden
  }
}

function store(value) {
  try {
    localStorage.setItem(STORED, value);
  } catch { /* the page remembers it as long as it is open */ }
}

function isActive() {
  return !isPaused && !document.hidden && !isSignedOut;
}

function state() {
  if (isSignedOut) return "Signed out";
  if (isPaused) return "Paused";
  if (failingSince) return failure(clock.format(failingSince));
  if (isRefused) return `Checked every ${POLL / 1000} s`;
  return stream?.readyState === EventSource.OPEN ? "Live" : "Connecting";
}

function failure(since) {
  if (answered) return `${ANSWERS[answered] ?? `Error ${answered}`} since ${since}`;
  return Date.now() - failingSince > OFFLINE ? `Offline since ${since}` : "Reconnecting";
}

function show() {
  const now = state();
  if (words.textContent !== now) words.textContent = now; // else a screen reader says it again
  panel.dataset.state = isPaused ? "paused" : isSignedOut || failingSince ? "failing" : "well";
  button.textContent = isSignedOut ? "Sign in" : isPaused ? "Resume" : "Pause";
}

function openStream() {
  clearTimeout(streamTimer);
  stream?.close();
  heardAt = Date.now();
  stream = new EventSource(`${root}/events`);
  const hear = (event) => {
    heardAt = Date.now();
    isRefused = false;
    if (event.type !== "ping") look(0);
  };
  for (const type of ["open", "changed", "ping", "signed-out"]) stream.addEventListener(type, hear);
  stream.onerror = () => {
    // A browser tries again by itself, unless the answer was no stream.
    isRefused = stream.readyState === EventSource.CLOSED;
    if (isRefused) streamTimer = setTimeout(openStream, STREAM_AGAIN);
    look(0);
  };
}

function start() {
  if (isActive()) openStream();
  look(0);
}

function stop() {
  clearTimeout(timer);
  clearTimeout(streamTimer);
  stream?.close();
  stream = null;
  request?.abort(STOPPED);
}

/** Ask for the page in `wait` milliseconds, or after the request that is on its way. */
function look(wait) {
  if (request) {
    isDue = true;
  } else {
    clearTimeout(timer);
    const rest = notBefore - performance.now();
    if (isActive()) timer = setTimeout(refresh, Math.max(wait, rest));
  }
  show();
}

async function refresh() {
  const began = performance.now();
  const control = request = new AbortController();
  const late = setTimeout(() => control.abort(), LATE);
  isDue = false;
  let status = 0;
  try {
    const from = document.querySelector("[data-live-url]")?.dataset.liveUrl ?? location.href;
    const answer = await fetch(from, { headers: { "X-Refresh": "1" }, signal: control.signal });
    status = answer.ok ? 0 : answer.status;
    if (new URL(answer.url).pathname.endsWith("/sign-in")) {
      isSignedOut = true;
      stop();
    } else {
      // What it showed is gone: the page says what became of it.
      if (status === 404 && new URL(answer.url).pathname === location.pathname) location.reload();
      if (!answer.ok) throw new Error(`status ${status}`);
      update(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failingSince = 0;
    }
  } catch (error) {
    if (error !== STOPPED) {
      failingSince ||= Date.now();
      answered = status;
    }
  }
  clearTimeout(late);
  request = null;
  const took = performance.now() - began;
  notBefore = performance.now() + Math.max(SHORTEST - took, 2 * took); // a slow page is asked for less
  const streams = stream?.readyState === EventSource.OPEN;
  if (streams && Date.now() - heardAt > SILENCE) openStream();
  look(isDue ? 0 : streams && !failingSince ? LONGEST : POLL);
}

function update(fresh) {
  localise(fresh);
  for (const region of document.querySelectorAll("[data-live][id]")) {
    const newer = fresh.getElementById(region.id);
    if (newer) morph(region, newer);
  }
}

button.addEventListener("click", () => {
  if (isSignedOut) {
    location.reload();
    return;
  }
  isPaused = !isPaused;
  store(isPaused ? "paused" : "live");
  if (isPaused) stop();
  else start();
  show();
});

if (document.querySelector("[data-live][id]")) {
  panel.hidden = false;
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => event.persisted && start());
  setInterval(show, SHORTEST); // how long it has been offline
  if (isActive()) openStream();
  show();
}
