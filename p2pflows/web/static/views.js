// The views: how they are named and reached. All but the first are loaded after it, so that it is there at once.

import { view as inbox } from "./inbox.js";

/** The views in their order; `detail` is what an address of one of its items begins with. */
export const VIEWS = [
  { name: "inbox", title: "Questions", detail: "q", load: async () => inbox },
  { name: "talks", title: "Conversations", detail: "talk", load: async () => (await import("./talks.js")).view },
  { name: "people", title: "People", detail: "person", load: async () => (await import("./people.js")).view },
  { name: "asked", title: "Asked", detail: "a", load: async () => (await import("./asked.js")).view },
  { name: "waiting", title: "Waiting", detail: null, load: async () => (await import("./waiting.js")).view },
  { name: "log", title: "Log", detail: null, load: async () => (await import("./log.js")).view },
  { name: "settings", title: "Settings", detail: null, load: async () => (await import("./settings.js")).view },
];

/** The views at the bottom of a phone. */
export const ON_PHONES = ["inbox", "talks", "people", "asked", "settings"];

/** Return the view and the item that an address names. */
export function viewAt(hash) {
  const [name, id = null] = hash.slice(1).split("=");
  const owner = VIEWS.find((view) => view.detail !== null && view.detail === name);
  if (owner !== undefined && id) {
    return { view: owner, id };
  }
  return { view: VIEWS.find((view) => view.name === name) ?? VIEWS[0], id: null };
}

/** Load the other views and what shows a question now, so that they are there when the server is away. */
export async function loadAll() {
  await Promise.allSettled([import("./question.js"), ...VIEWS.map((view) => view.load())]);
}
