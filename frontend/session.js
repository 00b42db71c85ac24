// What runs and how far it has been seen. The server keeps every message; this side only remembers the last number.

import { isUnauthorised } from "./connection.js";
import { style } from "./screen.js";

const CLEAR_SCREEN = "CLEAR_SCREEN";
const FRAME_LIMIT = 60_000; // characters of input sent at once; a frame holds 64 KiB

// Control characters in words of the server could drive the emulator; they are shown as spaces.
const plain = (text) => String(text ?? "").replace(/[\x00-\x1f\x7f-\x9f]/g, " ");

export class Session {
  // `view` has: screen, state(name, text), announce(text), running(boolean), askToken(problem)
  constructor(view, store) {
    this.view = view;
    this.store = store;
    this.asked = null; // a command that was sent and not yet answered
    this.current = null; // { id, seq, command, since }
    this.ready = false;
    this.token = store.get("token", null);
    const kept = store.get("execution", null);
    // After a reload the screen is empty, so everything is asked for again.
    if (kept) this.current = { id: kept, seq: 0, command: null, since: Date.now() };
  }

  use(connection) {
    this.connection = connection;
  }

  get busy() {
    return this.asked !== null || this.current !== null;
  }

  // From the page.

  run(command) {
    const { screen } = this.view;
    if (!this.ready) {
      screen.say(style.refused("Not connected yet; nothing was sent."));
      return false;
    }
    screen.command(plain(command));
    if (command === "clear") {
      screen.clear();
      return true;
    }
    this.asked = command;
    this.connection.send({ type: "run", command });
    this.show();
    return true;
  }

  input(line) {
    this.view.screen.say(style.faint(plain(line)));
    const text = `${line}\n`;
    for (let at = 0; at < text.length; at += FRAME_LIMIT / 4) {
      this.connection.send({ type: "stdin", data: text.slice(at, at + FRAME_LIMIT / 4) });
    }
  }

  endInput() {
    if (this.current) this.connection.send({ type: "stdin_close" });
  }

  cancel() {
    if (!this.current) return;
    this.view.screen.say(style.faint("^C"));
    this.connection.send({ type: "cancel", execution: this.current.id });
  }

  prove(token) {
    this.token = token;
    this.store.set("token", token);
    this.connection.open();
  }

  // From the connection.

  opened() {
    if (this.token !== null) this.connection.send({ type: "auth", token: this.token });
  }

  closed(code) {
    this.ready = false;
    if (this.asked !== null) {
      this.asked = null;
      this.view.screen.say(style.refused("The connection was lost before the command was answered; it may have run."));
    }
    if (isUnauthorised(code)) {
      const problem = this.token === null ? "" : "That token was not accepted.";
      this.token = null;
      this.store.remove("token");
      this.view.askToken(problem);
    }
    this.show();
  }

  message(message) {
    const handle = this[`on_${message.type}`];
    if (!handle) return;
    if (message.execution && message.type !== "started" && !this.isNew(message)) return;
    handle.call(this, message);
  }

  isNew(message) {
    if (!this.current || message.execution !== this.current.id || message.seq <= this.current.seq) return false;
    this.current.seq = message.seq + (message.lines ? message.lines.length - 1 : 0);
    return true;
  }

  on_waking(message) {
    this.view.state("connecting", plain(message.message));
  }

  on_ready() {
    this.ready = true;
    this.connection.settled();
    if (this.current) {
      this.connection.send({ type: "attach", execution: this.current.id, after_seq: this.current.seq });
    }
    this.show();
  }

  on_started(message) {
    const again = this.current !== null;
    if (again && (message.execution !== this.current.id || this.current.seq > 0)) return;
    if (again) this.view.screen.command(plain(message.command));
    this.asked = null;
    const since = again ? Date.parse(message.time) : Date.now();
    this.current = { id: message.execution, seq: message.seq, command: message.command, since };
    this.store.set("execution", message.execution);
    this.show();
  }

  on_stdout(message) {
    if (message.lines.length === 1 && message.lines[0] === CLEAR_SCREEN && this.current.command === "clear") {
      this.view.screen.clear();
      return;
    }
    this.view.screen.lines(message.lines, message.partial);
  }

  on_stderr(message) {
    this.view.screen.lines(message.lines, message.partial, style.problem);
  }

  on_truncated(message) {
    this.tell(style.refused, plain(message.message));
  }

  on_error(message) {
    if (message.execution) {
      this.tell(style.problem, plain(message.message).replace(/^❌ /, ""));
      return;
    }
    if (message.rule === "auth.required") return;
    if (message.rule === "execution.unknown") this.forget();
    this.refuse(message);
  }

  refuse(message) {
    const { screen } = this.view;
    if (message.command !== undefined && message.command === this.asked) this.asked = null;
    screen.say(style.refused(`✕ Refused by ${plain(message.rule)}`));
    screen.say(`  ${plain(message.reason ?? message.message)}`);
    if (message.hint) screen.say(style.faint(`  ${plain(message.hint)}`));
    this.view.announce(`Refused by ${message.rule}. ${message.reason ?? ""} ${message.hint ?? ""}`);
    this.show();
  }

  on_complete(message) {
    const end = describeEnd(message);
    if (end) this.tell(message.status === "succeeded" ? style.faint : style.refused, end);
    this.view.announce(end || "Done.");
    this.forget();
  }

  tell(paint, text) {
    this.view.screen.say(paint(text));
    this.view.announce(text);
  }

  forget() {
    this.current = null;
    this.store.remove("execution");
    this.show();
  }

  show() {
    this.view.running(this.busy);
    if (!this.ready) return;
    if (this.current) this.view.state("running", "");
    else this.view.state("ready", "Ready");
  }
}

function describeEnd(message) {
  const seconds = (message.duration_ms / 1000).toFixed(1);
  const cut = message.truncated ? ", output cut" : "";
  switch (message.status) {
    case "succeeded":
      return message.dry_run ? "Allowed; nothing ran." : "";
    case "timed_out":
      return `Timed out after ${seconds} s`;
    case "cancelled":
      return `Cancelled after ${seconds} s`;
    case "lost":
      return "Lost: the server stopped while it ran";
    default:
      return `Failed: exit code ${message.exit_code}${message.signal ? `, ${plain(message.signal)}` : ""}${cut}`;
  }
}
