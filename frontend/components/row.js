// An entry of a list: what it is, what is known of it, and what can be done with it.

import { plain } from "../protocol/messages.js";
import { create } from "./element.js";

const CONFIRM_TIME = 4000; // ms in which an action that cannot be undone is pressed again

// `status` chooses the colour of the mark. An action is { text, label, run, confirm? }: with `confirm`, the text of the
// button once it was pressed, it is done when it is pressed again.
export function row({ status, mark, title, facts, actions }) {
  const entry = create("li", "");
  entry.dataset.status = status;
  const words = create("div", "", { className: "words" });
  words.append(create("code", plain(title)), ...[facts].flat().filter(Boolean).map((text) => create("p", text)));
  const group = create("div", "", { className: "actions" });
  group.append(...actions.filter(Boolean).map(action));
  entry.append(create("span", mark, { className: "mark", ariaHidden: "true" }), words, group);
  return entry;
}

export function list(rows) {
  const entries = create("ol", "");
  entries.setAttribute("role", "list");
  entries.append(...rows);
  return entries;
}

export function action({ text, label, run, confirm }) {
  const button = create("button", text, { type: "button", ariaLabel: label });
  if (!confirm) button.addEventListener("click", run);
  else button.addEventListener("click", () => confirmed(button, { text, label, confirm }) && run());
  return button;
}

// Whether the button was pressed before, and asks for this.
function confirmed(button, { text, label, confirm }) {
  if (button.dataset.asks) return true;
  const ask = (asks) => {
    button.toggleAttribute("data-asks", asks);
    if (asks) button.dataset.asks = "yes";
    button.textContent = asks ? confirm : text;
    button.ariaLabel = asks ? `${confirm} ${label}: press again` : label;
  };
  ask(true);
  setTimeout(ask, CONFIRM_TIME, false);
  return false;
}
