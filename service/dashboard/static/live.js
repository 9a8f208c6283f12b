// Keeps the page current: when the server says that something changed, the parts of the page are asked for again.
// While the tab is hidden nothing is asked, and nothing is listened to.
const sign = document.querySelector("[data-live]");
const SHORTEST = 2000;
const LONGEST = 20000;
// The server begins to look for changes when the first one listens: what changed right then it could not see.
const SETTLING = 4000;

let source = null;
let asking = false;
let again = false;
let last = 0;
let timer = 0;
let settling = false;

function show(state, words) {
  sign.classList.toggle("is-on", state === "on");
  sign.classList.toggle("is-lost", state === "lost");
  sign.querySelector("span").textContent = words;
}

// What somebody reads, selects or writes in is left alone until he is done.
function inUse(element) {
  const chosen = getSelection();
  const selects = chosen && !chosen.isCollapsed && element.contains(chosen.anchorNode);
  const writes = document.activeElement && element.contains(document.activeElement)
    && document.activeElement.matches("input, select, textarea");
  return selects || writes;
}

// What was open stays open, and who stood on a link stands there still.
function put(element, html) {
  const open = [...element.querySelectorAll("details")].map((each) => each.open);
  const links = [...element.querySelectorAll("a, button, summary, [tabindex]")];
  const at = links.indexOf(document.activeElement);
  element.innerHTML = html;
  element.querySelectorAll("details").forEach((each, index) => { if (open[index]) each.open = true; });
  if (at >= 0) element.querySelectorAll("a, button, summary, [tabindex]")[at]?.focus({ preventScroll: true });
  element.dispatchEvent(new CustomEvent("part", { bubbles: true }));
}

const shown = new Map();

async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    // What is only looked at otherwise, such as masks that are switched off, is put again by whoever did it.
    const address = new URL(location.href);
    for (const name of ["hide", "boxes", "said"]) address.searchParams.delete(name);
    const answer = await fetch(address, { headers: { accept: "application/json" }, redirect: "error" });
    if (answer.status === 401) { leave(); return; }
    if (!answer.ok) throw new Error(answer.status);
    for (const [name, html] of Object.entries(await answer.json())) {
      const element = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
      if (!element || shown.get(name) === html || inUse(element)) continue;
      // The first answer is compared with the page itself, as a browser would write it.
      const trial = document.createElement("template");
      trial.innerHTML = html;
      if (!shown.has(name) && trial.innerHTML === element.innerHTML) { shown.set(name, html); continue; }
      shown.set(name, html);
      put(element, html);
    }
    show("on", "Live");
  } catch {
    show("lost", "Not live");
  } finally {
    asking = false;
    last = Date.now();
    plan(settling ? SETTLING : LONGEST);
    settling = false;
    if (again) { again = false; soon(); }
  }
}

function plan(wait) {
  clearTimeout(timer);
  if (source) timer = setTimeout(refresh, wait);
}

function soon() {
  plan(Math.max(0, SHORTEST - (Date.now() - last)));
}

function leave() {
  stop();
  location.reload();
}

function start() {
  if (source) return;
  source = new EventSource("/dashboard/live");
  source.addEventListener("open", () => { show("on", "Live"); settling = true; soon(); });
  source.addEventListener("change", soon);
  source.addEventListener("signed-out", leave);
  source.addEventListener("error", () => {
    show("lost", "Not live");
    // A refused stream does not come back by itself.
    if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(() => { if (!document.hidden) start(); }, 5000); }
  });
}

function stop() {
  clearTimeout(timer);
  source?.close();
  source = null;
  show("off", "Paused");
}

if (sign) {
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", () => { if (!document.hidden) start(); });
  if (!document.hidden) start();
}
