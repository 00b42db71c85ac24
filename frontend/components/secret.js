// A secret that is shown once, with a button that copies it.

import { copyText } from "./clipboard.js";
import { create } from "./element.js";

// `text` says what it is for; `onDone` is called when it was stored elsewhere.
export function secretBox({ text, secret, onDone }) {
  const box = create("div", "", { className: "secret" });
  const value = create("input", "", { value: secret, readOnly: true, ariaLabel: "Secret" });
  value.addEventListener("focus", () => value.select());
  const copy = create("button", "Copy", { type: "button", ariaLabel: "Copy the secret" });
  copy.addEventListener("click", async () => {
    copy.textContent = (await copyText(secret)) ? "Copied" : "Failed";
  });
  const done = create("button", "Done", { type: "button" });
  done.addEventListener("click", onDone);
  const line = create("div", "", { className: "line" });
  line.append(value, copy);
  const buttons = create("div", "", { className: "buttons" });
  buttons.append(done);
  box.append(create("h3", "Copy this now"), create("p", text), line, buttons);
  return box;
}
