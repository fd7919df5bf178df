// Contacts, and strangers who want to be let in.

import { call } from "./api.js";
import { fill, foreign, h, keepFocus, keyed, newId, toast } from "./dom.js";
import { icon } from "./icons.js";
import { avatar, nameOf, shortId } from "./persons.js";
import { disclosure, smallForm } from "./question.js";
import { readContacts, readRequests, store } from "./store.js";
import { ago } from "./times.js";

const PRESENCE = { true: "online", false: "offline" };

export const view = {
  list(scope, pane, selected) {
    const strangers = h("ul", { class: "items", "aria-label": "Strangers who want to be let in" });
    const list = h("ul", { class: "items", "aria-label": "Contacts" });
    const atDoor = h("section", { hidden: true }, h("h3", { class: "list-head" }, "At the door"), strangers);
    const empty = h("p", { class: "empty", hidden: true }, "You have no contacts yet. In a terminal: p2pflows invite --for NAME");
    fill(pane, h("div", { class: "pane-head" }, h("h2", { tabindex: "-1", class: "pane-title list-title" }, "People")), atDoor, h("h3", { class: "list-head" }, "Contacts"), list, empty);

    function draw() {
      atDoor.hidden = store.requests.length === 0;
      keyed(strangers, store.requests.map((request) => ({ request, current: request.user === selected(), version: store.version })), ({ request }) => request.user, stranger);
      const contacts = [...store.contacts.values()].map((contact) => ({ contact, current: contact.user === selected() }));
      keyed(list, contacts, ({ contact }) => contact.user, item);
      empty.hidden = contacts.length > 0;
    }

    scope.on("contacts", draw);
    scope.on("requests", draw);
    scope.on("route", draw);
    draw();
  },
  detail: showPerson,
};

function item({ contact, current }) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item", href: `#person=${contact.user}`, "aria-current": current ? "true" : null },
      h("span", { class: "avatar-place" }, avatar(contact.user), contact.online && h("span", { class: "dot online" })),
      h("span", { class: "grow" }, h("span", { class: "item-top" }, nameOf(contact.user)), h("span", { class: "muted small" }, PRESENCE[contact.online] ?? "not seen yet", contact.verified ? ", verified" : "")),
    ),
  );
}

function stranger({ request, current }) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "item", href: `#person=${request.user}`, "aria-current": current ? "true" : null },
      avatar(request.user),
      h("span", { class: "grow" }, h("span", { class: "item-top" }, nameOf(request.user), h("span", { class: "muted small" }, ago(request.last))), h("span", { class: "muted small" }, story(request))),
    ),
  );
}

function story(request) {
  const endpoints = request.endpoints.join(", ");
  const by = request.introduced_by.map((each) => ["introduced by ", nameOf(each.user, each.name), each.as && [" as ", foreign(each.as)]]);
  if (request.messages > 0) {
    return [`${request.messages} message${request.messages === 1 ? "" : "s"} to `, foreign(endpoints), by.length > 0 && ["; ", by]];
  }
  return endpoints ? ["asked for ", foreign(endpoints), " and waits no more"] : by;
}

async function showPerson(scope, pane, user) {
  let shownAs = "";
  const draw = () => keepFocus(pane, drawAll);
  function drawAll() {
    const contact = store.contacts.get(user);
    const request = store.requests.find((each) => each.user === user);
    // What is typed stays: only a change of what is known draws the pane again.
    const known = JSON.stringify([contact, request, request && store.version]);
    if (known === shownAs) {
      return;
    }
    shownAs = known;
    fill(
      pane,
      h("div", { class: "detail-head" }, avatar(user), h("div", { class: "grow" }, h("h2", { tabindex: "-1", class: "pane-title" }, nameOf(user)), h("p", { class: "muted small facts" }, h("span", {}, contact ? (PRESENCE[contact.online] ?? "not seen yet") : request ? "wants to be let in" : "is not a contact")))),
      h("div", { class: "detail-body" }, contact ? aboutContact(contact) : request ? aboutStranger(request) : h("p", { class: "muted" }, "You do not know this user."), idPart(user)),
    );
  }
  scope.on("contacts", draw);
  scope.on("requests", draw);
  draw();
  return () => pane.querySelector(".pane-title");
}

function idPart(user) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(user);
      toast("Copied.");
    } catch {
      toast("Your browser does not let this page copy. Select the digits instead.");
    }
  };
  return h(
    "section",
    { class: "card", "aria-label": "User id" },
    h("h3", {}, "User id"),
    h("p", { class: "mono wrap" }, user),
    navigator.clipboard && h("button", { type: "button", onclick: copy }, "Copy"),
  );
}

function aboutContact(contact) {
  const by = contact.introduced_by;
  return [
    h("div", { class: "row" }, h("a", { class: "button primary", href: `#talk=${contact.user}` }, "Talk"), disclosure("Rename", (close) => renameForm(contact, close))),
    h(
      "section",
      { class: "card", "aria-label": "Verification" },
      h("h3", {}, "Verification"),
      contact.verified
        ? h("p", { class: "good" }, icon("verified"), "You have compared the words: this is their key.")
        : [
            h("p", {}, "Compare five words with them by voice or face to face. If somebody has swapped a key on the way, the words differ."),
            wordsPart(contact),
          ],
      by && h("p", { class: "muted" }, "Introduced by ", nameOf(by, null), "."),
    ),
  ];
}

function wordsPart(contact) {
  const place = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "button", onclick: show }, "Show the words");
  async function show() {
    button.disabled = true;
    fill(place, h("p", { class: "muted" }, "Computing …"));
    try {
      const { words } = await call("words", { user: contact.user });
      button.hidden = true;
      fill(
        place,
        h("p", { class: "words" }, words),
        h("div", { class: "row" }, h("button", { type: "button", class: "primary", onclick: agree }, "They see the same"), h("button", { type: "button", onclick: differ }, "They differ")),
      );
    } catch (failure) {
      button.disabled = false;
      fill(place, h("p", { class: "problem" }, foreign(failure.sentence)));
    }
  }
  async function agree() {
    try {
      await call("verify", { user: contact.user });
      toast("Verified.");
      await readContacts();
    } catch (failure) {
      toast(failure.sentence);
    }
  }
  function differ() {
    fill(place, h("p", { class: "problem", role: "alert" }, `Trust nothing that comes in their name. Remove them, and meet in another way: p2pflows contacts remove ${contact.name}`));
  }
  return [button, place];
}

function nameForm(label, start, button, onSubmit, extra) {
  const id = newId("name");
  const input = h("input", { id, type: "text", autocomplete: "off", dir: "auto", maxlength: 64, value: start, "aria-describedby": `${id}-problem` });
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "alert", hidden: true });
  return smallForm(
    async () => {
      try {
        await onSubmit(input.value.trim());
      } catch (failure) {
        problem.hidden = false;
        fill(problem, foreign(failure.sentence));
        input.setAttribute("aria-invalid", "true");
        input.focus();
      }
    },
    h("label", { for: id }, label),
    input,
    problem,
    h("button", { type: "submit", class: "primary" }, button),
    extra,
  );
}

function renameForm(contact, close) {
  return nameForm(
    "Your name for them",
    contact.name,
    "Rename",
    async (name) => {
      await call("rename", { user: contact.user, name });
      toast("Renamed.");
      await readContacts();
    },
    h("button", { type: "button", onclick: close }, "Cancel"),
  );
}

function aboutStranger(request) {
  const suggested = request.introduced_by.find((each) => each.as)?.as ?? "";
  return [
    h("section", { class: "card", "aria-label": "What is known" }, h("h3", {}, "What is known"), h("p", {}, story(request)), h("p", { class: "muted small" }, "First ", ago(request.first), ", last ", ago(request.last), ". Their key begins with ", h("span", { class: "mono" }, shortId(request.user)))),
    h(
      "section",
      { class: "card", "aria-label": "Your decision" },
      h("h3", {}, "Let them in?"),
      nameForm("Your name for them", suggested, "Allow", async (name) => {
        const found = await call("allow", { user: request.user, name });
        toast(`${found.name} is a contact now; messages let in: ${found.released}.`);
        await Promise.all([readContacts(), readRequests()]);
      }),
      disclosure("Deny", (close) =>
        smallForm(
          async () => {
            try {
              const found = await call("deny", { user: request.user });
              toast(`Denied; messages dropped: ${found.dropped}.`);
              await readRequests();
            } catch (failure) {
              toast(failure.sentence);
            }
          },
          h("p", { class: "muted" }, "What they have sent is dropped, and all that they send later is refused."),
          h("button", { type: "submit", class: "danger" }, "Deny"),
          h("button", { type: "button", onclick: close }, "Cancel"),
        ),
      ),
    ),
  ];
}
