// Builds elements. Every text passes through `visible`, and none is ever read as HTML.

// Control characters, and characters that reorder or hide their neighbours; the same as in foreign_text.py.
const UNSAFE = new RegExp(
  "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e\\u200b\\u200e\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]",
  "gu",
);
const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "hidden", "indeterminate"]);
const VERBATIM = new Set(["href", "id", "for", "name", "value"]);
const SVG = "http://www.w3.org/2000/svg";

/** Return a text in which characters that could mislead are visible escapes; line breaks and tabs stay. */
export function visible(text) {
  return text.replace(UNSAFE, (found) => {
    const code = found.codePointAt(0);
    if (found === "\r") {
      return "\\r";
    }
    const digits = code.toString(16);
    if (code <= 0xff) {
      return `\\x${digits.padStart(2, "0")}`;
    }
    return code <= 0xffff ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
  });
}

/** Return a new element; `attributes` named on… are listeners, and children are elements or texts. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      continue;
    }
    if (name.startsWith("on")) {
      node.addEventListener(name.slice(2), value);
    } else if (PROPERTIES.has(name)) {
      node[name] = value;
    } else {
      node.setAttribute(name, value === true ? "" : VERBATIM.has(name) ? String(value) : visible(String(value)));
    }
  }
  append(node, children);
  return node;
}

/** Add children to an element; those that are null or false are left out. */
export function append(node, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      node.append(child instanceof Node ? child : visible(String(child)));
    }
  }
  return node;
}

/** Replace the children of an element. */
export function fill(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

/** Return an element for words of somebody else, whose direction does not change that of what stands around. */
export function foreign(text, className = "") {
  return h("bdi", { dir: "auto", class: `foreign ${className}`.trim() }, text);
}

/** Return a drawing that screen readers pass over. */
export function svg(paths, className = "icon") {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("viewBox", "0 0 24 24");
  node.setAttribute("class", className);
  node.setAttribute("aria-hidden", "true");
  for (const path of paths) {
    const drawn = document.createElementNS(SVG, "path");
    drawn.setAttribute("d", path);
    node.append(drawn);
  }
  return node;
}

/** Bring the children of a list in line with its items; those that have not changed stay, and so does the focus. */
export function keyed(parent, items, keyOf, build) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focused = parent.contains(document.activeElement) ? document.activeElement.closest("[data-key]") : null;
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    const content = JSON.stringify(item);
    let node = known.get(key);
    known.delete(key);
    if (node === undefined || node.content !== content) {
      const fresh = build(item);
      fresh.dataset.key = key;
      fresh.content = content;
      if (node !== undefined) {
        if (next === node) {
          next = fresh;
        }
        node.replaceWith(fresh);
        if (focused === node) {
          (fresh.matches("a,button") ? fresh : fresh.querySelector("a,button"))?.focus();
        }
      }
      node = fresh;
    }
    if (next === node) {
      next = next.nextElementSibling;
    } else {
      parent.insertBefore(node, next);
    }
  }
  for (const gone of known.values()) {
    gone.remove();
  }
}

/** Draw a pane anew; if the focus was in what is gone, it goes to the title of the pane. */
export function keepFocus(pane, draw) {
  const hadFocus = pane.contains(document.activeElement);
  draw();
  if (hadFocus && !pane.contains(document.activeElement)) {
    pane.querySelector(".pane-title")?.focus({ preventScroll: true });
  }
}

let numbered = 0;

/** Return an id that no other element has. */
export function newId(prefix) {
  numbered += 1;
  return `${prefix}-${numbered}`;
}

/** Say something to screen readers, when they have nothing else to say. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  setTimeout(() => {
    announcer.textContent = visible(text);
  }, 50);
}

/** Show a short message for some seconds, and say it to screen readers. */
export function toast(text) {
  const toasts = document.getElementById("toasts");
  const shown = h("div", { class: "toast" }, text);
  toasts.append(shown);
  while (toasts.children.length > 3) {
    toasts.firstElementChild.remove();
  }
  announce(text);
  setTimeout(() => shown.remove(), 6000);
}
