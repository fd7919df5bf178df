// The login: a link that works once, in the part of the address that stays in the browser.

import { logIn } from "./api.js";
import { fill, foreign, h, newId } from "./dom.js";

const LINK = /^#login=([0-9a-f]{1,64}\.[\w-]{1,128})$/;

/** Log in if the address holds a link; returns the failure, or null. */
export async function logInByAddress() {
  const found = LINK.exec(location.hash);
  if (found === null) {
    return null;
  }
  history.replaceState(null, "", "/");
  try {
    await logIn(found[1]);
  } catch (failure) {
    return failure;
  }
  return null;
}

/** Ask for a link. */
export function showLogin(place, failure, onDone) {
  const id = newId("link");
  const input = h("input", { id, type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", "aria-describedby": `${id}-problem`, placeholder: "https://…/#login=…" });
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "alert", hidden: failure === null }, failure && foreign(failure.sentence));
  async function submit(event) {
    event.preventDefault();
    const token = input.value.trim().split("#login=").pop();
    try {
      await logIn(token);
      onDone();
    } catch (found) {
      problem.hidden = false;
      fill(problem, foreign(found.sentence));
      input.focus();
    }
  }
  fill(
    place,
    h(
      "main",
      { class: "login", id: "main", tabindex: "-1" },
      h("h1", {}, "p2pflows"),
      h("p", {}, "This browser is not logged in. Open a link that this command prints, or paste it here:"),
      h("p", { class: "mono command" }, "p2pflows web --link"),
      h("form", { class: "form", novalidate: true, onsubmit: submit }, h("label", { for: id }, "Link"), input, problem, h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Log in"))),
    ),
  );
}
