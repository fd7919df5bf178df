// The page: which view is shown, and what happens when the daemon says something.

import { hasKey, whenLoggedOut } from "./api.js";
import { announce, fill, h, toast } from "./dom.js";
import { follow } from "./events.js";
import { icon } from "./icons.js";
import { listenToKeys, showKeys } from "./keys.js";
import { logInByAddress, showLogin } from "./login.js";
import * as notices from "./notices.js";
import { sendAgain } from "./pending.js";
import { loadAll, ON_PHONES, viewAt, VIEWS } from "./views.js";
import { emit, isOpen, on, openPrompts, readAll, readContacts, readPrompts, readRequests, Scope, store, takePrompt } from "./store.js";

const LOAD_OTHERS_MS = 300;
const LABELS = { settings: "More", talks: "Talks" };

const place = document.getElementById("app");
let route = viewAt("");
let shownView = null;
let listScope = new Scope();
let detailScope = new Scope();
let parts = null;
let firstOfDetail = () => null;

// Where the user is.

async function show(moves) {
  const asked = viewAt(location.hash);
  const { view, id } = asked;
  route = asked;
  let content;
  try {
    content = await view.load();
  } catch {
    toast("This view could not be loaded, as the server of this page is away.");
    return;
  }
  if (route !== asked) {
    return;
  }
  if (view !== shownView) {
    listScope.close();
    listScope = new Scope();
    shownView = view;
    parts.list.scrollTop = 0;
    content.list(listScope, parts.list, () => route.id);
  }
  detailScope.close();
  detailScope = new Scope();
  const scope = detailScope;
  firstOfDetail = () => null;
  parts.body.classList.toggle("has-detail", id !== null);
  parts.body.classList.toggle("single", view.detail === null);
  parts.back.hidden = id === null;
  parts.detail.hidden = view.detail === null;
  for (const link of document.querySelectorAll("[data-view]")) {
    const isHere = link.dataset.view === view.name || (link.dataset.view === "settings" && link.closest(".bottom") && !ON_PHONES.includes(view.name));
    link.setAttribute("aria-current", isHere ? "page" : "false");
  }
  emit("route");
  if (id === null) {
    fill(parts.content, h("p", { class: "empty" }, "Choose something from the list."));
    if (moves) {
      focusTitle(parts.list);
    }
    return;
  }
  parts.detail.scrollTop = 0;
  let first = null;
  try {
    first = await content.detail(scope, parts.content, id);
  } catch (failure) {
    console.error(failure);
    fill(parts.content, h("p", { class: "empty" }, "This could not be shown. Load the page again."));
  }
  if (scope.isClosed) {
    return;
  }
  firstOfDetail = first ?? (() => null);
  if (moves) {
    focusTitle(parts.content);
  }
}

function focusTitle(pane) {
  pane.querySelector(".pane-title")?.focus({ preventScroll: false });
}

function goBack() {
  if (route.id === null) {
    return;
  }
  const left = route.id;
  location.hash = `#${route.view.name}`;
  setTimeout(() => {
    const prefix = route.view.detail;
    document.querySelector(`#list a[href="#${prefix}=${CSS.escape(left)}"]`)?.focus();
  }, 50);
}

// The frame.

function link(view, className) {
  return h(
    "li",
    {},
    h("a", { href: `#${view.name}`, "data-view": view.name, class: className }, icon(view.name === "settings" && className === "tab" ? "more" : view.name), h("span", {}, (className === "tab" && LABELS[view.name]) || view.title), h("span", { class: "badge", "data-badge": view.name, hidden: true })),
  );
}

function drawFrame() {
  const banner = h("div", { class: "banner", role: "status", hidden: true });
  const state = h("p", { class: "state" });
  const back = h("button", { type: "button", class: "back quiet", hidden: true, onclick: goBack }, icon("back"), "Back");
  const content = h("div", { class: "detail-content" });
  const list = h("div", { class: "list-pane", id: "list" });
  const detail = h("div", { class: "detail-pane" }, back, content);
  const body = h("main", { class: "panes", id: "main", tabindex: "-1" }, h("h1", { class: "unseen" }, "p2pflows"), list, detail);
  fill(
    place,
    h(
      "div",
      { class: "frame" },
      h(
        "nav",
        { class: "side", "aria-label": "Views" },
        h("p", { class: "brand" }, "p2pflows"),
        h("ul", {}, VIEWS.map((view) => link(view, "side-link"))),
        h("div", { class: "side-foot" }, state, h("button", { type: "button", class: "quiet", onclick: showKeys }, icon("keyboard"), "Shortcuts")),
      ),
      h("div", { class: "content" }, banner, body),
      h("nav", { class: "bottom", "aria-label": "Main views" }, h("ul", {}, ON_PHONES.map((name) => link(VIEWS.find((view) => view.name === name), "tab")))),
    ),
  );
  parts = { banner, state, back, content, list, detail, body };
}

function drawState() {
  const text = {
    server: "The server of this page is away. What you typed is kept; the page goes on when it is back: p2pflows web",
    busy: "Too many pages look on at the same time. Close some of them; this one tries again.",
    daemon: "Your daemon is away. What you typed is kept; the page goes on when it is back: p2pflows up",
    broker: `Your daemon does not reach its broker. What you send waits. ${store.pulse?.broker?.reason ?? ""}`,
    problem: store.pulse?.problem ?? "",
  };
  const worst =
    store.server === "away" ? "server" : store.server === "busy" ? "busy" : store.daemon === "away" ? "daemon" : store.pulse?.problem ? "problem" : store.pulse?.broker?.connected === false ? "broker" : null;
  const said = worst === null ? "" : text[worst];
  if (parts.banner.textContent !== said) {
    fill(parts.banner, said);
  }
  parts.banner.hidden = worst === null;
  const known = store.daemon === "up" && worst === null;
  parts.state.className = `state ${worst === null ? (known ? "good" : "") : "bad"}`;
  fill(parts.state, h("span", { class: "dot" }), { server: "server away", busy: "too many pages", daemon: "daemon away", broker: "broker away", problem: "trouble" }[worst] ?? (known ? "connected" : "connecting …"));
}

function drawBadges() {
  const open = openPrompts();
  const counts = { inbox: open.length, people: store.requests.length, waiting: (store.pulse?.waiting?.dead ?? 0) };
  for (const badge of document.querySelectorAll("[data-badge]")) {
    const count = counts[badge.dataset.badge] ?? 0;
    badge.hidden = count === 0;
    fill(badge, count > 99 ? "99+" : String(count), h("span", { class: "unseen" }, " waiting"));
  }
  document.title = open.length > 0 ? `(${open.length}) p2pflows` : "p2pflows";
}

// What the daemon says.

let isReading = false;
let isDue = false;

/** Read everything; if that is under way, once more after it, as what it has read may be older than what is asked for. */
async function readAgain() {
  isDue = true;
  if (isReading) {
    return;
  }
  isReading = true;
  try {
    while (isDue) {
      isDue = false;
      await readOnce();
    }
  } finally {
    isReading = false;
  }
}

async function readOnce() {
  try {
    await readAll();
    await sendAgain();
  } catch (failure) {
    if (!failure.isAway) {
      toast(failure.sentence);
    }
  }
}

function take(event, data) {
  switch (event) {
    case "server":
      store.server = data.is;
      if (data.is === "logged_out") {
        leave(null);
        return;
      }
      break;
    case "state": {
      store.daemon = data.daemon;
      store.error = data.error;
      if (data.daemon === "up") {
        readAgain();
      }
      break;
    }
    case "pulse":
      takePulse(data);
      break;
    case "prompt": {
      const isNew = isOpen(data) && !store.prompts.has(data.id);
      takePrompt(data);
      if (isNew) {
        emit("came", data);
      }
      break;
    }
    case "line":
      emit("line", data);
      break;
    default:
      return;
  }
  drawState();
}

function takePulse(pulse) {
  const before = store.pulse;
  store.pulse = pulse;
  const differs = (name) => JSON.stringify(before?.[name]) !== JSON.stringify(pulse[name]);
  if (pulse.contacts && differs("contacts")) {
    readContacts().catch(() => {});
  }
  if (pulse.requests && differs("requests")) {
    if (before !== null && pulse.requests.length > before.requests?.length) {
      announce("A stranger wants to be let in.");
    }
    readRequests().catch(() => {});
  }
  emit("pulse");
  drawBadges();
}

// The start.

function leave(failure) {
  listScope.close();
  detailScope.close();
  parts = null;
  showLogin(place, failure, () => location.reload());
}

function listen() {
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
  whenLoggedOut(() => parts !== null && leave(null));
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#login=")) {
      location.reload();
    } else if (parts !== null) {
      show(true);
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && parts !== null && store.daemon === "up") {
      readPrompts().catch(() => {}); // now that they are seen, their askers learn of it
    }
  });
  listenToKeys(openView, goBack, () => firstOfDetail());
}

function openView(number) {
  const view = VIEWS[number - 1];
  if (view !== undefined && parts !== null) {
    location.hash = `#${view.name}`;
  }
  return view !== undefined;
}

function begin() {
  drawFrame();
  drawState();
  on("prompts", drawBadges);
  on("came", (prompt) => {
    notices.announcePrompt(prompt);
    notices.notify(prompt);
  });
  on("requests", drawBadges);
  show(false);
  readAgain();
  notices.start();
  setTimeout(loadAll, LOAD_OTHERS_MS);
  follow((event, data) => parts !== null && take(event, data));
}

async function start() {
  const failure = await logInByAddress();
  listen();
  if (failure !== null || !hasKey()) {
    leave(failure);
  } else {
    begin();
  }
}

start();
