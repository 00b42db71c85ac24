// What was run before: a list to look through, each entry to be opened again or to be used once more.

import { executions, outputOf, wordsOf } from "./api.js";
import { duration, moment } from "./words.js";

const PAGE = 30; // entries asked for at once
const WORDS = {
  running: "Runs",
  succeeded: "Succeeded",
  failed: "Failed",
  denied: "Refused",
  cancelled: "Cancelled",
  timed_out: "Timed out",
  lost: "Lost",
};
const MARKS = { running: "●", succeeded: "✓" };

const element = (id) => document.getElementById(id);

function made(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

// What is to be said of an entry, in one line.
function facts(entry) {
  const code = entry.status === "failed" ? `, exit code ${entry.exit_code}` : "";
  return [
    entry.dry_run && entry.status === "succeeded" ? "Checked, allowed" : (WORDS[entry.status] ?? entry.status) + code,
    entry.duration_ms !== null && !entry.dry_run && entry.status !== "denied" && duration(entry.duration_ms),
    entry.rule && `${entry.rule}, ${entry.risk_level}`,
    moment(entry.created_at),
  ].filter(Boolean).join(" · ");
}

export class Past {
  // `page` has: scope() -> { token, project, name }, focus(), and open(id, when) and reuse(command), which both give a
  // problem in words
  constructor(page) {
    this.page = page;
    this.before = null; // the entry after which older ones are asked for
    this.asked = 0; // questions; only the answer to the last counts
    element("past").addEventListener("click", () => this.open());
    element("past-status").addEventListener("change", () => this.begin());
    element("past-more").addEventListener("click", () => this.more());
    element("past-close").addEventListener("click", () => element("past-dialog").close());
    // Nothing of an account stays on the page, nor does an answer that comes too late.
    element("past-dialog").addEventListener("close", () => this.empty());
  }

  open() {
    const { project, name } = this.page.scope();
    element("past-title").textContent = project ? `History of ${name}` : "Your history";
    element("past-status").value = "";
    element("past-dialog").showModal();
    this.begin();
  }

  begin() {
    this.empty();
    return this.more();
  }

  empty() {
    element("past-list").replaceChildren();
    this.before = null;
    this.asked += 1;
  }

  async more() {
    const { token, project } = this.page.scope();
    const question = { project_id: project, status: element("past-status").value, before: this.before, limit: PAGE };
    this.asked += 1;
    const number = this.asked;
    this.tell("", "Reading …");
    try {
      const answer = await executions(token, question);
      if (number === this.asked) this.add(answer);
    } catch (error) {
      if (number === this.asked) this.tell(wordsOf(error), "");
    }
  }

  add({ executions: entries, next_before: before }) {
    const list = element("past-list");
    list.append(...entries.map((entry) => this.row(entry)));
    this.before = before;
    this.tell("", list.childElementCount ? "" : "Nothing here yet.");
  }

  tell(problem, note) {
    element("past-problem").textContent = problem;
    element("past-note").textContent = note;
    element("past-more").hidden = this.before === null || note !== "";
  }

  row(entry) {
    const row = made("li", "");
    row.dataset.status = entry.status;
    const words = made("div", "", { className: "words" });
    words.append(made("code", entry.command), made("p", facts(entry)));
    const mark = made("span", MARKS[entry.status] ?? "✕", { className: "mark", ariaHidden: "true" });
    row.append(mark, words, this.uses(entry));
    return row;
  }

  uses(entry) {
    const { command, status } = entry;
    const uses = made("div", "", { className: "uses" });
    const open = made("button", "Open", { type: "button", ariaLabel: `Open ${command}` });
    const when = status === "running" ? "" : moment(entry.created_at);
    open.addEventListener("click", () => this.leave(this.page.open(entry.id, when)));
    const again = made("button", "Use again", { type: "button", ariaLabel: `Use again ${command}` });
    again.addEventListener("click", () => this.leave(this.page.reuse(command)));
    const save = made("button", "Save", { type: "button", ariaLabel: `Save the output of ${command}` });
    save.addEventListener("click", () => this.save(entry));
    // What was refused has no recording, what was only checked no output.
    const recorded = status !== "denied";
    uses.append(...(recorded ? [open] : []), again, ...(recorded && !entry.dry_run ? [save] : []));
    return uses;
  }

  // The whole output as a file, also what is above the beginning of the terminal.
  async save({ id }) {
    this.tell("", "Reading …");
    try {
      const pieces = await outputOf(this.page.scope().token, id);
      const link = made("a", "", { href: URL.createObjectURL(new Blob(pieces, { type: "text/plain" })) });
      link.download = `${id}.txt`;
      link.click();
      URL.revokeObjectURL(link.href);
      this.tell("", "");
    } catch (error) {
      this.tell(wordsOf(error), "");
    }
  }

  // The dialog gives way to what was chosen, unless that cannot be.
  leave(problem) {
    if (problem) {
      this.tell(problem, "");
      return;
    }
    element("past-dialog").close();
    this.page.focus();
  }
}
