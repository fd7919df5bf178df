// What the daemon has noted for its owner.

import { call } from "./api.js";
import { fill, foreign, h, keyed, toast } from "./dom.js";
import { icon } from "./icons.js";
import { nameOf } from "./persons.js";
import { ago } from "./times.js";

const READ_AGAIN_MS = 5_000;
const MAX_SHOWN = 200;

export const view = {
  list(scope, pane) {
    const list = h("ul", { class: "rows", "aria-label": "Log" });
    const empty = h("div", { class: "empty" }, icon("log"), h("p", {}, "Nothing was noted."));
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Log")), h("p", { class: "muted pane-about" }, "What was refused, failed, or decided by itself, newest first."), list, empty);

    async function read() {
      const { entries } = await call("log", { limit: MAX_SHOWN });
      keyed(list, entries.reverse(), (entry) => entry.n, item);
      empty.hidden = entries.length > 0;
    }

    scope.on("all", () => read().catch(() => {}));
    scope.every(READ_AGAIN_MS, () => read().catch(() => {}));
    read().catch((failure) => failure.isAway || toast(failure.sentence));
  },
};

function item(entry) {
  return h(
    "li",
    { class: "row-item log-entry" },
    h("div", { class: "grow" }, h("p", { class: "item-top" }, h("span", {}, h("span", { class: "chip" }, entry.what), " ", entry.peer && nameOf(entry.peer, entry.name), entry.endpoint && h("span", { class: "muted" }, " ", foreign(entry.endpoint))), h("span", { class: "muted small" }, ago(entry.at))), entry.detail && h("p", { class: "small wrap" }, foreign(String(entry.detail).slice(0, 1000)))),
  );
}
