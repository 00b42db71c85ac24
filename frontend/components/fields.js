// Forms from descriptions of their fields.

import { create } from "./element.js";

let count = 0; // of fields; the number of each is part of its id

// A field is { name, label, type?, hint?, value?, options?, ...properties of its element }. `type` is text (default), number,
// url, email, select, checkbox or choices (several checkboxes); `options` are [value, text], or groups [text, options].
export function field({ name, label, type = "text", hint = "", ...rest }) {
  const id = `field-${(count += 1)}`;
  if (type === "choices") return choices({ name, label, hint, ...rest });
  const control = MAKE[type]?.(rest) ?? create("input", "", { type, autocomplete: "off", spellcheck: false });
  const { options: _, value, ...properties } = rest;
  Object.assign(control, { id, name, ...properties });
  if (value !== undefined) control[type === "checkbox" ? "checked" : "value"] = value;
  const place = create("div", "", { className: type === "checkbox" ? "field check" : "field" });
  place.append(...inOrder(type, create("label", label, { htmlFor: id }), control), ...hintOf(hint, control));
  return place;
}

const MAKE = {
  select: ({ options }) => {
    const select = create("select", "");
    select.append(...options.map(([value, text]) => (Array.isArray(text) ? group(value, text) : new Option(text, value))));
    return select;
  },
};

function group(label, options) {
  const made = create("optgroup", "", { label });
  made.append(...options.map(([value, text]) => new Option(text, value)));
  return made;
}

const inOrder = (type, label, control) => (type === "checkbox" ? [control, label] : [label, control]);

function hintOf(hint, control) {
  if (!hint) return [];
  const text = create("p", hint, { className: "aside", id: `${control.id}-hint` });
  control.setAttribute("aria-describedby", text.id);
  return [text];
}

function choices({ name, label, hint, options, value = [] }) {
  const place = create("fieldset", "", { className: "field choices" });
  place.append(create("legend", label));
  for (const [one, text] of options) {
    place.append(field({ name, label: text, type: "checkbox", value: value.includes(one) }));
    Object.assign(place.lastChild.firstChild, { value: one });
    place.lastChild.firstChild.dataset.several = "yes";
  }
  if (hint) place.append(create("p", hint, { className: "aside" }));
  return place;
}

// What is entered, by the names of the fields: texts without blanks around them, booleans, lists of what is chosen.
export function valuesOf(form) {
  const values = {};
  for (const control of form.elements) {
    if (!control.name || control.closest("[hidden]")) continue;
    if (control.dataset.several) (values[control.name] ??= []).push(...(control.checked ? [control.value] : []));
    else values[control.name] = control.type === "checkbox" ? control.checked : control.value.trim();
  }
  return values;
}

// A form: `send` is the text of its button, `run(values)` is called when it is submitted, `more` are other buttons.
export function form({ fields, send, run, more = [] }) {
  const made = create("form", "", { className: "described" });
  const buttons = create("div", "", { className: "buttons" });
  buttons.append(create("button", send, { type: "submit" }), ...more);
  made.append(...fields, buttons);
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    run(valuesOf(made));
  });
  return made;
}
