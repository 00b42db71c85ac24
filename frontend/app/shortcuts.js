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
    if (belongsElsewhere(event)) return;
    if (isTyping(event) && terminalElement.contains(event.target)) line.focus(); // the terminal takes no text
    const action = actionFor(event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// A key for another field or button, for an input method or for a dialog.
function belongsElsewhere({ target, isComposing }) {
  const control = /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(target.tagName) && !terminalElement.contains(target);
  return (target !== line && control) || isComposing || anyDialogOpen();
}

const isTyping = ({ key, ctrlKey, altKey, metaKey }) => key.length === 1 && !ctrlKey && !altKey && !metaKey;
