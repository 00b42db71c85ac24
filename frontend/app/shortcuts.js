// The keys of the page (docs/http.md lists them).

import { anyDialogOpen, element } from "../components/element.js";

const line = element("line");
const terminalElement = element("screen");

export function bindShortcuts({ prompt, session, terminal }) {
  const lineKeys = { ArrowUp: () => prompt.walk(-1), ArrowDown: () => prompt.walk(1) };
  const shiftKeys = { Enter: () => prompt.check() };
  const scrollKeys = { PageUp: () => terminal.scroll(-1), PageDown: () => terminal.scroll(1) };
  const controlKeys = { c: () => prompt.interrupt(), d: () => session.endInput(), l: () => terminal.clear() };

  const selected = () => terminal.selection || line.selectionStart !== line.selectionEnd || String(window.getSelection());

  function actionFor({ key, target, ctrlKey, altKey, metaKey, shiftKey }) {
    if (altKey || metaKey) return undefined;
    if (!ctrlKey && shiftKey && target === line) return shiftKeys[key];
    if (!ctrlKey) return scrollKeys[key] ?? (target === line ? lineKeys[key] : undefined);
    // With something selected, Ctrl-C copies as everywhere.
    if (shiftKey || (key.toLowerCase() === "c" && selected())) return undefined;
    return controlKeys[key.toLowerCase()];
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || anyDialogOpen()) return;
    if (isTyping(event) && !takesText(event)) line.focus();
    if (isControl(event.target) && event.target !== line) return;
    const action = actionFor(event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

const isControl = (target) => /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(target.tagName) && !terminalElement.contains(target);

const isTyping = ({ key, ctrlKey, altKey, metaKey }) =>
  (key.length === 1 || key === "Backspace") && !ctrlKey && !altKey && !metaKey;

// A list, another field, and a button that the space bar presses: whatever else has the focus does nothing with text.
function takesText({ target, key }) {
  if (!isControl(target)) return false;
  return !/^(button|checkbox)$/.test(target.type === "submit" ? "button" : target.type) || key === " ";
}
