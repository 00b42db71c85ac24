// What runs and how far it has been seen. The server keeps every message; this side only remembers the last number.

import { isUnauthorised } from "./connection.js";
import { style } from "./screen.js";
import { duration, size } from "./words.js";

const CLEAR_SCREEN = "CLEAR_SCREEN";
const FRAME_LIMIT = 60_000; // characters of input sent at once; a frame holds 64 KiB

// Control characters in words of the server could drive the emulator; they are shown as spaces.
const plain = (text) => String(text ?? "").replace(/[\x00-\x1f\x7f-\x9f]/g, " ");

export class Session {
  // `view` has: screen, state(name, text), announce(text), running(boolean), ready(message), askToken(problem),
  // loggedOut(reason), unprotected(reason), projectGone()
  constructor(view, store) {
    this.view = view;
    this.store = store;
    this.asked = null; // { id, command }: sent and not yet answered
    this.stopping = false; // what was asked is to be cancelled as soon as it starts
    this.current = null; // { id, seq, command, rule, risk, since, when }; `when` only where it ran before
    this.ready = false;
    this.sent = 0; // commands; the number of each is its id
    this.login = store.get("login", null); // the access token of an account
    this.token = store.get("token", null); // what visitors prove
    this.problem = ""; // with that token
    this.refusal = null; // why the server will not have us: { rule, text }
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

  // With `dryRun` it is judged only.
  run(command, project, dryRun = false) {
    const { screen } = this.view;
    if (!this.ready) {
      screen.say(style.refused("Not connected yet; nothing was sent."));
      return false;
    }
    screen.command(plain(command), dryRun ? "checked, not run" : "");
    if (command === "clear" && !dryRun) {
      screen.clear();
      return true;
    }
    this.sent += 1;
    this.asked = { id: String(this.sent), command };
    const options = { ...(project && { project }), ...(dryRun && { dry_run: true }) };
    this.connection.send({ type: "run", command, id: this.asked.id, ...options });
    this.show();
    return true;
  }

  // Show what was recorded of a command; one that runs yet is followed. `when` is in words.
  replay(id, when) {
    if (!this.ready || this.busy) return false;
    this.current = { id, seq: 0, command: null, since: Date.now(), when };
    this.store.set("execution", id);
    this.connection.send({ type: "attach", execution: id, after_seq: 0 });
    this.show();
    return true;
  }

  // False when there is nothing yet that could read it.
  input(line) {
    if (!this.current) return false;
    this.view.screen.say(style.faint(plain(line)));
    const text = `${line}\n`;
    for (let at = 0; at < text.length; at += FRAME_LIMIT / 4) {
      this.connection.send({ type: "stdin", data: text.slice(at, at + FRAME_LIMIT / 4) });
    }
    return true;
  }

  endInput() {
    if (this.current) this.connection.send({ type: "stdin_close" });
  }

  cancel() {
    if (!this.busy || this.stopping) return;
    this.view.screen.say(style.faint("^C"));
    if (this.current) this.connection.send({ type: "cancel", execution: this.current.id });
    else this.stopping = true;
    this.show();
  }

  prove(token) {
    this.token = token;
    this.store.set("token", token);
    this.connection.open();
  }

  // The token that was entered is that of an account.
  keep(token) {
    this.login = token;
    this.token = null;
    this.store.set("login", token);
    this.store.remove("token");
  }

  // Go on as the account of `login`, or as a visitor where it is null.
  become(login) {
    this.login = login;
    if (login === null) {
      this.store.remove("login");
      this.drop();
      this.forget();
    } else {
      this.store.set("login", login);
    }
    this.ready = false;
    this.abandon();
    this.view.state("connecting", "Connecting");
    this.connection.open();
  }

  // From the connection.

  opened() {
    this.refusal = null;
    const token = this.login ?? this.token;
    if (token !== null) this.connection.send({ type: "auth", token });
  }

  closed(code) {
    this.ready = false;
    this.abandon();
    if (isUnauthorised(code)) this.turnedAway();
    this.show();
  }

  abandon() {
    if (this.asked !== null) {
      this.view.screen.say(style.refused("The connection was lost before the command was answered; it may have run."));
    }
    this.drop();
  }

  turnedAway() {
    if (this.refusal?.rule === "auth.limited") {
      this.view.announce(this.refusal.text);
      this.connection.retry();
    } else if (this.login !== null) {
      this.view.loggedOut(this.refusal?.text ?? "");
      this.become(null);
    } else if (this.token !== null) {
      this.problem = "That token was not accepted.";
      this.token = null;
      this.store.remove("token");
      this.connection.open();
    }
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

  on_ready(message) {
    // Where visitors are let in they are welcomed first; the welcome of the account follows.
    if (this.login !== null && !message.user) return;
    if (this.login === null && message.user) this.keep(this.token);
    this.ready = true;
    this.problem = "";
    this.connection.settled();
    this.view.ready(message);
    if (this.current) {
      this.connection.send({ type: "attach", execution: this.current.id, after_seq: this.current.seq });
    }
    this.show();
  }

  on_started(message) {
    const again = this.current !== null;
    if (again && (message.execution !== this.current.id || this.current.seq > 0)) return;
    const note = message.dry_run ? "checked, not run" : this.current?.when;
    if (again) this.view.screen.command(plain(message.command), note);
    const { execution: id, seq, command, rule, risk } = message;
    const since = again ? Date.parse(message.time) : Date.now();
    this.current = { id, seq, command, rule, risk, since, when: this.current?.when };
    this.foretell(message);
    this.store.set("execution", message.execution);
    if (this.stopping) this.connection.send({ type: "cancel", execution: this.current.id });
    this.drop();
    this.show();
  }

  // What is known before any output comes.
  foretell({ dry_run, metadata_only, commands, argv }) {
    const { screen } = this.view;
    if (metadata_only) screen.words("The output of this command is neither kept nor shown.", style.faint);
    for (const words of (dry_run && (commands ?? [argv])) || []) screen.words(`  ${words.map(quoted).join(" ")}`);
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
    if (message.rule.startsWith("auth.")) {
      this.on_stranger(message);
      return;
    }
    if (message.rule === "execution.unknown") this.forget();
    this.refuse(message);
    if (message.rule === "protection.unavailable") this.view.unprotected(plain(message.reason));
    if (message.rule === "project.unknown") this.view.projectGone();
  }

  // The server wants to know who this is, or does not believe it. What it says last before it closes is why.
  on_stranger(message) {
    this.refusal = { rule: message.rule, text: plain(message.reason ?? message.message) };
    const unknown = this.login === null && this.token === null;
    if (message.rule === "auth.required" && unknown) this.view.askToken(this.problem);
  }

  refuse(message) {
    const { screen } = this.view;
    // Not every refusal brings the id back.
    const { id, command } = this.asked ?? {};
    if (message.id === id || (message.id === undefined && message.command === command)) this.drop();
    screen.say(style.refused(`✕ Refused by ${plain(message.rule)}`));
    screen.words(`  ${plain(message.reason ?? message.message)}`);
    if (message.hint) screen.words(`  ${plain(message.hint)}`, style.faint);
    this.view.announce(`Refused by ${message.rule}. ${message.reason ?? ""} ${message.hint ?? ""}`);
    this.show();
  }

  on_complete(message) {
    const end = describeEnd(message);
    const head = `${message.status === "succeeded" ? "✓" : "✕"} ${end}`;
    const paint = message.status === "succeeded" ? style.accent : style.refused;
    this.view.screen.words(factsOf(message, this.current), style.faint, head, paint);
    this.view.announce(end);
    this.forget();
  }

  tell(paint, text) {
    this.view.screen.say(paint(text));
    this.view.announce(text);
  }

  // What was asked is answered, or never will be.
  drop() {
    this.asked = null;
    this.stopping = false;
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
    else if (this.asked) this.view.state("sent", this.stopping ? "Stops as soon as it starts" : "Sent, not yet answered");
    else this.view.state("ready", "Ready");
  }
}

function describeEnd(message) {
  const time = duration(message.duration_ms);
  const cut = message.truncated ? ", output cut" : "";
  switch (message.status) {
    case "succeeded":
      return message.dry_run ? "Allowed; nothing ran" : `Done in ${time}${cut}`;
    case "timed_out":
      return `Timed out after ${time}`;
    case "cancelled":
      return `Cancelled after ${time}`;
    case "lost":
      return "Lost: the server stopped while it ran";
    default:
      return `Failed: exit code ${message.exit_code}${message.signal ? `, ${plain(message.signal)}` : ""}${cut}`;
  }
}

// What it took, what held it, and what let it through.
function factsOf({ cpu_ms, peak_memory_bytes, protection }, { rule, risk }) {
  return [
    protection && `CPU ${duration(cpu_ms)}`,
    protection && peak_memory_bytes && size(peak_memory_bytes),
    protection && `held at ${plain(protection)}`,
    rule && `${plain(rule)}, ${plain(risk)}`,
  ].filter(Boolean).map((fact) => ` · ${fact}`).join("");
}

// A word as it could be typed.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${plain(word).replaceAll("'", "'\\''")}'`);
