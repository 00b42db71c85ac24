// The prompt: a line that becomes a command or, while one runs, its input; and the buttons next to it.

import { anyDialogOpen, element } from "../components/element.js";

const line = element("line");

export class PromptView {
  // `page` has: session, history, project(), showNotice(text), onCommand()
  constructor(page) {
    this.page = page;
    element("prompt").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.submit(line.value)) line.value = "";
    });
    document.addEventListener("paste", (event) => this.paste(event));
    // A pointer that presses a button takes no focus from the prompt, which on a phone would close the keyboard.
    element("prompt").addEventListener("mousedown", (event) => event.target !== line && event.preventDefault());
    const buttons = {
      stop: () => page.session.cancel(),
      kill: () => page.session.kill(),
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
    const stoppable = busy && element("kill").hidden;
    const buttons = { stop: stoppable, end: busy, older: !busy, newer: !busy, check: !busy };
    for (const [id, shown] of Object.entries(buttons)) this.show(element(id), shown);
  }

  // While a command that was asked to stop goes on, it can be killed in place of being stopped.
  offerKill(offered) {
    this.show(element("kill"), offered);
    this.show(element("stop"), !offered && this.page.session.busy);
  }

  // The focus of a button that is hidden would be lost.
  show(button, shown) {
    if (!shown && button === document.activeElement) this.focus();
    button.hidden = !shown;
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
    if (event.target !== line && (anyDialogOpen() || event.target.matches("input, textarea:not(.xterm-helper-textarea)"))) return;
    const lines = event.clipboardData.getData("text/plain").replace(/[\r\n]+$/, "").split(/\r\n|\r|\n/);
    const count = lines.length;
    if (count === 1 && event.target === line) return;
    event.preventDefault();
    this.focus();
    line.setRangeText(lines.shift(), line.selectionStart, line.selectionEnd, "end");
    if (count === 1) return;
    if (this.page.session.busy) this.sendLines(lines, count);
    else this.page.showNotice(`One line runs at a time. The first of the ${count} pasted lines is in the prompt.`);
  }

  // All but the last of the pasted lines become input; that one stays in the prompt, as when it is typed.
  sendLines(lines, count) {
    while (lines.length && this.submit(line.value)) line.value = lines.shift();
    if (lines.length) this.page.showNotice(`The last ${lines.length + 1} of the ${count} pasted lines were not sent.`);
  }

  interrupt() {
    if (this.page.session.busy) this.page.session.cancel();
    else line.value = "";
  }
}
