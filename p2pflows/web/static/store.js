// What the page knows at the moment, and who wants to hear when it changes.

import { call } from "./api.js";

/** The state of the page; views read it, and only this module and events change it. */
export const store = {
  me: "",
  daemon: "unknown",
  server: "unknown",
  error: null,
  contacts: new Map(),
  /** Grows with each change of the contacts, so that lists with names are drawn again. */
  version: 0,
  prompts: new Map(),
  /** Whether more prompts are open than the page keeps. */
  hasMore: false,
  requests: [],
  pulse: null,
};

const MAX_PROMPTS = 1_000;
const CONTACTS_IN_A_PAGE = 1_000;
const GATHER_MS = 50;
/** For each reading of the prompts under way, what was said of prompts since it began. */
const readings = new Set();
let hasReadPrompts = false;

const listeners = new Map();

/** Call a function whenever something changes; returns what ends that. */
export function on(topic, listener) {
  if (!listeners.has(topic)) {
    listeners.set(topic, new Set());
  }
  listeners.get(topic).add(listener);
  return () => listeners.get(topic).delete(listener);
}

/** Say that something has changed. */
export function emit(topic, data) {
  for (const listener of [...(listeners.get(topic) ?? [])]) {
    listener(data);
  }
}

const due = new Set();

/** Say that something has changed, once for many changes that come together. */
function emitSoon(topic) {
  if (!due.has(topic)) {
    due.add(topic);
    setTimeout(() => {
      due.delete(topic);
      emit(topic);
    }, GATHER_MS);
  }
}

/** What a view listens to, until it is closed. */
export class Scope {
  #ends = [];
  isClosed = false;

  /** Listen to a topic. */
  on(topic, listener) {
    this.#ends.push(on(topic, listener));
  }

  /** Do something now and then, while the page is visible. */
  every(ms, action) {
    const timer = setInterval(() => document.hidden || action(), ms);
    this.#ends.push(() => clearInterval(timer));
  }

  /** Listen to an event of the browser. */
  listen(target, name, listener) {
    target.addEventListener(name, listener);
    this.#ends.push(() => target.removeEventListener(name, listener));
  }

  /** End all that. */
  close() {
    this.isClosed = true;
    this.#ends.splice(0).forEach((end) => end());
  }
}

/** Whether a prompt waits to be answered or read now. */
export function isOpen(prompt) {
  return prompt.status === "open" && prompt.snoozed === null && new Date(prompt.expires).getTime() > Date.now();
}

/** The open prompts: questions before notes, the oldest first. */
export function openPrompts() {
  return [...store.prompts.values()]
    .filter(isOpen)
    .sort((a, b) => b.wants_answer - a.wants_answer || (a.received < b.received ? -1 : 1));
}

/** Take in a prompt as it is now. */
export function takePrompt(prompt) {
  for (const said of readings) {
    said.set(prompt.id, prompt);
  }
  if (prompt.status === "open") {
    store.hasMore ||= store.prompts.size >= MAX_PROMPTS;
    if (store.prompts.size < MAX_PROMPTS || store.prompts.has(prompt.id)) {
      store.prompts.set(prompt.id, prompt);
    }
  } else {
    store.prompts.delete(prompt.id);
  }
  emitSoon("prompts");
  emit(`prompt ${prompt.id}`, prompt);
}

/**
 * Read the open prompts again; the daemon takes them for shown.
 *
 * What is said of a prompt meanwhile is newer than what is read. Emits `came` for each prompt that came since the last
 * reading unnoticed, as while the server was away.
 */
export async function readPrompts() {
  const found = new Map();
  const said = new Map();
  let page = "";
  readings.add(said);
  try {
    while (page !== null && found.size < MAX_PROMPTS) {
      const part = await call("inbox", { page });
      part.prompts.forEach((prompt) => found.set(prompt.id, prompt));
      page = part.next;
    }
  } finally {
    readings.delete(said);
  }
  for (const [id, prompt] of said) {
    if (prompt.status === "open") {
      found.set(id, prompt);
    } else {
      found.delete(id);
    }
  }
  const known = store.prompts;
  const came = hasReadPrompts && !store.hasMore ? [...found.values()].filter((prompt) => !known.has(prompt.id) && isOpen(prompt)) : [];
  hasReadPrompts = true;
  store.hasMore = page !== null;
  store.prompts = found;
  emit("prompts");
  came.forEach((prompt) => emit("came", prompt));
  for (const id of new Set([...known.keys(), ...found.keys()])) {
    emit(`prompt ${id}`, found.get(id) ?? null);
  }
}

/** Read the contacts again, page by page, as there may be many. */
export async function readContacts() {
  const contacts = [];
  let page = "";
  while (page !== null) {
    const part = await call("contacts", { page, limit: CONTACTS_IN_A_PAGE });
    contacts.push(...part.contacts);
    page = part.next;
  }
  if (JSON.stringify([...store.contacts.values()]) !== JSON.stringify(contacts)) {
    store.contacts = new Map(contacts.map((contact) => [contact.user, contact]));
    store.version += 1;
    emit("contacts");
  }
}

/** Read the strangers again who want to be let in. */
export async function readRequests() {
  store.requests = (await call("requests")).requests;
  emit("requests");
}

async function readMe() {
  store.me ||= (await call("id")).user_id;
}

/** Read everything again. */
export async function readAll() {
  await Promise.all([readMe(), readContacts(), readRequests(), readPrompts()]);
  emit("all");
}
