// What can be copied, in every browser.

import { create } from "./element.js";

// False when it is not possible. Pages without TLS, except those of this computer, have no clipboard of their own.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const field = create("textarea", "", { value: text, readOnly: true, className: "visually-hidden" });
  (focused?.closest("dialog") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  return done;
}
