// One question or note: its text, its form, and everything else that can be done with it.

import { call } from "./api.js";
import { announce, fill, foreign, h, keepFocus, newId, toast } from "./dom.js";
import * as drafts from "./drafts.js";
import { attachField, fileList } from "./files.js";
import { buildForm, textarea } from "./form.js";
import { end, isMine, isWaiting } from "./pending.js";
import { asker, avatar, nameOf, shortId } from "./persons.js";
import { store, takePrompt } from "./store.js";
import { aboutList, promptText } from "./texts.js";
import { ago, left, secondsUntil, until } from "./times.js";

const HOUR_S = 3600;
const CLAIM_S = 1800;

/** Show a prompt in a pane, until the scope is closed. */
export async function showQuestion(scope, pane, id) {
  const heading = h("div", { class: "detail-head" });
  const body = h("div", { class: "detail-body" });
  const message = h("p", { class: "message", role: "alert", hidden: true });
  const draft = `answer ${id}`;
  const attached = attachField();
  let prompt = null;
  let form = null;
  let shownAs = "";
  let isAnswering = false;
  fill(pane, heading, h("div", { class: "loading", role: "status" }, "Loading …"));

  function say(text) {
    message.hidden = text === "";
    message.textContent = "";
    message.append(foreign(text));
  }

  async function finish(method, params, done) {
    say("");
    pane.setAttribute("aria-busy", "true");
    try {
      await end(id, method, method === "dismiss" ? params : { id, ...params });
      ended(done);
    } catch (failure) {
      failed(failure);
    } finally {
      pane.removeAttribute("aria-busy");
    }
  }

  async function answer(params) {
    if (isAnswering) {
      return;
    }
    isAnswering = true;
    pane.setAttribute("aria-busy", "true");
    try {
      const files = await attached.send();
      if (files !== null) {
        await finish("answer", files.length > 0 ? { ...params, files } : params, "Your answer is on its way.");
      }
    } finally {
      isAnswering = false;
      pane.removeAttribute("aria-busy");
    }
  }

  function ended(done) {
    drafts.forget(draft);
    toast(done);
    refresh();
  }

  async function failed(failure) {
    if (failure.isAway) {
      say("Not sent yet: your daemon is away. This page sends it when the daemon is back.");
    } else if (failure.fields !== null && form?.showProblems) {
      form.showProblems(failure.fields, failure.sentence);
    } else {
      say(failure.sentence);
      await refresh();
    }
  }

  async function refresh() {
    try {
      prompt = await call("prompt", { id });
    } catch (failure) {
      if (prompt === null && !scope.isClosed) {
        fill(pane, h("p", { class: "empty" }, foreign(failure.sentence)));
      }
      return;
    }
    if (!scope.isClosed) {
      takePrompt(prompt);
      draw();
    }
  }

  const draw = () => keepFocus(pane, drawAll);

  function drawAll() {
    fill(
      heading,
      avatar(prompt.from, prompt.name),
      h(
        "div",
        { class: "grow" },
        h("h2", { tabindex: "-1", class: "pane-title" }, asker(prompt), prompt.wants_answer ? " asks" : " writes"),
        h("p", { class: "muted small facts" }, facts(prompt)),
      ),
    );
    // The form stays as it is while only times and claims change, so that nothing typed is lost.
    const state = JSON.stringify([prompt.status, prompt.form, prompt.snoozed, canWriteBack(), prompt.status !== "open" && isMine(id)]);
    if (state === shownAs) {
      return;
    }
    const was = shownAs;
    shownAs = state;
    fill(pane, heading, body);
    fill(body, promptText(prompt), aboutList(prompt), fileList(scope, prompt.files), message, prompt.status === "open" ? openPart() : endedPart(was !== ""));
  }

  const canWriteBack = () => !prompt.wants_answer && store.contacts.has(prompt.from);

  function openPart() {
    if (!prompt.wants_answer) {
      return h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "primary", "data-key-d": true, onclick: () => finish("dismiss", { ids: [id] }, "Put away.") }, "Put away"),
        canWriteBack() && h("a", { class: "button", href: `#talk=${prompt.from}` }, "Write back"),
        snoozeControl(),
      );
    }
    form = buildForm(
      prompt.form,
      drafts.read(draft),
      answer,
      (entered) => drafts.keep(draft, entered),
      (kind) => {
        drafts.keep(draft, kind === "json" ? { json: prompt.form.text } : {});
        shownAs = "";
        draw();
      },
    );
    const buttons = form.node.querySelector(":scope > .row");
    form.node.insertBefore(attached.node, buttons);
    return [h("section", { class: "answer", "aria-label": "Answer" }, form.node), otherWays()];
  }

  function otherWays() {
    const claimed = prompt.claimed_name === "me";
    return h(
      "section",
      { class: "ways", "aria-label": "Other ways" },
      snoozeControl(),
      prompt.asked_of !== null &&
        h("button", { type: "button", class: "quiet", onclick: () => claim(claimed ? 0 : CLAIM_S) }, claimed ? "I do not work on it any more" : "I work on it"),
      disclosure("Pass on", (close) => delegateForm(close)),
      disclosure("Decline", (close) => declineForm(close), { "data-key-d": true }),
    );
  }

  function snoozeControl() {
    if (prompt.snoozed !== null) {
      return h("button", { type: "button", class: "quiet", onclick: () => snooze(0) }, "Show it in the list again");
    }
    const evening = new Date();
    evening.setHours(18, 0, 0, 0);
    const morning = new Date();
    morning.setDate(morning.getDate() + 1);
    morning.setHours(8, 0, 0, 0);
    const choices = [
      ["For ten minutes", HOUR_S / 6],
      ["For an hour", HOUR_S],
      ["Until this evening", (evening - Date.now()) / 1000],
      ["Until tomorrow morning", (morning - Date.now()) / 1000],
      ["For a week", 7 * 24 * HOUR_S],
    ].filter(([, seconds]) => seconds > 0 && seconds < secondsUntil(prompt.expires));
    if (choices.length === 0) {
      return null;
    }
    return disclosure("Not now", (close) =>
      h(
        "div",
        { class: "row" },
        choices.map(([text, seconds]) => h("button", { type: "button", onclick: () => snooze(Math.round(seconds)) && close() }, text)),
      ),
    );
  }

  async function snooze(seconds) {
    await act("snooze", { seconds }, seconds === 0 ? "It is in the list again." : "It comes back later; its deadline stays.");
  }

  async function claim(seconds) {
    await act("claim", { seconds }, seconds === 0 ? "Others may go on with it." : "The others see that you work on it.");
    shownAs = "";
    draw();
  }

  async function act(method, params, done) {
    try {
      await call(method, { id, ...params });
      toast(done);
    } catch (failure) {
      say(failure.sentence);
    }
    await refresh();
  }

  function declineForm(close) {
    const reason = textarea({ rows: 2, "aria-label": "Why, optional", placeholder: "Why? (optional)" });
    return smallForm(
      () => finish("decline", { reason: reason.value.trim() }, "Declined."),
      reason,
      h("button", { type: "submit", class: "danger" }, "Decline"),
      h("button", { type: "button", onclick: close }, "Cancel"),
    );
  }

  function delegateForm(close) {
    const people = [...store.contacts.values()].filter((contact) => contact.user !== prompt.from);
    if (people.length === 0) {
      return h("p", { class: "muted" }, "You have no other contact to pass it on to.");
    }
    const who = newId("who");
    const select = h("select", { id: who }, people.map((contact) => h("option", { value: contact.user }, contact.name)));
    const reason = textarea({ rows: 2, "aria-label": "Why, optional", placeholder: "Why? (optional)" });
    return smallForm(
      () => finish("delegate", { user: select.value, reason: reason.value.trim() }, "Passed on."),
      h("label", { for: who }, "To whom"),
      select,
      reason,
      h("button", { type: "submit", class: "primary" }, "Pass on"),
      h("button", { type: "button", onclick: close }, "Cancel"),
    );
  }

  function endedPart(wasOpen) {
    const elsewhere = wasOpen && !isMine(id);
    const sentences = {
      answered: elsewhere ? "It was answered elsewhere, by you:" : "You answered:",
      declined: elsewhere ? "It was declined elsewhere, by you." : "You declined.",
      dismissed: "You have put it away.",
      delegated: elsewhere ? "It was passed on elsewhere, by you." : "You passed it on.",
      expired: "It has expired; nobody waits for the answer any more.",
      cancelled: "It needs no answer any more:",
    };
    const sentence = sentences[prompt.status] ?? prompt.status;
    if (elsewhere) {
      announce(`${sentence} ${prompt.answer ?? ""}`);
    }
    say("");
    return h(
      "section",
      { class: `ended ${prompt.status}`, "aria-label": "How it ended" },
      h("p", {}, prompt.status === "cancelled" && !prompt.answer ? "Its sender has withdrawn it." : sentence),
      prompt.status === "delegated" ? passedOn(prompt.answer ?? "") : prompt.answer && h("p", { class: "ended-answer" }, foreign(prompt.answer)),
    );
  }

  scope.on(`prompt ${id}`, (card) => {
    if (card === null || prompt === null || changed(card, prompt)) {
      refresh();
    }
  });
  scope.on(`ended ${id}`, (failure) => (failure === null ? ended("Your answer was sent.") : failed(failure)));
  scope.on("contacts", () => prompt && draw());
  await refresh();
  return () => form?.first ?? pane.querySelector(".pane-title");
}

/** Return to whom a question was passed on, and why. */
function passedOn(text) {
  const [, user, why] = /^([0-9a-f]{64}) ?(.*)$/s.exec(text) ?? [null, null, text];
  return [user && h("p", { class: "ended-answer" }, "To ", nameOf(user, null)), why && h("p", {}, foreign(why))];
}

/** Whether an event says something new of a prompt. */
function changed(card, prompt) {
  return ["status", "snoozed", "claimed_by", "claimed_until", "answer"].some((name) => card[name] !== prompt[name]);
}

function facts(prompt) {
  const parts = [h("span", {}, ago(prompt.received))];
  if (prompt.status === "open" && prompt.wants_answer) {
    parts.push(h("span", {}, left(prompt.expires)));
  }
  if (prompt.name === null) {
    parts.push(h("span", { class: "mono" }, shortId(prompt.from)));
  }
  if (prompt.flow) {
    parts.push(h("span", {}, "a flow: ", foreign(prompt.flow), prompt.dispatch_point && [" at ", foreign(prompt.dispatch_point)]));
  }
  if (prompt.asked_of !== null) {
    parts.push(h("span", {}, `${prompt.asked_of} people are asked`));
  }
  if (prompt.claimed_by) {
    parts.push(h("span", { class: "claimed" }, nameOf(prompt.claimed_by, prompt.claimed_name), prompt.claimed_name === "me" ? " work on it" : " works on it"));
  }
  if (prompt.snoozed) {
    parts.push(h("span", {}, "comes back ", until(prompt.snoozed)));
  }
  if (isWaiting(prompt.id)) {
    parts.push(h("span", { class: "claimed" }, "your answer waits for the daemon"));
  }
  return parts;
}

/** Return a button that shows what it is for below it. */
export function disclosure(text, build, attributes = {}) {
  const id = newId("more");
  const place = h("div", { id, hidden: true, class: "disclosed" });
  const button = h("button", { type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": id, ...attributes, onclick: toggle }, text);
  function toggle() {
    const opens = place.hidden;
    place.hidden = !opens;
    button.setAttribute("aria-expanded", String(opens));
    if (opens) {
      fill(place, build(toggle));
      place.querySelector("select,textarea,input,button")?.focus();
    } else {
      button.focus();
    }
  }
  return h("div", { class: "disclosure" }, button, place);
}

/** Return a small form with controls below each other, and its buttons in a row. */
export function smallForm(onSubmit, ...children) {
  const buttons = children.filter((child) => child instanceof HTMLButtonElement);
  const controls = children.filter((child) => !(child instanceof HTMLButtonElement));
  return h(
    "form",
    {
      class: "form small-form",
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        onSubmit();
      },
    },
    controls,
    h("div", { class: "row" }, buttons),
  );
}
