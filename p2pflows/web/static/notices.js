// Notifications of the browser, while the page is in the background. They name who asks, and not what.

import { announce } from "./dom.js";
import { isLeader } from "./events.js";
import { plainName } from "./persons.js";

const ON = "p2pflows-notify";
const MAX_AT_ONCE = 5;
const WINDOW_MS = 30_000;
/** What shows notifications, a registration, once it is ready; null if the page shows them itself. */
let worker = Promise.resolve(null);
let shown = [];

/** Whether the browser could notify. */
export const arePossible = () => "Notification" in window && window.isSecureContext;

/** Whether it does. */
export const areOn = () => arePossible() && Notification.permission === "granted" && localStorage.getItem(ON) === "yes";

/** Turn notifications on or off; returns whether they are on. */
export async function turn(on) {
  if (on && Notification.permission !== "granted") {
    await Notification.requestPermission();
  }
  localStorage.setItem(ON, on ? "yes" : "no");
  await start();
  return areOn();
}

/** Register what shows notifications on phones. */
export async function start() {
  if (!areOn() || !("serviceWorker" in navigator)) {
    return;
  }
  // A registration shows nothing before its worker is active. Without one, the page does, as far as the browser lets it.
  worker = navigator.serviceWorker.register("/sw.js").then(
    () => navigator.serviceWorker.ready,
    () => null,
  );
  await worker;
}

if ("serviceWorker" in navigator) {
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    if (typeof data?.open === "string") {
      location.hash = data.open;
    }
  });
}

/** Notify of a prompt that came. */
export async function notify(prompt) {
  if (!areOn() || !document.hidden || !isLeader) {
    return;
  }
  shown = shown.filter((at) => Date.now() - at < WINDOW_MS);
  if (shown.length >= MAX_AT_ONCE) {
    return; // the title of the page says how many wait
  }
  shown.push(Date.now());
  const who = plainName(prompt.from, prompt.name);
  const title = prompt.wants_answer ? `${who} asks you` : `A note from ${who}`;
  const options = { tag: prompt.id, icon: "/icon-192.png", data: { hash: `#q=${prompt.id}` } };
  const registration = await worker;
  if (registration !== null) {
    await registration.showNotification(title, options);
    return;
  }
  const notification = new Notification(title, options);
  notification.onclick = () => {
    window.focus();
    location.hash = options.data.hash;
    notification.close();
  };
}

/** Say to screen readers that a question has come. */
export function announcePrompt(prompt) {
  const who = plainName(prompt.from, prompt.name);
  announce(`${who} ${prompt.wants_answer ? "asks you" : "writes"}: ${prompt.text.slice(0, 120)}`);
}
