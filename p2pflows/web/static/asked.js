// What the user has asked others.

import { call } from "./api.js";
import { fill, foreign, h, keepFocus, keyed, newId, toast } from "./dom.js";
import * as drafts from "./drafts.js";
import { fileList } from "./files.js";
import { textarea } from "./form.js";
import { icon } from "./icons.js";
import { avatar, nameOf } from "./persons.js";
import { smallForm } from "./question.js";
import { store } from "./store.js";
import { ago, left } from "./times.js";

const READ_AGAIN_MS = 5_000;
const DEADLINES = [["10 minutes", 600], ["An hour", 3600], ["A day", 86400], ["A week", 604800]];
const DRAFT = "ask";

export const view = {
  list(scope, pane, selected) {
    const list = h("ul", { class: "items", "aria-label": "What you asked" });
    const empty = h("div", { class: "empty", hidden: true }, icon("asked"), h("p", {}, "You have asked nothing."));
    let found = [];
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Asked"), h("a", { class: "button primary", href: "#a=new" }, "Ask …")), list, empty);

    async function read() {
      found = (await call("asked")).asked;
      draw();
    }

    function draw() {
      keyed(list, found.map((question) => ({ question: short(question), current: question.id === selected(), version: store.version })), ({ question }) => question.id, item);
      empty.hidden = found.length > 0;
    }

    const readAgain = () => read().catch(() => {});
    scope.on("line", readAgain);
    scope.on("all", readAgain);
    scope.on("asked", readAgain);
    scope.on("contacts", draw);
    scope.on("route", draw);
    scope.every(READ_AGAIN_MS, readAgain);
    read().catch((failure) => failure.isAway || toast(failure.sentence));
  },
  detail: (scope, pane, id) => (id === "new" ? showNew(scope, pane) : showAsked(scope, pane, id)),
};

const short = ({ id, kind, text, to, to_name, created, expires, outcome, answer, where, people }) => ({
  id, kind, text: text.slice(0, 200), to, to_name, created, expires, outcome, answer: answer.slice(0, 80), where, count: people.length,
});

function item({ question, current }) {
  const isOpen = question.outcome === "open";
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item", href: `#a=${question.id}`, "aria-current": current ? "true" : null },
      avatar(question.to, question.to_name),
      h(
        "span",
        { class: "grow" },
        h("span", { class: "item-top" }, h("span", {}, nameOf(question.to, question.to_name), question.count > 1 && h("span", { class: "muted" }, ` and ${question.count - 1} more`)), h("span", { class: "muted small" }, isOpen ? left(question.expires) : ago(question.created))),
        h("span", { class: "item-text" }, foreign(question.text || "(no text)")),
        h("span", { class: "chips" }, h("span", { class: `chip ${question.outcome}` }, isOpen ? question.where : question.outcome), question.answer && h("span", { class: "chip answer-chip" }, foreign(question.answer))),
      ),
    ),
  );
}

async function showAsked(scope, pane, id) {
  let question = null;
  async function read() {
    try {
      question = await find(id);
    } catch (failure) {
      if (question === null) {
        fill(pane, h("p", { class: "empty" }, foreign(failure.sentence)));
      }
      return;
    }
    if (!scope.isClosed) {
      draw();
    }
  }
  let shownAs = "";
  const draw = () => keepFocus(pane, drawAll);
  function drawAll() {
    const known = JSON.stringify([question, store.version]);
    if (known === shownAs) {
      return;
    }
    shownAs = known;
    const isOpen = question.outcome === "open";
    fill(
      pane,
      h(
        "div",
        { class: "detail-head" },
        avatar(question.to, question.to_name),
        h("div", { class: "grow" }, h("h2", { tabindex: "-1", class: "pane-title" }, "To ", nameOf(question.to, question.to_name)), h("p", { class: "muted small facts" }, h("span", {}, "asked ", ago(question.created)), isOpen && h("span", {}, left(question.expires)), h("span", {}, foreign(question.endpoint)))),
      ),
      h(
        "div",
        { class: "detail-body" },
        h("p", { class: "question-text text" }, foreign(question.text || "(no text)")),
        question.expects && h("p", { class: "muted small" }, "Expected: ", foreign(question.expects)),
        h("p", {}, h("span", { class: `chip ${question.outcome}` }, isOpen ? question.where : question.outcome), question.claimed_by && [" ", h("span", { class: "chip warm" }, nameOf(question.claimed_by, question.claimed_name), " works on it")]),
        result(scope, question),
        question.people.length > 1 && h("section", { class: "card", "aria-label": "Each of them" }, h("h3", {}, "Each of them"), h("ul", { class: "plain" }, question.people.map((person) => h("li", {}, nameOf(person.user, person.to_name), h("span", { class: "muted" }, `: ${person.where || person.outcome} `), result(scope, person))))),
        isOpen && h("div", { class: "row" }, h("button", { type: "button", class: "danger", onclick: withdraw }, "Withdraw")),
      ),
    );
  }
  async function withdraw() {
    try {
      await call("cancel", { id });
      toast("Withdrawn.");
    } catch (failure) {
      toast(failure.sentence);
    }
    await read();
  }
  scope.on("line", read);
  scope.on("all", read);
  scope.on("contacts", () => question && draw());
  scope.every(READ_AGAIN_MS, read);
  await read();
  return () => pane.querySelector(".pane-title");
}

/** Return a question, or a call that stands beside the questions. */
async function find(id) {
  const { asked } = await call("asked");
  return asked.find((each) => each.id === id) ?? call("question", { id });
}

function result(scope, entry) {
  return [
    entry.answer && h("p", { class: "ended-answer" }, foreign(entry.answer)),
    entry.remark && h("p", { class: "muted" }, foreign(entry.remark)),
    fileList(scope, entry.files),
    entry.by && entry.outcome !== "open" && h("p", { class: "muted small" }, nameOf(entry.by, entry.name), entry.at && [", ", ago(entry.at)]),
    entry.error && entry.outcome !== "answered" && h("p", { class: "problem" }, entry.error.from ? [nameOf(entry.error.from, entry.error.name), " says: "] : null, foreign(entry.error.message), entry.error.hint && [" ", foreign(entry.error.hint)]),
  ];
}

async function showNew(scope, pane) {
  const start = drafts.read(DRAFT) ?? {};
  const [who, what, kind, time] = ["who", "what", "kind", "time"].map(newId);
  const people = h("select", { id: who });
  const text = textarea({ id: what, rows: 3 });
  text.value = start.text ?? "";
  text.addEventListener("input", () => drafts.keep(DRAFT, { text: text.value }));
  const wanted = h("select", { id: kind }, h("option", { value: "confirm" }, "Yes or no"), h("option", { value: "text" }, "A text"));
  const deadline = h("select", { id: time }, DEADLINES.map(([label, seconds]) => h("option", { value: String(seconds), selected: seconds === 86400 }, label)));
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const id = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  async function ask() {
    try {
      // With an id of its own the question is asked once, however often this is tried.
      await call("ask", { id, who: [people.value], text: text.value, timeout: Number(deadline.value), ...(wanted.value === "confirm" ? { schema: { type: "boolean" } } : {}) });
      drafts.forget(DRAFT);
      toast("Asked.");
      location.hash = `#a=${id}`;
    } catch (failure) {
      problem.hidden = false;
      fill(problem, foreign(failure.isAway ? "Not asked: your daemon is away. Your text is kept." : failure.sentence));
      text.focus();
    }
  }
  function draw() {
    const chosen = people.value;
    fill(people, [...store.contacts.values()].map((contact) => h("option", { value: contact.user, selected: contact.user === chosen }, contact.name)));
  }
  fill(
    pane,
    h("div", { class: "detail-head" }, h("h2", { tabindex: "-1", class: "pane-title" }, "Ask somebody")),
    h("div", { class: "detail-body" }, smallForm(ask, h("label", { for: who }, "Whom"), people, h("label", { for: what }, "What"), text, h("label", { for: kind }, "The answer is"), wanted, h("label", { for: time }, "You wait for"), deadline, problem, h("button", { type: "submit", class: "primary" }, "Ask"))),
  );
  scope.on("contacts", draw);
  draw();
  return () => people;
}
