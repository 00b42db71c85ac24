// One command on several hosts: they are chosen by label or one by one, and their results are shown side by side.

import { listHosts } from "../app/api.js";
import { create } from "../components/element.js";
import { field, form } from "../components/fields.js";
import { STATUS } from "../components/history-row.js";
import { HostResult } from "./host-result.js";
import { PanelView } from "./panel-view.js";

const AT_ONCE = 4; // hosts; a browser keeps six connections to a server
const NAMED = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`);

export class HostsView extends PanelView {
  constructor(page) {
    super("hosts", page, []);
    this.hosts = [];
    this.line = "";
    this.following = null;
    // What runs goes on, and is in the history.
    this.part("dialog").addEventListener("close", () => this.leave());
  }

  onOpen() {
    this.load();
  }

  leave() {
    this.following?.abort();
    this.following = null;
    this.line = "";
  }

  load() {
    this.ask(() => listHosts(this.page.token()), (hosts) => {
      this.hosts = hosts;
      this.showChoice();
    });
  }

  // Choice.

  showChoice() {
    if (!this.hosts.length) {
      this.show([create("p", "You may use no host. An administrator grants hosts by their labels.", { className: "aside" })]);
      return;
    }
    const line = field({ name: "line", label: "Command", value: this.line, required: true, maxLength: 4096, placeholder: "git_status /opt/app/config" });
    this.choices = field({ name: "hosts", label: "Hosts", type: "choices", options: this.hosts.map((host) => [host.id, wordsOf(host)]) });
    const made = form({ fields: [...this.labelField(), this.choices, line], send: "Run", run: (values) => this.start(values) });
    this.show([made]);
    line.querySelector("input").focus();
  }

  // Chooses the hosts that are online and have a label.
  labelField() {
    const labels = [...new Set(this.hosts.flatMap((host) => NAMED(host.labels)))].sort();
    const options = [["", "one by one"], ["online", "all that are online"], ...labels.map((label) => [`=${label}`, `online, ${label}`])];
    const made = field({ name: "label", label: "Choose", type: "select", options });
    made.querySelector("select").addEventListener("change", ({ target }) => this.choose(target.value));
    return [made];
  }

  choose(label) {
    const chosen = this.hosts.filter((host) => label && host.status === "online" && (label === "online" || NAMED(host.labels).includes(label.slice(1))));
    for (const box of this.choices.querySelectorAll("input")) box.checked = chosen.some(({ id }) => id === box.value);
  }

  // Results.

  start({ line, hosts = [] }) {
    if (hosts.length === 0) {
      this.problem("Choose at least one host.");
      return;
    }
    this.line = line;
    const following = (this.following = new AbortController());
    const results = [];
    const count = () => following.signal.aborted || this.note(summary(results));
    results.push(...hosts.map((host) => new HostResult(host, count)));
    const [grid, stop] = [create("div", "", { className: "results" }), create("button", "Stop all", { type: "button" })];
    stop.addEventListener("click", () => results.forEach((each) => each.cancel(this.page.token)));
    const head = create("div", "", { className: "head" });
    head.append(create("code", line), stop);
    grid.append(...results.map((each) => each.box));
    this.show([head, grid], () => this.again());
    count();
    this.run(results, following.signal).then(() => stop.remove());
  }

  again() {
    const { line } = this;
    this.leave();
    this.line = line;
    this.show();
    this.load();
  }

  // A few at a time.
  run(results, signal) {
    const waiting = [...results];
    const next = async () => {
      for (let each = waiting.shift(); each && !signal.aborted; each = waiting.shift()) {
        if (each.status === "waiting") await each.run(this.line, this.page.token, signal);
      }
    };
    return Promise.all(Array.from({ length: AT_ONCE }, next));
  }
}

function wordsOf({ id, status, labels }) {
  return [id, status, ...NAMED(labels)].join(" · ");
}

// How many hosts there are in which state: 2 succeeded, 1 failed.
function summary(results) {
  const counts = new Map();
  for (const { status } of results) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].map(([status, count]) => `${count} ${(STATUS[status] ?? status).toLowerCase()}`).join(", ");
}
