// Answers on their way: one that the daemon could not take is sent again when the daemon is back.

import { call } from "./api.js";
import { emit } from "./store.js";

const waiting = new Map();
const mine = new Set();

/** Whether an answer of this page waits for the daemon. */
export const isWaiting = (id) => waiting.has(id);

/** Whether this page has ended the prompt. */
export const isMine = (id) => mine.has(id);

/**
 * End a prompt: answer, decline, dismiss or pass it on.
 *
 * Throws a Failure. If the daemon is away, the same is tried again once it is back; it takes only one answer.
 */
export async function end(id, method, params) {
  mine.add(id);
  try {
    await call(method, params);
    waiting.delete(id);
  } catch (failure) {
    if (failure.isAway) {
      waiting.set(id, { method, params });
    } else {
      // One that was tried before may have been taken then, though nobody could say so.
      if (!waiting.delete(id)) {
        mine.delete(id);
      }
    }
    throw failure;
  }
}

/** Send what waits; called when the daemon is back. */
export async function sendAgain() {
  for (const [id, { method, params }] of [...waiting]) {
    try {
      await end(id, method, params);
      emit(`ended ${id}`, null);
    } catch (failure) {
      if (!failure.isAway) {
        emit(`ended ${id}`, failure);
      }
    }
  }
}
