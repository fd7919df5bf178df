// How people are named: by your own name for them, and never by one that they have chosen themselves.

import { foreign, h } from "./dom.js";
import { icon } from "./icons.js";
import { store } from "./store.js";

/** Return the first digits of a user id. */
export const shortId = (user) => `${user.slice(0, 8)}…`;

/** Return what a user is called in a sentence. */
export function plainName(user, name) {
  if (user === store.me || name === "me") {
    return "You";
  }
  return store.contacts.get(user)?.name ?? name ?? `Stranger ${shortId(user)}`;
}

/** Return the name of a user, with a mark if the words were compared. */
export function nameOf(user, name) {
  const isKnown = user === store.me || name === "me" || store.contacts.has(user) || Boolean(name);
  const verified = store.contacts.get(user)?.verified;
  return h(
    "span",
    { class: isKnown ? "person" : "person stranger" },
    foreign(plainName(user, name)),
    verified && h("span", { class: "verified", title: "Verified: you have compared the words" }, icon("verified"), h("span", { class: "unseen" }, "verified")),
  );
}

/** Return a circle with the first letter of a name. */
export function avatar(user, name) {
  const known = user === store.me || store.contacts.has(user) || Boolean(name);
  const letter = known ? [...plainName(user, name)][0].toUpperCase() : "?";
  const hue = parseInt(user.slice(0, 4), 16) % 6;
  return h("span", { class: `avatar hue-${known ? hue : "none"}`, "aria-hidden": "true" }, letter);
}

/** Return who asks: the name, and the flow if it is not that user in person. */
export function asker(prompt) {
  return [
    nameOf(prompt.from, prompt.name),
    prompt.label ? h("span", { class: "muted" }, " (asks you as ", foreign(prompt.label), ")") : null,
  ];
}
