// Files beside messages: those of others, with a preview of pictures; and those that go with an answer.

import { call, upload } from "./api.js";
import { fill, foreign, h, newId, toast } from "./dom.js";
import { icon } from "./icons.js";

const LOOK_MS = 1_000;
const MAX_ATTACHED = 20;
const UNITS = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

/** Return a number of bytes in words. */
export function size(bytes) {
  const unit = UNITS.find(([factor]) => bytes >= factor);
  return unit === undefined ? `${bytes} bytes` : `${Number((bytes / unit[0]).toPrecision(3))} ${unit[1]}`;
}

/** Return the files that came with a message, for as long as the scope is open; null if there are none. */
export function fileList(scope, files) {
  if (!files || files.length === 0) {
    return null;
  }
  return h("ul", { class: "files", "aria-label": "Files" }, files.map((file) => item(scope, file)));
}

function item(scope, file) {
  const state = h("span", { class: "file-state" });
  const picture = h("div", { class: "file-picture", hidden: true });
  const button = h("button", { type: "button", onclick: download }, icon("waiting"), "Download", h("span", { class: "unseen" }, " ", foreign(file.name)));
  let known = null;
  let isLooking = false;
  let isAskedFor = false;

  /** Read how the file is, again and again while it is fetched. */
  async function look(fetch) {
    if (isLooking) {
      return;
    }
    isLooking = true;
    try {
      known = await call("file", { id: file.id, fetch });
      draw();
    } catch (failure) {
      isAskedFor = false;
      fill(state, failure.isAway ? "not known, as your daemon is away" : foreign(failure.sentence));
      button.disabled = failure.code === "usage";
      return;
    } finally {
      isLooking = false;
    }
    if (known.state === "here") {
      await arrived();
    } else if (known.state === "wanted" && !scope.isClosed) {
      setTimeout(() => look(false), LOOK_MS);
    }
  }

  function draw() {
    const share = file.size > 0 ? Math.floor((100 * known.done) / file.size) : 0;
    const wanted = known.error ? [`being fetched: ${share} %; `, foreign(known.error)] : `being fetched: ${share} %`;
    const words = { here: "here", wanted, offered: "not fetched yet", failed: foreign(known.error ?? "it cannot be had") };
    fill(state, words[known.state] ?? known.state);
    button.disabled = known.state === "wanted";
  }

  async function arrived() {
    if (known.is_picture && picture.hidden) {
      try {
        const { link } = await call("file_link", { id: file.id });
        picture.hidden = false;
        fill(picture, h("img", { src: link, alt: `Picture ${file.name}`, decoding: "async", onerror: () => fill(picture, h("p", { class: "muted small" }, "This picture cannot be shown.")) }));
      } catch {
        // It can still be downloaded, which says what is wrong.
      }
    }
    if (isAskedFor) {
      isAskedFor = false;
      await save();
    }
  }

  async function download() {
    if (known?.state === "here") {
      await save();
      return;
    }
    isAskedFor = true;
    await look(true);
  }

  async function save() {
    try {
      const { link } = await call("file_link", { id: file.id });
      const opened = h("a", { href: link, download: file.name, hidden: true });
      document.body.append(opened);
      opened.click();
      opened.remove();
    } catch (failure) {
      toast(failure.sentence);
    }
  }

  look(false);
  const about = h("span", { class: "muted small facts" }, h("span", {}, size(file.size)), h("span", {}, foreign(file.type)), state);
  return h("li", { class: "file" }, h("div", { class: "file-row" }, h("span", { class: "grow" }, h("span", { class: "file-name" }, foreign(file.name)), about), button), picture);
}

/** Return a field for files that go with an answer; `send` sends them, and returns their references. */
export function attachField() {
  const id = newId("attach");
  const state = h("p", { class: "muted small", id: `${id}-state`, role: "status" });
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "alert", hidden: true });
  const input = h("input", { type: "file", id, multiple: true, "aria-describedby": `${id}-state ${id}-problem`, onchange: () => say("") });
  const sent = new WeakMap();

  function say(text) {
    problem.hidden = text === "";
    fill(problem, foreign(text));
    input.setAttribute("aria-invalid", String(text !== ""));
  }

  /** Send the chosen files, those that were sent before excepted; null if one could not be, which the field says. */
  async function send() {
    const chosen = [...input.files];
    if (chosen.length === 0) {
      return [];
    }
    say("");
    input.disabled = true;
    try {
      await check(chosen);
      for (const file of chosen) {
        if (!sent.has(file)) {
          fill(state, "Sending ", foreign(file.name), " …");
          sent.set(file, await upload(file, (share) => fill(state, "Sending ", foreign(file.name), `: ${Math.floor(100 * share)} %`)));
        }
      }
      return chosen.map((file) => sent.get(file));
    } catch (failure) {
      say(failure.isAway ? "Not sent, as your daemon is away. Try again when it is back." : (failure.sentence ?? failure.message));
      return null;
    } finally {
      fill(state);
      input.disabled = false;
      if (!problem.hidden) {
        input.focus();
      }
    }
  }

  const node = h("div", { class: "field attach" }, h("label", { for: id }, "Files, optional"), input, state, problem);
  return { node, send };
}

/** Check before anything is sent what the daemon would refuse afterwards. */
async function check(chosen) {
  if (chosen.length > MAX_ATTACHED) {
    throw new Error(`An answer takes at most ${MAX_ATTACHED} files along.`);
  }
  const most = (await call("status")).files.limits.max_size;
  const large = chosen.find((file) => file.size > most);
  if (large !== undefined) {
    throw new Error(`${large.name} has ${size(large.size)}; a file may have ${size(most)}.`);
  }
}
