// What was typed and not sent, kept by the tab also when the page is loaded again.

const PREFIX = "draft:";
const MAX_DRAFTS = 50;
const MAX_CHARS = 100_000;

/** Return what was typed under a name; null if nothing was. */
export function read(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name));
  } catch {
    return null;
  }
}

/** Keep what was typed; what is too long, or one too many, is kept only by the page itself. */
export function keep(name, value) {
  const text = JSON.stringify(value);
  const names = Object.keys(sessionStorage).filter((each) => each.startsWith(PREFIX));
  const known = names.includes(PREFIX + name);
  if (text.length > MAX_CHARS || (names.length >= MAX_DRAFTS && !known)) {
    return;
  }
  try {
    sessionStorage.setItem(PREFIX + name, text);
  } catch {
    // The storage is full: the page itself still has the text.
  }
}

/** Forget what was typed, as it was sent. */
export function forget(name) {
  sessionStorage.removeItem(PREFIX + name);
}
