"use strict";

const NAMES = { thinking: "Thinking", direct: "Direct" };
const element = (id) => document.getElementById(id);
let running = null;

function column(mode) {
  const section = element("column").content.firstElementChild.cloneNode(true);
  section.dataset.mode = mode;
  section.querySelector("h2").textContent = NAMES[mode];
  element("columns").append(section);
  return section;
}

function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// Everything that came from elsewhere becomes text nodes, never markup.
function marked(text, query) {
  const words = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? [])];
  if (!words.length) return [text];
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(${words.join("|")})(?![\\p{L}\\p{N}])`, "giu");
  return text.split(pattern).map((part, place) => {
    if (place % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });
}

function hitItem(hit, query) {
  const item = element("hit").content.firstElementChild.cloneNode(true);
  item.dataset.id = hit.id;
  item.querySelector(".rank").textContent = hit.rank;
  item.querySelector(".id").textContent = hit.id;
  item.querySelector(".id").title = hit.id;
  item.querySelector(".score").textContent = hit.score.toFixed(3);
  item.querySelector(".score").title = "cosine similarity";
  item.querySelector(".text").append(...marked(hit.text, query));
  return item;
}

function offerAll(item) {
  const text = item.querySelector(".text");
  const more = item.querySelector(".more");
  more.hidden = text.scrollHeight <= text.clientHeight + 1;
  more.addEventListener("click", () => {
    const open = item.classList.toggle("open");
    more.textContent = open ? "Show less" : "Show all";
    more.setAttribute("aria-expanded", String(open));
  });
}

function showFound(section, found) {
  section.found = found;
  const thought = section.querySelector(".thought");
  thought.classList.remove("writing");
  thought.textContent = found.thought;
  thought.hidden = !found.thought;
  const figures = [plural(found.hits.length, "hit"), `${found.seconds.toFixed(2)} s`];
  if (found.tokens && found.mode !== "direct") figures.splice(1, 0, plural(found.tokens, "token"));
  section.querySelector(".figures").textContent = figures.join(" · ");
  const items = found.hits.map((hit) => hitItem(hit, found.query));
  section.querySelector(".hits").replaceChildren(...items);
  items.forEach(offerAll);
}

function showError(section, message) {
  const thought = section.querySelector(".thought");
  thought.classList.remove("writing");
  thought.hidden = !thought.textContent;
  section.querySelector(".figures").textContent = "";
  const error = section.querySelector(".error");
  error.textContent = message;
  error.hidden = false;
}

function showChanges(sections) {
  const [thinking, direct] = ["thinking", "direct"].map((mode) => sections.find((one) => one.dataset.mode === mode));
  if (!thinking?.found || !direct?.found) return;
  const before = new Map(direct.found.hits.map((hit) => [hit.id, hit.rank]));
  thinking.found.hits.forEach((hit, place) => {
    const change = thinking.querySelectorAll(".change")[place];
    const moved = (before.get(hit.id) ?? Infinity) - hit.rank;
    change.textContent = moved === Infinity ? "new" : moved > 0 ? `▲ ${moved}` : moved < 0 ? `▼ ${-moved}` : "";
    change.classList.add(moved > 0 ? "up" : "down");
    change.title = moved === Infinity ? "not among the direct hits" : "against its rank among the direct hits";
  });
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function follow(section, event) {
  const thought = section.querySelector(".thought");
  if (event.event === "waiting") {
    section.querySelector(".figures").textContent = event.before ? `waiting behind ${event.before} others` : "searching …";
  } else if (event.event === "thought") {
    if (thought.hidden) section.querySelector(".figures").textContent = "thinking …";
    thought.hidden = false;
    thought.classList.add("writing");
    thought.append(event.text);
    thought.scrollTop = thought.scrollHeight;
  } else if (event.event === "found") {
    showFound(section, event);
  } else {
    showError(section, event.error);
  }
}

async function ask(section, query, k, signal) {
  const body = JSON.stringify({ query, k, mode: section.dataset.mode });
  try {
    const response = await fetch("/stream", {
      method: "POST", headers: { "Content-Type": "application/json" }, body, signal,
    });
    if (!response.ok) {
      showError(section, (await response.json()).error);
      return;
    }
    for await (const event of lines(response)) follow(section, event);
    if (!section.found && section.querySelector(".error").hidden) showError(section, "the server ended the answer early");
  } catch {
    showError(section, signal.aborted ? "stopped" : "the server cannot be reached; is it still running?");
  }
}

function setRunning(controller) {
  running = controller;
  element("go").textContent = controller ? "Stop" : "Search";
}

async function search() {
  const query = element("query").value.trim();
  if (!query) return;
  running?.abort();
  const controller = new AbortController();
  setRunning(controller);
  const way = element("form").elements.way.value;
  const k = Number(element("k").value);
  history.replaceState(null, "", `?${new URLSearchParams({ q: query, way, k })}`);
  element("columns").replaceChildren();
  element("status").textContent = "";
  const sections = (way === "both" ? ["thinking", "direct"] : [way]).map(column);
  await Promise.all(sections.map((section) => ask(section, query, k, controller.signal)));
  if (running !== controller) return;
  showChanges(sections);
  setRunning(null);
  element("status").textContent = sections.every((one) => one.found) ? summary(sections) : "";
}

function summary(sections) {
  if (sections.every((one) => !one.found.hits.length)) return "Nothing was found.";
  if (sections.length === 1) return "";
  const [thinking, direct] = sections.map((one) => one.found.hits.map((hit) => hit.id));
  const shared = thinking.filter((id) => direct.includes(id)).length;
  return `${shared} of ${thinking.length} hits are the same with and without a thought.`;
}

async function describe() {
  try {
    const { documents, limits } = await (await fetch("/health")).json();
    element("about").textContent = `searches ${plural(documents, "document")}`;
    element("query").maxLength = limits.max_query_chars;
    element("k").max = limits.max_k;
    element("k").value = Math.min(element("k").value, limits.max_k);
  } catch {
    element("about").textContent = "the server cannot be reached";
  }
}

function fillFromAddress() {
  const asked = new URLSearchParams(location.search);
  element("query").value = asked.get("q") ?? "";
  const way = [...element("form").elements.way].find((one) => one.value === asked.get("way"));
  if (way) way.checked = true;
  if (/^[1-9]\d{0,2}$/.test(asked.get("k") ?? "")) element("k").value = asked.get("k");
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  // The button stops; Enter in a field, which presses it too, asks anew.
  if (running && !document.activeElement.matches("input")) running.abort();
  else search();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
  if (event.key === "/" && !["INPUT", "TEXTAREA"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    element("query").select();
  }
});
fillFromAddress();
describe().then(() => element("query").value && !running && search());
