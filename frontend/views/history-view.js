// The executions of the past: a list to look through; an entry can be opened, used again, or its output saved.

import { errorText, listExecutions, readOutput } from "../app/api.js";
import { element } from "../components/element.js";
import { historyRow } from "../components/history-row.js";
import { moment } from "../components/format.js";

const PAGE = 30; // entries requested at once

export class HistoryView {
  // `page` has: scope() -> { token, project, name }, focusPrompt(), and replay(id, when) and reuse(command), which both
  // return a problem as text
  constructor(page) {
    this.page = page;
    this.before = null; // the entry after which older ones are requested
    this.requests = 0; // only the answer to the last one is shown
    element("history").addEventListener("click", () => this.open());
    element("history-status").addEventListener("change", () => this.reload());
    element("history-more").addEventListener("click", () => this.loadMore());
    element("history-close").addEventListener("click", () => this.close());
    // Nothing of an account stays on the page, nor does an answer that arrives too late.
    element("history-dialog").addEventListener("close", () => this.empty());
  }

  open() {
    const { project, name } = this.page.scope();
    element("history-title").textContent = project ? `History of ${name}` : "Your history";
    element("history-status").value = "";
    element("history-dialog").showModal();
    this.reload();
  }

  close() {
    element("history-dialog").close();
  }

  reload() {
    this.empty();
    return this.loadMore();
  }

  empty() {
    element("history-list").replaceChildren();
    this.before = null;
    this.requests += 1;
  }

  async loadMore() {
    const { token, project } = this.page.scope();
    const query = { project_id: project, status: element("history-status").value, before: this.before, limit: PAGE };
    this.requests += 1;
    const number = this.requests;
    this.showNote("Loading …");
    try {
      const answer = await listExecutions(token, query);
      if (number === this.requests) this.add(answer);
    } catch (error) {
      if (number === this.requests) this.showProblem(errorText(error));
    }
  }

  add({ executions, next_before: before }) {
    const list = element("history-list");
    list.append(...executions.map((entry) => historyRow(entry, this)));
    this.before = before;
    this.showNote(list.childElementCount ? "" : "Nothing here yet.");
  }

  showNote(note) {
    element("history-problem").textContent = "";
    element("history-note").textContent = note;
    element("history-more").hidden = this.before === null || note !== "";
  }

  showProblem(problem) {
    this.showNote("");
    element("history-problem").textContent = problem;
  }

  // Called by a row.

  replay({ id, status, created_at: createdAt }) {
    this.leave(this.page.replay(id, status === "running" ? "" : moment(createdAt)));
  }

  reuse({ command }) {
    this.leave(this.page.reuse(command));
  }

  // The complete output as a file, including what the terminal no longer holds.
  async save({ id }) {
    this.showNote("Loading …");
    try {
      download(`${id}.txt`, await readOutput(this.page.scope().token, id));
      this.showNote("");
    } catch (error) {
      this.showProblem(errorText(error));
    }
  }

  // The dialog closes, unless the choice is not possible now.
  leave(problem) {
    if (problem) {
      this.showProblem(problem);
      return;
    }
    this.close();
    this.page.focusPrompt();
  }
}

function download(name, pieces) {
  const url = URL.createObjectURL(new Blob(pieces, { type: "text/plain" }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
