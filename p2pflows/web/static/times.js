// Times as people say them; those on the page are kept up to date.

import { h } from "./dom.js";

const UNITS = [
  ["d", 86400],
  ["h", 3600],
  ["min", 60],
];
const REFRESH_MS = 5000;

/** Return a length of time in its largest whole unit. */
export function inOneUnit(seconds) {
  for (const [unit, length] of UNITS) {
    if (seconds >= length) {
      return `${Math.floor(seconds / length)} ${unit}`;
    }
  }
  return `${Math.max(Math.floor(seconds), 0)} s`;
}

/** Return the seconds until a moment; negative if it has passed. */
export function secondsUntil(moment) {
  return (new Date(moment).getTime() - Date.now()) / 1000;
}

function said(kind, moment) {
  const seconds = secondsUntil(moment);
  if (kind === "left") {
    return seconds <= 0 ? "over" : `${inOneUnit(seconds)} left`;
  }
  if (kind === "until") {
    return seconds <= 0 ? "now" : `in ${inOneUnit(seconds)}`;
  }
  return -seconds < 10 ? "just now" : `${inOneUnit(-seconds)} ago`;
}

function element(kind, moment, className) {
  const full = new Date(moment).toLocaleString();
  return h("time", { datetime: moment, title: full, class: className, "data-said": kind }, said(kind, moment));
}

/** Return an element that says how long ago a moment was. */
export const ago = (moment) => element("ago", moment, "time");

/** Return an element that says how much time is left. */
export function left(moment) {
  return element("left", moment, secondsUntil(moment) < 600 ? "time soon" : "time");
}

/** Return an element that says in how long something happens. */
export const until = (moment) => element("until", moment, "time");

/** Return the time of the day of a moment. */
export function clock(moment) {
  const text = new Date(moment).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return h("time", { datetime: moment, title: new Date(moment).toLocaleString(), class: "time" }, text);
}

/** Return the day of a moment. */
export function day(moment) {
  const date = new Date(moment);
  const today = new Date();
  if (date.toDateString() === today.toDateString()) {
    return "Today";
  }
  return date.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" });
}

setInterval(() => {
  for (const node of document.querySelectorAll("time[data-said]")) {
    const text = said(node.dataset.said, node.dateTime);
    if (node.textContent !== text) {
      node.textContent = text;
    }
  }
}, REFRESH_MS);
