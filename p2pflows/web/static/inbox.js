// The questions and notes that wait for the user.

import { call } from "./api.js";
import { fill, foreign, h, keyed } from "./dom.js";
import { icon } from "./icons.js";
import { avatar, nameOf } from "./persons.js";
import { openPrompts, store } from "./store.js";
import { ago, left, until } from "./times.js";

/** In the timings of the browser: when the first questions were there. */
const SHOWN_MARK = "questions shown";
const SHOWN = { open: "Open", snoozed: "Later", all: "Past" };

export const view = {
  list(scope, pane, selected) {
    const list = h("ul", { class: "items", "aria-label": "Questions and notes" });
    const empty = h("div", { class: "empty", hidden: true });
    const tabs = h(
      "div",
      { class: "segments", role: "group", "aria-label": "Which questions" },
      Object.entries(SHOWN).map(([name, text]) =>
        h("button", { type: "button", "aria-pressed": String(name === "open"), "data-name": name, onclick: () => show(name) }, text),
      ),
    );
    let shown = "open";
    let others = [];
    const more = h("p", { class: "muted small pane-about", hidden: true }, "More wait. Answer some of these, or see all in a terminal: p2pflows inbox");
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Questions"), tabs), list, more, empty);

    async function show(name) {
      shown = name;
      for (const tab of tabs.children) {
        tab.setAttribute("aria-pressed", String(tab.dataset.name === name));
      }
      await read();
      draw();
    }

    async function read() {
      if (shown === "open") {
        return;
      }
      try {
        const { prompts } = await call("inbox", { all: shown === "all", snoozed: shown === "snoozed", limit: 100 });
        others = shown === "all" ? prompts.filter((prompt) => prompt.status !== "open") : prompts;
      } catch (failure) {
        others = [];
        empty.textContent = failure.sentence;
      }
    }

    function draw() {
      const prompts = shown === "open" ? openPrompts() : others;
      keyed(list, prompts.map((prompt) => ({ prompt, current: prompt.id === selected(), version: store.version })), ({ prompt }) => prompt.id, item);
      empty.hidden = prompts.length > 0;
      more.hidden = shown !== "open" || !store.hasMore;
      if (prompts.length > 0 && performance.getEntriesByName(SHOWN_MARK).length === 0) {
        performance.mark(SHOWN_MARK);
      }
      fill(empty, icon("inbox"), h("p", {}, { open: "Nothing waits for you.", snoozed: "Nothing was put off.", all: "Nothing has ended within the last day." }[shown]));
    }

    scope.on("prompts", async () => {
      await read();
      draw();
    });
    scope.on("contacts", draw);
    scope.on("route", draw);
    scope.every(5000, draw);
    draw();
  },
  detail: async (...place) => (await import("./question.js")).showQuestion(...place),
};

function item({ prompt, current }) {
  const kind = prompt.wants_answer ? prompt.expects : "note";
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item", href: `#q=${prompt.id}`, "aria-current": current ? "true" : null },
      avatar(prompt.from, prompt.name),
      h(
        "span",
        { class: "grow" },
        h("span", { class: "item-top" }, nameOf(prompt.from, prompt.name), h("span", { class: "muted small" }, when(prompt))),
        h("span", { class: "item-text" }, foreign(prompt.text.slice(0, 200))),
        h(
          "span",
          { class: "chips" },
          prompt.status !== "open" && h("span", { class: `chip ${prompt.status}` }, prompt.status),
          kind && h("span", { class: "chip" }, foreign(kind.length > 40 ? `${kind.slice(0, 39)}…` : kind)),
          prompt.claimed_by && h("span", { class: "chip warm" }, nameOf(prompt.claimed_by, prompt.claimed_name), prompt.claimed_name === "me" ? " work on it" : " works on it"),
        ),
      ),
    ),
  );
}

function when(prompt) {
  if (prompt.status !== "open") {
    return ago(prompt.received);
  }
  if (prompt.snoozed) {
    return until(prompt.snoozed);
  }
  return prompt.wants_answer ? left(prompt.expires) : ago(prompt.received);
}
