// The executions of the past: a list to look through; an entry can be opened, used again, or its output saved.

import { listExecutions, readOutput } from "../app/api.js";
import { create } from "../components/element.js";
import { historyRow } from "../components/history-row.js";
import { moment } from "../components/format.js";
import { list } from "../components/row.js";
import { chooser, PanelView } from "./panel-view.js";

const PAGE = 30; // entries requested at once
const STATUSES = [
  ["", "all"],
  ["running", "running"],
  ["succeeded", "succeeded"],
  ["failed", "failed"],
  ["denied", "refused"],
  ["cancelled", "cancelled"],
  ["timed_out", "timed out"],
  ["lost", "lost"],
];

export class HistoryView extends PanelView {
  constructor(page) {
    super("history", page, [chooser({ id: "history-status", text: "Show", label: "Show", options: STATUSES })]);
    this.before = null; // the entry after which older ones are requested
    this.part("status").addEventListener("change", () => this.load());
  }

  onOpen() {
    const { project, name } = this.page.scope();
    this.part("title").textContent = project ? `History of ${name}` : "Your history";
    this.part("status").value = "";
    this.load();
  }

  load() {
    this.before = null;
    this.list = list([]);
    this.more = create("button", "Older", { type: "button", id: "history-more", hidden: true });
    this.more.addEventListener("click", () => this.loadMore());
    this.list.id = "history-list";
    this.show([this.list, this.more]);
    this.loadMore();
  }

  loadMore() {
    const { token, project } = this.page.scope();
    const query = { project_id: project, status: this.part("status").value, before: this.before, limit: PAGE };
    this.ask(() => listExecutions(token, query), (answer) => this.add(answer));
  }

  add({ executions, next_before: before }) {
    this.list.append(...executions.map((entry) => historyRow(entry, this)));
    this.before = before;
    this.more.hidden = before === null;
    this.note(this.list.childElementCount ? "" : "Nothing here yet.");
  }

  // Called by a row.

  replay({ id, status, created_at: createdAt }) {
    this.leave(this.page.replay(id, status === "running" ? "" : moment(createdAt)));
  }

  reuse({ command }) {
    this.leave(this.page.reuse(command));
  }

  // The complete output as a file, including what the terminal no longer holds.
  save({ id }) {
    this.ask(() => readOutput(this.page.scope().token, id), (pieces) => download(`${id}.txt`, pieces));
  }
}

function download(name, pieces) {
  const url = URL.createObjectURL(new Blob(pieces, { type: "text/plain" }));
  create("a", "", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
