// Conversations with people: what both have said, and what is said from now on.

import { call } from "./api.js";
import { fill, foreign, h, keepFocus, keyed, newId, toast } from "./dom.js";
import * as drafts from "./drafts.js";
import { fileList } from "./files.js";
import { textarea } from "./form.js";
import { icon } from "./icons.js";
import { avatar, nameOf, plainName } from "./persons.js";
import { store } from "./store.js";
import { ago, clock, day } from "./times.js";

const NEAR_END_PX = 120;
const MAX_SHOWN = 2_000;
const YES_OR_NO = { type: "boolean" };
const KINDS = { note: "Note", question: "Question", confirm: "Yes or no?" };
const FATES = { held: "waits until they let you in", expired: "not delivered in time", cancelled: "withdrawn" };
const ENDS = { expired: "expired", cancelled: "withdrawn", answered: "answered", declined: "declined", delegated: "passed on", dismissed: "" };

export const view = {
  list(scope, pane, selected) {
    const list = h("ul", { class: "items", "aria-label": "People" });
    const empty = h("p", { class: "empty", hidden: true }, "You have no contacts yet. In a terminal: p2pflows invite --for NAME");
    let lines = new Map();
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Conversations")), list, empty);

    async function read() {
      lines = new Map((await call("talks")).lines.map((line) => [line.user, line]));
      draw();
    }

    function draw() {
      const users = new Set([...lines.keys(), ...store.contacts.keys()]);
      const people = [...users]
        .filter((user) => user !== store.me)
        .map((user) => ({ user, line: lines.get(user) ?? null, name: store.contacts.get(user)?.name ?? null, online: store.contacts.get(user)?.online ?? null, verified: store.contacts.get(user)?.verified, current: user === selected() }))
        .sort((a, b) => (b.line?.n ?? 0) - (a.line?.n ?? 0) || (a.name ?? "").localeCompare(b.name ?? ""));
      keyed(list, people, (person) => person.user, item);
      empty.hidden = people.length > 0;
    }

    scope.on("line", (line) => {
      if (line.n >= (lines.get(line.user)?.n ?? 0)) {
        lines.set(line.user, line); // not an older one that has changed
      }
      draw();
    });
    scope.on("all", () => read().catch(() => {}));
    scope.on("contacts", draw);
    scope.on("route", draw);
    draw();
    read().catch((failure) => failure.isAway || toast(failure.sentence));
  },
  detail: showTalk,
};

function item({ user, line, online, current }) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item", href: `#talk=${user}`, "aria-current": current ? "true" : null },
      h("span", { class: "avatar-place" }, avatar(user, line?.name), online && h("span", { class: "dot online" }, h("span", { class: "unseen" }, "online"))),
      h(
        "span",
        { class: "grow" },
        h("span", { class: "item-top" }, nameOf(user, line?.name), line && h("span", { class: "muted small" }, ago(line.at))),
        h("span", { class: "item-text" }, line ? [line.by === "me" && "You: ", verbOf(line), foreign(line.text.slice(0, 200))] : h("span", { class: "muted" }, "Nothing said yet")),
      ),
    ),
  );
}

async function showTalk(scope, pane, user) {
  const heading = h("div", { class: "detail-head" });
  const said = h("div", { class: "said-lines", role: "log", "aria-label": "What was said" });
  const earlier = h("button", { type: "button", class: "link", hidden: true, onclick: readEarlier }, "Show earlier lines");
  const empty = h("p", { class: "empty", hidden: true }, "Nothing said yet.");
  const log = h("div", { class: "log", tabindex: "0", role: "region", "aria-label": "Conversation" }, earlier, said, empty);
  const lines = new Map();
  let conversation = null;
  let isAtEnd = true;
  fill(pane, heading, log, composer());

  const head = () => keepFocus(pane, drawHead);

  function drawHead() {
    const contact = store.contacts.get(user);
    const presence = { true: "online", false: "offline" }[String(contact?.online)] ?? "not known whether online";
    fill(
      heading,
      avatar(user),
      h(
        "div",
        { class: "grow" },
        h("h2", { tabindex: "-1", class: "pane-title" }, nameOf(user)),
        h("p", { class: "muted small facts" }, h("span", {}, contact ? presence : "not a contact"), h("a", { href: `#person=${user}` }, "About them")),
      ),
    );
  }

  function draw() {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
    const shown = [...lines.values()].sort((a, b) => a.n - b.n).slice(-MAX_SHOWN);
    const rows = [];
    let last = "";
    for (const line of shown) {
      const today = day(line.at);
      if (today !== last) {
        rows.push({ day: today });
        last = today;
      }
      rows.push({ line });
    }
    keyed(said, rows, (row) => row.day ?? row.line.n, (row) => (row.day ? h("p", { class: "day" }, h("span", {}, row.day)) : bubble(scope, row.line)));
    empty.hidden = rows.length > 0;
    if (atEnd) {
      log.scrollTop = log.scrollHeight;
    }
  }

  async function read() {
    const found = await call("chat", { user });
    found.lines.forEach((line) => lines.set(line.n, line));
    earlier.hidden = !found.more;
    draw();
    putAway();
  }

  async function readEarlier() {
    const first = Math.min(...lines.keys());
    let found;
    try {
      found = await call("chat", { user, before: first });
    } catch (failure) {
      toast(failure.sentence);
      return;
    }
    const height = log.scrollHeight;
    found.lines.forEach((line) => lines.set(line.n, line));
    earlier.hidden = !found.more;
    draw();
    log.scrollTop += log.scrollHeight - height;
  }

  /** Put notes away that were read, as a chat in a terminal does. */
  function putAway() {
    if (document.hidden) {
      return;
    }
    const ids = [...lines.values()].filter((line) => line.kind === "note" && line.prompt !== null).map((line) => line.message);
    if (ids.length > 0) {
      call("dismiss", { ids: ids.slice(0, 100) }).catch(() => {}); // put away elsewhere, or when the daemon is back
    }
  }

  function composer() {
    const id = newId("say");
    const name = `talk ${user}`;
    const start = drafts.read(name) ?? {};
    const input = textarea({ id, rows: 1, "aria-label": "What you say", placeholder: "Write …" });
    input.value = start.text ?? "";
    const kind = h("select", { "aria-label": "What it is" }, Object.entries(KINDS).map(([value, text]) => h("option", { value, selected: value === start.kind }, text)));
    const problem = h("p", { class: "problem", role: "alert", hidden: true });
    const keep = () => drafts.keep(name, { text: input.value, kind: kind.value });
    input.addEventListener("input", keep);
    kind.addEventListener("change", keep);
    input.addEventListener("keydown", (event) => {
      const hasKeyboard = matchMedia("(hover: hover)").matches;
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && (hasKeyboard || event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    const send = h("button", { type: "submit", class: "primary" }, "Send");
    const form = h("form", { class: "composer", novalidate: true, onsubmit: submit }, problem, h("div", { class: "composer-row" }, kind, input, send));
    return form;

    async function submit(event) {
      event.preventDefault();
      const text = input.value;
      if (text.trim() === "" || send.disabled) {
        return;
      }
      send.disabled = true;
      problem.hidden = true;
      try {
        if (kind.value === "note") {
          const sent = await call("send", { user, text, conversation });
          conversation ??= sent.id;
        } else {
          await call("ask", { who: [user], text, timeout: 86400, ...(kind.value === "confirm" ? { schema: YES_OR_NO } : {}) });
        }
        input.value = "";
        kind.value = "note";
        drafts.forget(name);
        log.scrollTop = log.scrollHeight;
      } catch (failure) {
        problem.textContent = "";
        problem.append(foreign(failure.isAway ? "Not sent: your daemon is away. Your text is kept." : failure.sentence));
        problem.hidden = false;
      } finally {
        send.disabled = false;
        input.focus();
      }
    }
  }

  scope.on("line", (line) => {
    if (line.user === user) {
      lines.set(line.n, line);
      draw();
      putAway();
    }
  });
  scope.on("all", () => read().catch(() => {}));
  scope.on("contacts", head);
  scope.listen(document, "visibilitychange", putAway);
  scope.listen(log, "scroll", () => {
    isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  });
  // A picture makes the log longer when it is there; events of images do not bubble.
  log.addEventListener("load", () => isAtEnd && log.scrollTo(0, log.scrollHeight), true);
  head();
  await read().catch((failure) => fill(log, h("p", { class: "empty" }, foreign(failure.sentence))));
  log.scrollTop = log.scrollHeight;
  return () => pane.querySelector(".composer textarea");
}

function bubble(scope, line) {
  const mine = line.by === "me";
  const isQuestion = line.kind === "question";
  return h(
    "div",
    { class: `bubble ${mine ? "mine" : "theirs"} ${line.kind}` },
    h("span", { class: "unseen" }, mine ? "You" : plainName(line.user, line.name), ": "),
    h("p", { class: "said" }, verbOf(line), foreign(line.text)),
    fileList(scope, line.files),
    isQuestion && line.prompt && h("a", { class: "button primary", href: `#q=${line.message}` }, "Answer"),
    h("p", { class: "meta" }, clock(line.at), fate(line) && h("span", {}, fate(line))),
  );
}

function verbOf(line) {
  const words = { question: "asks: ", answer: "answer: ", declined: "declined ", delegated: "passed it on to " }[line.kind];
  if (!words) {
    return null;
  }
  const shown = line.kind === "question" && line.by === "me" ? "asked: " : words;
  return [h("span", { class: "verb" }, shown), line.kind === "delegated" && line.to && [nameOf(line.to, line.to_name), " "]];
}

function fate(line) {
  if (line.by === "me") {
    return line.kind === "note" || line.kind === "question" ? (FATES[line.state] ?? line.state) : "";
  }
  return line.kind === "question" && line.prompt === null ? (ENDS[line.state] ?? line.state) : "";
}
