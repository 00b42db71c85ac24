// What one of several hosts says: a box with its output, as it is written, and how its command ended.

import { cancelExecution, errorText, messagesOf, startExecution } from "../app/api.js";
import { create } from "../components/element.js";
import { duration } from "../components/format.js";
import { MARKS, STATUS } from "../components/history-row.js";
import { lastSeq, plain, textOf } from "../protocol/messages.js";

const SHOWN = 64 * 1024; // characters of output; the history has all of it
const TRIES = 5; // connections that break one after another
const PAUSE = 1000; // ms between two of them
const STYLING = /\x1b\[[0-9;]*[A-Za-z]/g;

export class HostResult {
  // `onChange()` is called when its status changes
  constructor(host, onChange) {
    this.host = host;
    this.onChange = onChange;
    this.id = null;
    this.state = create("p", "", { className: "aside" });
    this.output = create("pre", "", { tabIndex: 0, ariaLabel: `Output of ${host}` });
    this.output.setAttribute("role", "region");
    this.box = create("article", "", { ariaLabel: host });
    this.box.append(create("h3", host), this.state, this.output);
    this.show("waiting", "Waiting");
  }

  // Run a line on the host. `token()` is that of the account; with `signal` it is no longer followed, but goes on.
  async run(line, token, signal) {
    try {
      this.show("running", "Running");
      const { id } = await startExecution(token(), { command: line, target: `host:${this.host}` });
      this.id = id;
      await this.follow(token, signal);
    } catch (error) {
      this.show(this.id === null ? "denied" : "lost", signal.aborted ? "" : errorText(error));
    }
  }

  async follow(token, signal) {
    let [after, tries] = [0, 0];
    while (this.status === "running") {
      try {
        for await (const message of messagesOf(token(), this.id, after, signal)) {
          [after, tries] = [message.type ? lastSeq(message) : after, 0];
          this.add(message);
        }
        tries += 1; // a stream ends when the execution has, and when it may no longer be viewed
      } catch (error) {
        if (error.status !== 0 || signal.aborted) throw error;
        tries += 1;
      }
      if (tries === TRIES) return this.show("lost", "The output is no longer received. The history says how it ended.");
      if (tries) await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  add(message) {
    const { type, lines = [], partial } = message;
    if (type === "stdout" || type === "stderr") this.write(lines.join("\n").replace(STYLING, "") + (partial ? "" : "\n"));
    else if (type === "error") this.write(`${textOf(message)}\n`);
    else if (type === "complete") this.show(message.status, endText(message));
    else if (!type) this.show("lost", plain(message.detail)); // why the stream ends before the execution does
  }

  write(text) {
    this.output.append(text);
    if (this.output.textContent.length > 2 * SHOWN) this.output.textContent = this.output.textContent.slice(-SHOWN);
    this.output.scrollTop = this.output.scrollHeight;
  }

  cancel(token) {
    if (this.status === "waiting") this.show("cancelled", "Cancelled before it was sent");
    else if (this.status === "running" && this.id) cancelExecution(token(), this.id).catch((error) => this.write(`${errorText(error)}\n`));
  }

  show(status, text) {
    this.status = status;
    this.box.dataset.status = status;
    this.state.textContent = `${MARKS[status] ?? (status === "waiting" ? "○" : "✕")} ${text}`;
    this.onChange();
  }
}

function endText({ status, exit_code: code, duration_ms: ms, truncated }) {
  const failed = status === "failed" && code !== null ? `, exit code ${code}` : "";
  return `${STATUS[status] ?? status}${failed} · ${duration(ms)}${truncated ? " · output truncated" : ""}`;
}
