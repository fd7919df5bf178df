// Long texts of others: their beginning, and more of them on demand.

import { call } from "./api.js";
import { foreign, h, toast } from "./dom.js";

const MAX_ADDED_CHARS = 50_000;

/**
 * Return a text of somebody else.
 *
 * @param shown the beginning
 * @param length how long the whole is
 * @param whole returns the whole
 */
export function longText(shown, length, whole, className = "text") {
  const text = foreign(shown, className);
  if (length <= shown.length) {
    return text;
  }
  let rest = null;
  let count = shown.length;
  const left = () => `Show more (${(length - count).toLocaleString("en")} characters left)`;
  const button = h("button", { type: "button", class: "link", onclick: more }, left());
  async function more() {
    button.disabled = true;
    try {
      rest ??= (await whole()).slice(count);
    } catch (failure) {
      toast(failure.sentence);
      return;
    } finally {
      button.disabled = false;
    }
    text.append(foreign(rest.slice(0, MAX_ADDED_CHARS), "more"));
    rest = rest.slice(MAX_ADDED_CHARS);
    count = length - rest.length;
    if (rest === "") {
      button.remove();
    } else {
      button.textContent = left();
    }
  }
  return h("div", { class: "long" }, text, button);
}

/** Return the text of a prompt. */
export function promptText(prompt) {
  const whole = async () => (await call("prompt_text", { id: prompt.id })).text;
  return longText(prompt.text, prompt.chars, whole, "text question-text");
}

/** Return what else the sender of a prompt says. */
export function aboutList(prompt) {
  if (prompt.about.length === 0) {
    return null;
  }
  return h(
    "dl",
    { class: "about" },
    prompt.about.map(([name, text, length]) => [
      h("dt", {}, foreign(name)),
      h("dd", {}, longText(text, length, async () => (await call("prompt_text", { id: prompt.id, field: name })).text)),
    ]),
    prompt.about_left > 0 && [h("dt", {}, "…"), h("dd", {}, `${prompt.about_left} more; in a terminal: p2pflows show`)],
  );
}
