// What the terminal shows of a command: its line, its plan, its output, how it ended or why it was refused.

import { duration, quoted, size } from "../components/format.js";
import { plain, textOf } from "../protocol/messages.js";
import { style } from "./terminal-view.js";

const CLEAR_SCREEN = "CLEAR_SCREEN"; // what `clear` prints
const CHECKED = "checked, not run";

export class ExecutionView {
  // `announce(text)` reaches screen readers
  constructor(terminal, announce) {
    this.terminal = terminal;
    this.announce = announce;
  }

  clear() {
    this.terminal.clear();
  }

  // Whether a part of it is not on the screen yet; `run` is called each time when all of it is.
  get drawing() {
    return this.terminal.drawing;
  }

  whenDrawn(run) {
    this.terminal.onDrawn = run;
  }

  showCommand(command, { dryRun = false, when = "" } = {}) {
    this.terminal.writeCommand(plain(command), dryRun ? CHECKED : when);
  }

  showQueued(message) {
    this.terminal.writeWrapped(textOf(message), style.faint);
    this.announce(textOf(message));
  }

  // What is known before any output arrives.
  showPlan({ dry_run, metadata_only, commands, argv }) {
    if (metadata_only) this.terminal.writeWrapped("The output of this command is neither stored nor shown.", style.faint);
    if (!dry_run) return;
    for (const words of commands ?? [argv]) this.terminal.writeWrapped(`  ${words.map(plain).map(quoted).join(" ")}`);
  }

  showInput(line) {
    this.terminal.writeMessage(style.faint(plain(line)));
  }

  showInterrupt() {
    this.terminal.writeMessage(style.faint("^C"));
  }

  showOutput({ lines, partial }, command) {
    if (command === "clear" && lines.length === 1 && lines[0] === CLEAR_SCREEN) this.clear();
    else this.terminal.writeLines(lines, partial);
  }

  showErrors({ lines, partial }) {
    this.terminal.writeLines(lines, partial, style.problem);
  }

  // Something the page or the server wants the user to know.
  showWarning(text) {
    this.report(style.refused, text);
  }

  showProblem(message) {
    this.report(style.problem, textOf(message));
  }

  report(paint, text) {
    this.terminal.writeMessage(paint(text));
    this.announce(text);
  }

  showRefusal(message) {
    const [rule, hint] = [plain(message.rule), plain(message.hint)];
    this.terminal.writeMessage(style.refused(`✕ Refused by ${rule}`));
    this.terminal.writeWrapped(`  ${textOf(message)}`);
    if (hint) this.terminal.writeWrapped(`  ${hint}`, style.faint);
    this.announce(`Refused by ${rule}. ${textOf(message)} ${hint}`);
  }

  // `started` holds the rule and the risk of the execution, and whether its problem was shown before.
  showEnd(message, started) {
    const end = endText(message, started.explained);
    const [mark, paint] = message.status === "succeeded" ? ["✓", style.accent] : ["✕", style.refused];
    this.terminal.writeWrapped(factsText(message, started), style.faint, `${mark} ${end}`, paint);
    this.announce(end);
  }
}

function endText({ status, dry_run, duration_ms, truncated, exit_code, signal }, explained) {
  const time = duration(duration_ms);
  const cut = truncated ? ", output truncated" : "";
  switch (status) {
    case "succeeded":
      return dry_run ? "Allowed; nothing ran" : `Done in ${time}${cut}`;
    case "timed_out":
      return `${explained ? "Stopped" : "Timed out"} after ${time}`;
    case "cancelled":
      return `Cancelled after ${time}`;
    case "lost":
      return explained ? "Lost" : "Lost: the server stopped while it ran";
    default:
      return `Failed: exit code ${exit_code}${signal ? `, ${plain(signal)}` : ""}${cut}`;
  }
}

// The resources it used, its protection, and the rule that allowed it.
function factsText({ cpu_ms, peak_memory_bytes, protection }, { rule, risk }) {
  return [
    protection && `CPU ${duration(cpu_ms)}`,
    protection && peak_memory_bytes && size(peak_memory_bytes),
    protection && `protection ${plain(protection)}`,
    rule && `${plain(rule)}, ${plain(risk)}`,
  ].filter(Boolean).map((fact) => ` · ${fact}`).join("");
}
