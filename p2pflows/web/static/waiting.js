// What waits to be delivered, and what could not be run.

import { call } from "./api.js";
import { fill, foreign, h, keyed, toast } from "./dom.js";
import { icon } from "./icons.js";
import { nameOf } from "./persons.js";
import { emit } from "./store.js";
import { ago, left } from "./times.js";

const READ_AGAIN_MS = 4_000;
const MAX_SHOWN = 100;

export const view = {
  list(scope, pane) {
    const pending = h("ul", { class: "rows", "aria-label": "Messages on their way" });
    const dead = h("ul", { class: "rows", "aria-label": "Dead letters" });
    const deadPart = h("section", { hidden: true }, h("h3", { class: "list-head" }, "Could not be run"), dead);
    const empty = h("div", { class: "empty" }, icon("waiting"), h("p", {}, "Nothing waits: all that you sent has arrived."));
    const more = h("p", { class: "muted small", hidden: true });
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Waiting")), h("p", { class: "muted pane-about" }, "Messages that their recipients have not confirmed yet. They are sent until their deadline."), pending, more, deadPart, empty);

    async function read() {
      const found = await call("outbox", { limit: MAX_SHOWN });
      keyed(pending, found.pending, (each) => each.id, (each) => row(each, each.to, [each.type, " to ", foreign(each.endpoint), `, tried ${each.attempts}×, `, left(each.expires)], "Withdraw", "cancel", read));
      keyed(dead, found.dead, (each) => each.id, (each) => row(each, each.from, ["to ", foreign(each.endpoint), " ", ago(each.received), ": ", foreign(String(each.error).slice(0, 300))], "Run again", "retry", read));
      deadPart.hidden = found.dead.length === 0;
      empty.hidden = found.pending.length + found.dead.length > 0;
      const leftOut = found.count.pending + found.count.dead - found.pending.length - found.dead.length;
      more.hidden = leftOut <= 0;
      more.textContent = `${leftOut} more are not shown; in a terminal: p2pflows outbox`;
    }

    scope.on("all", () => read().catch(() => {}));
    scope.on("pulse", () => read().catch(() => {}));
    scope.every(READ_AGAIN_MS, () => read().catch(() => {}));
    read().catch((failure) => failure.isAway || toast(failure.sentence));
  },
};

function row(entry, user, about, text, method, read) {
  async function act() {
    try {
      await call(method, { id: entry.id });
      toast(method === "cancel" ? "Withdrawn." : "It runs again.");
      emit("asked");
    } catch (failure) {
      toast(failure.sentence);
    }
    read().catch(() => {});
  }
  return h("li", { class: "row-item" }, h("div", { class: "grow" }, h("p", {}, nameOf(user, entry.name)), h("p", { class: "muted small wrap" }, about)), h("button", { type: "button", onclick: act }, text));
}
