// The keyboard: every view and every item can be reached with it.

import { h } from "./dom.js";

const OFF = "p2pflows-keys";
const LIST = [
  ["1 … 7", "go to a view"],
  ["j, k", "next, previous in the list"],
  ["Enter", "open"],
  ["Esc", "back to the list"],
  ["r", "go to the answer, or to what you write"],
  ["y, n", "go to Yes, to No; Enter gives the answer"],
  ["d", "decline, or put away"],
  ["Ctrl+Enter", "send what you have written"],
  ["?", "show this"],
];

/** Whether single keys do something. */
export const areKeysOn = () => localStorage.getItem(OFF) !== "no";

/** Turn single keys on or off. */
export function setKeys(on) {
  localStorage.setItem(OFF, on ? "yes" : "no");
}

/** Show what the keys do. */
export function showKeys() {
  document.querySelector("dialog")?.remove();
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title", onclose: () => dialog.remove() },
    h("h2", { id: "keys-title" }, "Keyboard shortcuts"),
    h("dl", { class: "keys" }, LIST.map(([keys, text]) => [h("dt", {}, keys.split(", ").map((key) => h("kbd", {}, key))), h("dd", {}, text)])),
    h("div", { class: "row" }, h("button", { type: "button", class: "primary", onclick: () => dialog.close() }, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** Listen to the keyboard; `go` opens the view with a number. */
export function listenToKeys(go, back, first) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) {
      return;
    }
    const isTyping = event.target.matches("input:not([type=radio]):not([type=checkbox]),textarea,select");
    if (event.key === "Escape") {
      if (isTyping) {
        event.target.blur();
      } else {
        back();
      }
      return;
    }
    if (isTyping || !areKeysOn()) {
      return;
    }
    if (act(event.key, go, first)) {
      event.preventDefault();
    }
  });
}

function act(key, go, first) {
  if (/^[1-9]$/.test(key)) {
    return go(Number(key));
  }
  switch (key) {
    case "?":
      showKeys();
      return true;
    case "j":
      return step(1);
    case "k":
      return step(-1);
    case "r":
      return focus(first());
    case "y":
      return focus(document.querySelector(".confirm .yes"));
    case "n":
      return focus(document.querySelector(".confirm .no"));
    case "d": {
      const found = document.querySelector("[data-key-d]");
      found?.click();
      return found !== null;
    }
    default:
      return false;
  }
}

function step(by) {
  const items = [...document.querySelectorAll("#list a.item")].filter((item) => item.offsetParent !== null);
  if (items.length === 0) {
    return false;
  }
  const at = items.indexOf(document.activeElement);
  const current = at >= 0 ? at : items.findIndex((item) => item.getAttribute("aria-current") === "true");
  const next = current < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(Math.max(current + by, 0), items.length - 1);
  return focus(items[next]);
}

function focus(node) {
  node?.focus();
  return Boolean(node);
}
