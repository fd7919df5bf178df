// The form of a question: buttons, fields or JSON, and what was entered in them.

import { foreign, h, newId } from "./dom.js";
import { icon } from "./icons.js";

const MAX_RADIOS = 7;
const MAX_BUTTONS = 6;

/**
 * Return the form of a question.
 *
 * @param form its description; null if any text is an answer
 * @param start what was entered before; null if nothing was
 * @param onSubmit called with the parameters of the answer
 * @param onChange called with what is entered so far
 * @param onOther called with the kind of form that the person wants instead
 */
export function buildForm(form, start, onSubmit, onChange, onOther) {
  const kind = start?.json !== undefined ? "json" : (form?.kind ?? "free");
  return { free: freeText, confirm, choice, fields, json }[kind](form, start ?? {}, onSubmit, onChange, onOther);
}

function remarkField(start, onChange) {
  const input = textarea({ rows: 1, maxlength: 4000, placeholder: "Add a remark (optional)", "aria-label": "Remark, optional" });
  input.value = start.remark ?? "";
  input.addEventListener("input", onChange);
  return input;
}

const withRemark = (params, input) => (input.value.trim() ? { ...params, remark: input.value.trim() } : params);

function freeText(form, start, onSubmit, onChange) {
  const id = newId("answer");
  const input = textarea({ id, rows: 3 });
  input.value = start.text ?? "";
  input.addEventListener("input", () => onChange({ text: input.value }));
  const submit = h("button", { type: "submit", class: "primary" }, "Answer");
  const node = formElement(() => onSubmit({ text: input.value }), h("label", { for: id }, "Your answer"), input, submitRow(submit));
  submitOnControlEnter(input, node);
  return { node, first: input };
}

function confirm(form, start, onSubmit, onChange) {
  const remark = remarkField(start, () => onChange({ remark: remark.value }));
  const button = (value, text, name) =>
    h(
      "button",
      { type: "button", class: `big ${text.toLowerCase()}`, "data-answer": text.toLowerCase(), onclick: () => onSubmit(withRemark({ value }, remark)) },
      icon(name),
      text,
    );
  const yes = button(true, "Yes", "check");
  const node = formElement(() => {}, h("div", { class: "confirm", role: "group", "aria-label": "Your answer" }, yes, button(false, "No", "close")), remark);
  return { node, first: yes };
}

function choice(form, start, onSubmit, onChange) {
  const [only] = form.fields;
  const remark = remarkField(start, () => onChange({ choice: field?.read() ?? null, remark: remark.value }));
  let field = null;
  if (only.options.length <= MAX_BUTTONS) {
    const buttons = only.options.map((option, number) =>
      h("button", { type: "button", class: "big option", onclick: () => onSubmit(withRemark({ choice: number }, remark)) }, optionText(option)),
    );
    const node = formElement(() => {}, h("div", { class: "options", role: "group", "aria-label": "Your answer" }, buttons), remark);
    return { node, first: buttons[0] };
  }
  field = choiceField({ ...only, title: "Your answer", value: start.choice ?? null, required: true }, () =>
    onChange({ choice: field.read(), remark: remark.value }),
  );
  const node = formElement(
    () => onSubmit(withRemark({ choice: field.read() }, remark)),
    field.node,
    remark,
    submitRow(h("button", { type: "submit", class: "primary" }, "Answer")),
  );
  return { node, first: field.first, showProblems: (problems, sentence) => field.showProblem(problems[0] ?? sentence) };
}

function fields(form, start, onSubmit, onChange, onOther) {
  const entered = start.fields ?? [];
  const built = form.fields.map((field, number) => {
    const shown = number in entered ? { ...field, value: entered[number] } : field;
    return buildField(form.fields.length === 1 && !field.name ? { ...shown, title: field.title || "Your answer" } : shown, changed);
  });
  const remark = remarkField(start, changed);
  const read = () => built.map((field) => field.read());
  function changed() {
    onChange({ fields: read(), remark: remark.value });
  }
  const summary = h("p", { class: "problem", role: "alert", hidden: true });
  const node = formElement(
    () => onSubmit(withRemark({ fields: read() }, remark)),
    form.fields.some((field) => field.required) && form.fields.length > 1 && h("p", { class: "muted small" }, "Fields with a dot are needed."),
    built.map((field) => field.node),
    remark,
    summary,
    submitRow(
      h("button", { type: "submit", class: "primary" }, form.is_draft ? "Give it back" : "Answer"),
      form.is_draft && h("button", { type: "button", onclick: () => onSubmit(withRemark({ unchanged: true }, remark)) }, "Give it back unchanged"),
      form.is_draft && h("button", { type: "button", class: "quiet", onclick: () => onOther("json") }, "Edit as JSON"),
    ),
  );
  return {
    node,
    first: built[0].first,
    showProblems(problems, sentence) {
      built.forEach((field, number) => field.showProblem(problems[number] ?? ""));
      const wrong = built.find((field, number) => number in problems);
      summary.hidden = Boolean(wrong) && built.length === 1;
      summary.textContent = "";
      summary.append(foreign(sentence));
      wrong?.first.focus();
    },
  };
}

function json(form, start, onSubmit, onChange, onOther) {
  const id = newId("answer");
  const input = textarea({ id, rows: 12, class: "code", spellcheck: "false", "aria-describedby": `${id}-hint ${id}-problem` });
  input.value = start.json ?? form.text;
  const remark = remarkField(start, changed);
  const problem = h("p", { class: "problem", id: `${id}-problem`, role: "alert", hidden: true });
  function changed() {
    onChange({ json: input.value, remark: remark.value });
  }
  input.addEventListener("input", changed);
  const node = formElement(
    () => onSubmit(withRemark({ json: input.value }, remark)),
    h("label", { for: id }, form.is_draft ? "The document to edit, as JSON" : "Your answer, as JSON"),
    h("p", { class: "muted small", id: `${id}-hint`, hidden: form.is_draft }, "Expected: ", foreign(form.expects)),
    input,
    problem,
    remark,
    submitRow(
      h("button", { type: "submit", class: "primary" }, form.is_draft ? "Give it back" : "Answer"),
      form.is_draft && h("button", { type: "button", onclick: () => onSubmit(withRemark({ unchanged: true }, remark)) }, "Give it back unchanged"),
      form.kind === "fields" && h("button", { type: "button", class: "quiet", onclick: () => onOther("fields") }, "Edit as fields"),
    ),
  );
  return {
    node,
    first: input,
    showProblems(problems, sentence) {
      problem.hidden = false;
      problem.textContent = "";
      problem.append(foreign(sentence));
      input.setAttribute("aria-invalid", "true");
      input.focus();
    },
  };
}

// Single fields.

function buildField(field, onChange) {
  const build = { boolean: booleanField, choice: choiceField, several: severalField }[field.kind] ?? textField;
  return build(field, onChange);
}

const labelOf = (field) => [
  foreign(field.title || field.name),
  field.required && h("span", { class: "needed", title: "needed" }, h("span", { "aria-hidden": "true" }, "•"), h("span", { class: "unseen" }, " needed")),
];

/** Return the words below the label of a field, and the place for its problem. */
function notesOf(field, id, control) {
  const expects = ["choice", "several", "boolean"].includes(field.kind) || field.expects === "text" ? "" : field.expects;
  const words = field.about && expects ? `${field.about} (${expects})` : field.about || expects;
  const hint = h("p", { class: "muted small", id: `${id}-hint`, hidden: words === "" }, foreign(words));
  const problem = h("p", { class: "problem", id: `${id}-problem`, hidden: true });
  return {
    hint,
    problem,
    showProblem(text) {
      problem.hidden = text === "";
      problem.textContent = "";
      problem.append(foreign(text === "" ? "" : `This field ${text}.`));
      control.setAttribute("aria-invalid", text === "" ? "false" : "true");
    },
  };
}

function textField(field, onChange) {
  const id = newId("field");
  const about = { id, "aria-describedby": `${id}-hint ${id}-problem` };
  const isLong = field.kind === "text" || field.kind === "list" || field.kind === "json";
  const control = isLong
    ? textarea({ ...about, rows: field.kind === "text" ? 2 : 3, class: field.kind === "json" ? "code" : null, spellcheck: field.kind === "json" ? "false" : null })
    : h("input", { ...about, type: field.kind === "number" ? "text" : field.input, inputmode: field.kind === "number" ? "decimal" : null, autocomplete: "off", dir: "auto" });
  control.value = field.value ?? "";
  control.addEventListener("input", onChange);
  const notes = notesOf(field.kind === "list" ? { ...field, about: [field.about, "One on each line"].filter(Boolean).join(". ") } : field, id, control);
  return {
    node: h("div", { class: "field" }, h("label", { for: id }, labelOf(field)), notes.hint, control, notes.problem),
    first: control,
    read: () => control.value,
    showProblem: notes.showProblem,
  };
}

function group(field, inputs, onChange, read) {
  const id = newId("field");
  const node = h("fieldset", { class: "field", "aria-describedby": `${id}-hint ${id}-problem` }, h("legend", {}, labelOf(field)));
  const notes = notesOf(field, id, node);
  node.append(notes.hint, inputs, notes.problem);
  node.addEventListener("change", onChange);
  return { node, first: inputs.querySelector("input"), read, showProblem: notes.showProblem };
}

function radio(name, value, checked, ...label) {
  return h("label", { class: "radio" }, h("input", { type: "radio", name, value, checked }), h("span", {}, label));
}

function booleanField(field, onChange) {
  const name = newId("radio");
  const inputs = h("div", { class: "radios inline" }, radio(name, "yes", field.value === true, "Yes"), radio(name, "no", field.value === false, "No"), !field.required && radio(name, "", field.value === null, "No answer"));
  const read = () => ({ yes: true, no: false })[inputs.querySelector("input:checked")?.value] ?? null;
  return group(field, inputs, onChange, read);
}

function choiceField(field, onChange) {
  if (field.options.length <= MAX_RADIOS) {
    const name = newId("radio");
    const inputs = h(
      "div",
      { class: "radios" },
      field.options.map((option, number) => radio(name, number, field.value === number, optionText(option))),
      !field.required && radio(name, "", field.value === null, "No answer"),
    );
    const read = () => {
      const value = inputs.querySelector("input:checked")?.value ?? "";
      return value === "" ? null : Number(value);
    };
    return group(field, inputs, onChange, read);
  }
  const id = newId("field");
  const control = h(
    "select",
    { id, "aria-describedby": `${id}-hint ${id}-problem` },
    h("option", { value: "" }, "Choose …"),
    field.options.map((option, number) => h("option", { value: String(number), selected: field.value === number }, option.label ? `${option.text} (${option.label})` : option.text)),
  );
  control.addEventListener("change", onChange);
  const notes = notesOf(field, id, control);
  return {
    node: h("div", { class: "field" }, h("label", { for: id }, labelOf(field)), notes.hint, control, notes.problem),
    first: control,
    read: () => (control.value === "" ? null : Number(control.value)),
    showProblem: notes.showProblem,
  };
}

function severalField(field, onChange) {
  const chosen = field.value ?? [];
  const inputs = h(
    "div",
    { class: "radios" },
    field.options.map((option, number) => h("label", { class: "radio" }, h("input", { type: "checkbox", value: String(number), checked: chosen.includes(number) }), h("span", {}, optionText(option)))),
  );
  return group(field, inputs, onChange, () => [...inputs.querySelectorAll("input:checked")].map((input) => Number(input.value)));
}

const optionText = (option) => [foreign(option.text), option.label && h("span", { class: "muted" }, " ", foreign(option.label))];

// Parts.

function formElement(onSubmit, ...children) {
  return h(
    "form",
    {
      class: "form",
      novalidate: true,
      onsubmit: (event) => {
        event.preventDefault();
        onSubmit();
      },
    },
    children,
  );
}

const submitRow = (...buttons) => h("div", { class: "row" }, buttons);

/** Return a text area that grows with its text. */
export function textarea(attributes) {
  return h("textarea", { dir: "auto", ...attributes, class: `grows ${attributes.class ?? ""}`.trim() });
}

/** Submit a form with Ctrl+Enter, or ⌘+Enter. */
function submitOnControlEnter(input, form) {
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
