// The command of this page: what runs and how far it has been seen. The server records every message, so only the
// number of the last one has to be remembered to continue after a reload or a lost connection.

import { hasExpired } from "./access-token.js";
import {
  attachMessage,
  authMessage,
  cancelMessage,
  closeInputMessage,
  FRAME_LIMIT,
  inputMessages,
  killMessage,
  lastSeq,
  runMessage,
  textOf,
  UNAUTHORIZED,
} from "../protocol/messages.js";

const STOP_TIME = 3000; // ms that a command has to end by itself before it can be killed
const NOT_STARTED = "The command has not started yet; nothing was sent.";
const NEVER_STARTED_RULES = ["execution.forgotten", "execution.unknown"]; // it ended in the queue, without a recording
const NOT_CONNECTED = "Not connected yet; nothing was sent.";
const TOO_LONG = `The line is too long: a message of this page holds ${FRAME_LIMIT / 1024} KiB. Nothing was sent.`;
const UNSENT = "The connection was lost before everything was sent; the last input may not have arrived.";
const TOKEN_ENDED = "Your token has expired or been revoked.";
const TOKEN_ENDED_RULES = ["auth.ended", "auth.wrong"];

export class TerminalSession {
  // `output` is an ExecutionView. `page` has: showState(name, text), setBusy(boolean), announce(text), onReady(message),
  // askToken(problem), onExpired(), onLoggedOut(reason), onUnprotected(reason), onProjectGone(), onCounted(), offerKill(boolean), onNeverStarted(id)
  constructor(output, page, credentials, store) {
    this.output = output;
    this.page = page;
    this.credentials = credentials;
    this.store = store;
    output.whenDrawn(() => this.showState());
    this.pending = null; // { id, command }: sent and not yet answered
    this.stopping = false; // the command is to be cancelled as soon as it starts, or the connection is back
    // { id, seq, command, rule, risk, since, when, queued }; `when` only for one that is replayed, `queued` until it starts
    this.current = null;
    this.ready = false;
    this.lastInstruction = ""; // the type of the last message to a running command
    this.sent = 0; // commands; the number of each is its id
    this.presented = null; // the token of this connection
    this.tokenProblem = "";
    this.refusal = null; // why the server refuses the connection: { rule, text }
    const known = store.get("execution", null);
    // After a reload the terminal is empty, so everything is requested again.
    if (known) this.current = { id: known, seq: 0, command: null, since: Date.now() };
  }

  use(connection) {
    this.connection = connection;
  }

  get busy() {
    return this.pending !== null || this.current !== null;
  }

  // Whether it is ready for a command, and all that was written is on the screen.
  get idle() {
    return this.ready && !this.busy && !this.output.drawing;
  }

  get login() {
    return this.credentials.login;
  }

  // Called by the page.

  // False when the command was not sent. With `dryRun` it is only checked.
  run(command, project, dryRun = false) {
    if (!this.ready) return this.notSent(NOT_CONNECTED);
    if (command === "clear" && !dryRun) {
      this.output.clear();
      return true;
    }
    const pending = { id: String(this.sent + 1), command };
    if (!this.connection.send(runMessage({ ...pending, project, dryRun }))) return this.notSent(TOO_LONG);
    this.sent += 1;
    this.pending = pending;
    this.output.showCommand(command, { dryRun });
    this.showState();
    return true;
  }

  notSent(reason) {
    this.output.showWarning(reason);
    return false;
  }

  // Show the recording of a command; one that still runs is followed. `when` is text. False when that is not possible.
  replay(id, when) {
    if (!this.ready || this.busy) return false;
    this.current = { id, seq: 0, command: null, since: Date.now(), when };
    this.store.set("execution", id);
    this.connection.send(attachMessage(id, 0));
    this.showState();
    return true;
  }

  // False while no command runs that could read it, and while the connection is down.
  sendInput(line) {
    if (!this.current) return false;
    if (!this.ready) return this.notSent(NOT_CONNECTED);
    if (this.current.queued) return this.notSent(NOT_STARTED);
    if (!inputMessages(line).every((message) => this.instruct(message))) return this.notSent(NOT_CONNECTED);
    this.output.showInput(line);
    return true;
  }

  endInput() {
    if (!this.current) return;
    if (!this.ready || !this.instruct(closeInputMessage())) this.notSent(NOT_CONNECTED);
  }

  // Before the command has started, and while the connection is down, the stop waits.
  cancel() {
    if (!this.busy || this.stopping) return;
    this.output.showInterrupt();
    if (!this.ready) this.output.showWarning("The command will be stopped as soon as the connection is back.");
    if (!this.current || !this.ready || !this.instruct(cancelMessage(this.current.id))) this.stopping = true;
    else this.offerKillLater();
    this.showState();
  }

  offerKillLater() {
    const { id } = this.current;
    setTimeout(() => this.current?.id === id && !this.current.queued && this.page.offerKill(true), STOP_TIME);
  }

  // The command has been asked to stop before, and still runs.
  kill() {
    if (!this.current || !this.ready || !this.instruct(killMessage(this.current.id))) this.notSent(NOT_CONNECTED);
  }

  // False when it was not sent.
  instruct(message) {
    this.lastInstruction = message.type;
    return this.connection.send(message);
  }

  presentToken(token) {
    this.credentials.enter(token);
    this.connection.open();
  }

  logIn(token) {
    this.credentials.logIn(token);
    this.reconnect();
  }

  // The next token of the same login. A command that was sent and not answered is awaited on the connection it was sent on.
  replaceLogin(token) {
    this.credentials.logIn(token);
    if (this.pending === null) this.reconnect();
  }

  logOut() {
    this.credentials.logOut();
    this.forget();
    this.reconnect();
  }

  forget() {
    this.clearPending();
    this.clearCurrent();
  }

  reconnect() {
    this.ready = false;
    this.abandonPending();
    this.page.showState("connecting", "Connecting");
    this.connection.open();
  }

  // Called by the connection.

  onOpen() {
    this.refusal = null;
    const { token } = this.credentials;
    this.presented = token;
    if (token !== null) this.connection.send(authMessage(token));
  }

  onClose(code) {
    this.ready = false;
    if (this.current && this.connection.unsent) this.output.showWarning(UNSENT);
    this.abandonPending();
    if (code === UNAUTHORIZED) this.onUnauthorized();
    this.showState();
  }

  onUnauthorized() {
    if (this.refusal?.rule === "auth.limited") {
      this.page.announce(this.refusal.text);
      this.connection.retryLater();
    } else if (this.login !== null && this.login !== this.presented) {
      this.connection.open(); // it was replaced while the connection was open
    } else if (this.login !== null) {
      this.onLoginEnded(this.refusal ?? { text: "" });
    } else if (this.credentials.token !== null) {
      this.tokenProblem = "That token was not accepted.";
      this.credentials.forgetEntered();
      this.connection.open();
    }
  }

  // A login that has reached its end may be repeated, and the page goes on where it was. One that was revoked may not.
  onLoginEnded({ rule, text }) {
    const ended = TOKEN_ENDED_RULES.includes(rule);
    if (ended && hasExpired(this.login)) {
      this.credentials.logOut();
      this.page.onExpired();
    } else {
      this.page.onLoggedOut(ended ? TOKEN_ENDED : text);
      this.logOut();
    }
  }

  onMessage(message) {
    const handle = HANDLERS[message.type];
    if (!handle) return;
    if (message.execution && !BEGINNINGS.includes(message.type) && !this.isNew(message)) return;
    handle.call(this, message);
  }

  isNew(message) {
    if (!this.current || message.execution !== this.current.id || message.seq <= this.current.seq) return false;
    this.current.seq = lastSeq(message);
    return true;
  }

  onReady(message) {
    // A server that admits visitors greets them first; the greeting of the account follows.
    if (this.login !== null && !message.user) return;
    if (this.login === null && message.user) this.credentials.enteredIsLogin();
    this.ready = true;
    this.tokenProblem = "";
    this.connection.resetBackoff();
    this.page.onReady(message);
    if (this.current) this.resume();
    this.showState();
  }

  resume() {
    this.connection.send(attachMessage(this.current.id, this.current.seq));
    if (!this.stopping) return;
    this.instruct(cancelMessage(this.current.id));
    this.offerKillLater();
    this.stopping = false;
  }

  // It waits until its target takes it. It can be stopped, and found again after a reload, as if it ran.
  onQueued(message) {
    if (this.pending === null) return;
    const { execution: id } = message;
    this.current = { id, seq: 0, command: this.pending.command, since: Date.now(), queued: true };
    this.store.set("execution", id);
    this.output.showQueued(message);
    this.page.onCounted();
    if (this.stopping) this.instruct(cancelMessage(id));
    this.clearPending();
    this.showState();
  }

  onStarted(message) {
    const attached = this.current !== null;
    if (attached && (message.execution !== this.current.id || this.current.seq > 0)) return;
    const { execution: id, seq, command, rule, risk, dry_run: dryRun } = message;
    const { when, queued = false } = this.current ?? {};
    if (attached && !queued) this.output.showCommand(command, { dryRun, when });
    this.current = { id, seq, command, rule, risk, when, since: attached && !queued ? Date.parse(message.time) : Date.now() };
    this.store.set("execution", id);
    this.output.showPlan(message);
    if (!attached) this.page.onCounted();
    if (this.stopping) this.instruct(cancelMessage(id));
    this.clearPending();
    this.showState();
  }

  onComplete(message) {
    this.output.showEnd(message, this.current);
    this.clearCurrent();
  }

  onError(message) {
    if (message.execution) this.onProblem(message);
    else if (message.rule === "execution.not_running") this.onLateInstruction();
    else if (message.rule.startsWith("auth.")) this.onAuthError(message);
    else this.onRefusal(message);
  }

  onProblem(message) {
    this.current.explained = true;
    this.output.showProblem(message);
  }

  // The command ended while a stop, or input, was on its way to it. Its end says so; only input is lost.
  onLateInstruction() {
    if (this.lastInstruction === "stdin") this.output.showWarning("The command ended before it read the last input.");
  }

  // The last error before the server closes the connection says why.
  onAuthError(message) {
    this.refusal = { rule: message.rule, text: textOf(message) };
    if (message.rule === "auth.required" && this.credentials.token === null) this.page.askToken(this.tokenProblem);
  }

  onRefusal(message) {
    if (this.current?.queued && NEVER_STARTED_RULES.includes(message.rule)) {
      this.onNeverStarted();
      return;
    }
    if (message.rule === "execution.unknown") this.clearCurrent();
    // Not every refusal returns the id.
    const { id, command } = this.pending ?? {};
    if (message.id === id || (message.id === undefined && message.command === command)) this.clearPending();
    this.output.showRefusal(message);
    this.showState();
    this.page.onCounted();
    if (message.rule === "protection.unavailable") this.page.onUnprotected(textOf(message));
    if (message.rule === "project.unknown") this.page.onProjectGone();
  }

  onNeverStarted() {
    const { id } = this.current;
    this.clearCurrent();
    this.page.onNeverStarted(id);
  }

  abandonPending() {
    if (this.pending === null) return;
    this.output.showWarning("The connection was lost before the server answered; the command may have run.");
    this.clearPending();
  }

  clearPending() {
    this.pending = null;
    this.stopping = false;
  }

  clearCurrent() {
    this.current = null;
    this.stopping = false;
    this.store.remove("execution");
    this.page.offerKill(false);
    this.showState();
  }

  showState() {
    this.page.setBusy(this.busy);
    if (!this.ready) return;
    if (this.current) this.page.showState("running", "");
    else if (this.stopping) this.page.showState("sent", "Stops as soon as it starts");
    else if (this.pending) this.page.showState("sent", "Sent, not answered yet");
    else if (this.idle) this.page.showState("ready", "Ready");
  }
}

const BEGINNINGS = ["queued", "started"]; // the messages by which an execution becomes the current one

const HANDLERS = {
  waking(message) {
    this.page.showState("connecting", textOf(message));
  },
  ready: TerminalSession.prototype.onReady,
  queued: TerminalSession.prototype.onQueued,
  started: TerminalSession.prototype.onStarted,
  stdout(message) {
    this.output.showOutput(message, this.current.command);
  },
  stderr(message) {
    this.output.showErrors(message);
  },
  truncated(message) {
    this.output.showWarning(textOf(message));
  },
  error: TerminalSession.prototype.onError,
  complete: TerminalSession.prototype.onComplete,
};
