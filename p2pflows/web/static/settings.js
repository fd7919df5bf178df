// What this browser does: notifications, keys, and the login.

import { logOut } from "./api.js";
import { fill, h, toast } from "./dom.js";
import { areKeysOn, setKeys, showKeys } from "./keys.js";
import * as notices from "./notices.js";
import { store } from "./store.js";

export const view = {
  list(scope, pane) {
    const keys = h("input", { type: "checkbox", checked: areKeysOn(), onchange: () => setKeys(keys.checked) });
    const told = h("input", { type: "checkbox", checked: notices.areOn(), disabled: !notices.arePossible(), onchange: change });
    async function change() {
      told.checked = await notices.turn(told.checked);
      if (!told.checked && Notification.permission === "denied") {
        toast("Your browser does not let this page notify you. Allow it in the settings of the browser.");
      }
    }
    async function leave() {
      try {
        await logOut();
        location.reload();
      } catch (failure) {
        toast(failure.sentence);
      }
    }
    const me = h("p", { class: "mono wrap" }, store.me);
    fill(
      pane,
      h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "Settings")),
      h(
        "div",
        { class: "settings" },
        h("section", { class: "card", "aria-label": "This browser" }, h("h3", {}, "This browser"), h("label", { class: "switch" }, told, h("span", {}, "Notify me of questions while this page is in the background")), h("label", { class: "switch wide" }, keys, h("span", {}, "Keyboard shortcuts")), h("div", { class: "row wide" }, h("button", { type: "button", onclick: showKeys }, "Show the shortcuts")), h("div", { class: "row" }, h("button", { type: "button", class: "danger", onclick: leave }, "Log out"))),
        h("section", { class: "card", "aria-label": "You" }, h("h3", {}, "You"), h("p", { class: "muted small" }, "Your user id. Others need it, or an invitation, to write to you."), me),
        h("nav", { class: "card narrow-only", "aria-label": "More" }, h("h3", {}, "More"), h("ul", { class: "plain links" }, h("li", {}, h("a", { href: "#waiting" }, "Waiting")), h("li", {}, h("a", { href: "#log" }, "Log")))),
      ),
    );
    scope.on("all", () => fill(me, store.me));
  },
};
