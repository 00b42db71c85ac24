// The prompt: a line that becomes a command or, while one runs, its input; and the buttons next to it.

import { element } from "../components/element.js";

const line = element("line");

export class PromptView {
  // `page` has: session, history, project(), showNotice(text), onCommand()
  constructor(page) {
    this.page = page;
    element("prompt").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.submit(line.value)) line.value = "";
    });
    line.addEventListener("paste", (event) => this.paste(event));
    const buttons = {
      stop: () => page.session.cancel(),
      end: () => page.session.endInput(),
      check: () => this.check(),
      older: () => this.walk(-1),
      newer: () => this.walk(1),
    };
    for (const [id, run] of Object.entries(buttons)) element(id).addEventListener("click", run);
  }

  focus() {
    line.focus({ preventScroll: true });
  }

  fill(text) {
    line.value = text;
  }

  setBusy(busy) {
    element("prompt-label").textContent = busy ? "›" : "$";
    line.placeholder = busy ? "Input for the command" : "Type a command";
    line.setAttribute("aria-label", busy ? "Input for the running command" : "Command");
    element("send").textContent = busy ? "Send" : "Run";
    for (const id of ["stop", "end"]) element(id).hidden = !busy;
    for (const id of ["older", "newer", "check"]) element(id).hidden = busy;
  }

  // False when the text was not accepted. With `dryRun` a command is only checked.
  submit(text, dryRun = false) {
    const { session } = this.page;
    return session.busy ? !dryRun && session.sendInput(text) : this.run(text.trim(), dryRun);
  }

  run(command, dryRun) {
    if (!command) return true;
    const sent = this.page.session.run(command, this.page.project(), dryRun);
    if (sent) this.page.history.add(command);
    this.page.onCommand();
    return sent;
  }

  // The line stays, to be changed or run.
  check() {
    this.submit(line.value, true);
    line.focus();
  }

  walk(step) {
    if (this.page.session.busy) return;
    line.value = this.page.history.walk(step, line.value);
    line.setSelectionRange(line.value.length, line.value.length);
  }

  // A text field cannot hold the line breaks of pasted text; it would join the lines to a different command.
  paste(event) {
    const lines = event.clipboardData.getData("text/plain").replace(/[\r\n]+$/, "").split(/\r\n|\r|\n/);
    const count = lines.length;
    if (count === 1) return;
    event.preventDefault();
    line.setRangeText(lines.shift(), line.selectionStart, line.selectionEnd, "end");
    if (this.page.session.busy) while (lines.length && this.submit(line.value)) line.value = lines.shift();
    else this.page.showNotice(`One line runs at a time. The first of the ${count} pasted lines is in the prompt.`);
  }

  interrupt() {
    if (this.page.session.busy) this.page.session.cancel();
    else line.value = "";
  }
}
