// Hooks, as the view of what runs by itself shows them.

import { callHook, deleteThing, rotateHook } from "../app/api.js";
import { canSign, signedHeaders } from "../app/hook-call.js";
import { create } from "../components/element.js";
import { field, form } from "../components/fields.js";
import { row } from "../components/row.js";
import { bodyOfPlace, placeField } from "./places.js";

const PARAMETER = /(?:^|[ \t])\{([a-z][a-z0-9_]{0,31})\}(?=[ \t]|$)/g;
const TYPES = [["choice", "one of some values"], ["text", "a text that matches a pattern"], ["integer", "a whole number"]];

export const hooks = {
  title: "Hooks",
  one: "hook",
  about: "A hook is a fixed line that a signed request from elsewhere starts, with values for its parameters.",

  rowOf(hook, view) {
    const { id, name, command, url } = hook;
    return row({
      status: "running",
      mark: "●",
      title: `${name}: ${command}`,
      facts: [[addressOf(url), ...view.placeAndOwner(hook)].filter(Boolean).join(" · ")],
      actions: [
        { text: "New secret", label: `New secret for ${name}`, confirm: "Replace it?", run: () => view.ask(() => rotateHook(view.token, id), (rotated) => view.showSecret(hooks, { ...rotated, rotated: true })) },
        { text: "Delete", label: `Delete ${name}`, confirm: "Delete?", run: () => view.change(() => deleteThing(view.token, "hooks", id)) },
      ],
    });
  },

  fields: (places) => [
    field({ name: "name", label: "Name", required: true, maxLength: 100 }),
    field({ name: "command", label: "Command", required: true, placeholder: "migrate {app}", hint: "{name} stands for the value of a parameter, a word of its own without quotes." }),
    field({ ...placeField(places) }),
  ],

  // The parameters are those of the line.
  setUp(form) {
    const place = create("div", "", { className: "parameters" });
    form.lastChild.before(place);
    form.elements.command.addEventListener("input", () => {
      const names = [...new Set([...form.elements.command.value.matchAll(PARAMETER)].map(([, name]) => name))];
      const there = new Map([...place.children].map((each) => [each.dataset.name, each]));
      place.replaceChildren(...names.map((name) => there.get(name) ?? parameter(name)));
    });
  },

  bodyOf: ({ name, command, place }, form) => ({
    name,
    command,
    ...bodyOfPlace(place),
    parameters: Object.fromEntries([...form.querySelectorAll("[data-name]")].map((each) => [each.dataset.name, described(each)])),
  }),

  secretText: ({ name, url, rotated }) =>
    `${rotated ? "The old secret is valid for another day. " : ""}Calls of ${name} go to ${addressOf(url)} and are signed with this secret, as Standard Webhooks describe it. It cannot be shown again.`,

  // A call, signed here while the secret is known.
  tryOut(hook, view) {
    if (!canSign()) return [];
    const typed = (values) => Object.fromEntries(Object.entries(values).map(([name, text]) => [name, hook.parameters[name].type === "integer" ? Number(text) : text]));
    const call = async (values) => {
      const body = JSON.stringify(typed(values));
      return callHook(hook.url, body, await signedHeaders(hook.secret, body));
    };
    const run = (values) => view.ask(() => call(values), ({ id }) => view.note(`The call was accepted. It is in your history as ${id}.`));
    const fields = Object.entries(hook.parameters).map(([name, parameter]) => valueField(name, parameter));
    return [create("h3", "Try it out"), form({ fields, send: "Send a test call", run })];
  },
};

function valueField(name, { type, values, minimum, maximum, max_length: maxLength, example }) {
  const shared = { name, label: name, required: true };
  if (type === "choice") return field({ ...shared, type: "select", options: values.map((each) => [each, each]) });
  if (type === "integer") return field({ ...shared, type: "number", value: minimum, min: minimum, max: maximum });
  return field({ ...shared, value: example, maxLength });
}

const addressOf = (url) => new URL(url.slice(1), document.baseURI).href;

// The fields of each type of parameter, by the names of the API.
const FIELDS = {
  choice: [{ name: "values", label: "Values, with commas between", required: true }],
  text: [
    { name: "pattern", label: "Pattern", value: "[a-z0-9._-]+", required: true, maxLength: 100 },
    { name: "max_length", label: "Longest, in characters", type: "number", value: 60, min: 1, max: 256, required: true },
    { name: "example", label: "Example", required: true, maxLength: 256 },
  ],
  integer: [
    { name: "minimum", label: "From", type: "number", value: 1, required: true },
    { name: "maximum", label: "To", type: "number", value: 100, required: true },
  ],
};

function parameter(name) {
  const place = create("fieldset", "", { className: "parameter" });
  place.dataset.name = name;
  const type = field({ name: "", label: "It is", type: "select", options: TYPES });
  const details = create("div", "", { className: "details" });
  const show = () => details.replaceChildren(...FIELDS[type.lastChild.value].map((each) => field(each)));
  type.lastChild.addEventListener("change", show);
  place.append(create("legend", `{${name}}`), type, details);
  show();
  return place;
}

function described(place) {
  const type = place.querySelector("select").value;
  const entered = Object.fromEntries([...place.querySelectorAll(".details input")].map((each) => [each.name, each.type === "number" ? Number(each.value) : each.value]));
  if (type === "choice") entered.values = entered.values.split(",").map((each) => each.trim()).filter(Boolean);
  return { type, ...entered };
}
