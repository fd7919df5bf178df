// What the server says as it happens. Of all tabs of a browser one has the stream, and passes on what it says: a
// browser opens only six connections to a server, and each stream takes one.

import { headers } from "./api.js";

const NAME = "p2pflows-events";
const SILENCE_MS = 40_000;
const MAX_WAIT_MS = 5_000;
const LOOK_MS = 5_000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Whether this tab has the stream. */
export let isLeader = false;

/** Call a function with each event and its data, for as long as the page is open. */
export function follow(onEvent) {
  const channel = new BroadcastChannel(NAME);
  const last = new Map();
  let heard = Date.now();

  const take = (event, data) => {
    heard = Date.now();
    last.set(event, data);
    onEvent(event, data);
  };
  channel.onmessage = ({ data: message }) => {
    heard = Date.now();
    if (message.ask && isLeader) {
      for (const event of ["server", "state", "pulse"].filter((each) => last.has(each))) {
        channel.postMessage({ event, data: last.get(event) });
      }
    } else if (message.event) {
      take(message.event, message.data);
    }
  };
  const pass = (event, data) => {
    take(event, data);
    channel.postMessage({ event, data });
  };
  const alive = () => {
    heard = Date.now();
    channel.postMessage({});
  };

  const lead = async (hasLock) => {
    isLeader = true;
    for (let failures = 0; isLeader; failures += 1) {
      try {
        await readStream(pass, alive, hasLock);
        failures = 0;
        pass("server", { is: "away" });
      } catch (failure) {
        if (failure.message !== "no stream") {
          pass("server", { is: "away" });
        }
      }
      if (isLeader) {
        await sleep(Math.min(500 * 2 ** failures, MAX_WAIT_MS));
      }
    }
  };
  const queue = (options) =>
    navigator.locks
      .request(NAME, options, () => lead(() => isLeader))
      .catch(() => {
        isLeader = false; // another tab has taken over, as this one seemed to sleep
        queue({});
      });

  if (navigator.locks === undefined) {
    lead(() => true);
    return;
  }
  queue({});
  channel.postMessage({ ask: true });
  setInterval(() => {
    if (!isLeader && !document.hidden && Date.now() - heard > SILENCE_MS) {
      heard = Date.now();
      queue({ steal: true });
    }
  }, LOOK_MS);
}

/** Read one stream to its end; throws if there is none, having said why. */
async function readStream(pass, alive, goesOn) {
  const stop = new AbortController();
  let watchdog = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const response = await fetch("/api/events", { headers: headers(), signal: stop.signal });
    if (!response.ok) {
      pass("server", { is: { 401: "logged_out", 429: "busy" }[response.status] ?? "away" });
      throw new Error("no stream");
    }
    pass("server", { is: "there" });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let unread = "";
    while (goesOn()) {
      const { value, done } = await reader.read();
      if (done) {
        break;
      }
      clearTimeout(watchdog);
      watchdog = setTimeout(() => stop.abort(), SILENCE_MS);
      alive();
      unread += value;
      const parts = unread.split("\n\n");
      unread = parts.pop();
      for (const part of parts) {
        const found = /^event: (\w+)\ndata: (.*)$/s.exec(part);
        if (found !== null) {
          pass(found[1], JSON.parse(found[2]));
        }
      }
    }
  } finally {
    clearTimeout(watchdog);
    stop.abort();
  }
}
