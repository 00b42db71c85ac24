// Wiring: the views of the page, the session and the connection.

import { CommandHistory } from "../components/command-history.js";
import { element } from "../components/element.js";
import { AccountView } from "../views/account-view.js";
import { bindAppearance } from "../views/appearance-view.js";
import { ExecutionView } from "../views/execution-view.js";
import { LimitsView } from "../views/limits-view.js";
import { LoginView } from "../views/login-view.js";
import { PanelsView } from "../views/panels-view.js";
import { ProjectView } from "../views/project-view.js";
import { bindHeight, bindMenu } from "../views/menu-view.js";
import { PasswordView } from "../views/password-view.js";
import { PromptView } from "../views/prompt-view.js";
import { StatusView } from "../views/status-view.js";
import { TerminalView } from "../views/terminal-view.js";
import { protectionProblem, readExecution } from "./api.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { initialTicket, takeTicket } from "./login-link.js";
import { Renewal } from "./renewal.js";
import { SharedLogin } from "./shared-login.js";
import { bindShortcuts } from "./shortcuts.js";
import { lasting, thisTab } from "./storage.js";
import { TerminalSession } from "./terminal-session.js";

const credentials = new Credentials(thisTab);
const history = new CommandHistory(credentials.login === null ? lasting : thisTab);
const status = new StatusView(progressText);
const announce = (text) => status.announce(text);
const terminal = new TerminalView(element("screen"), announce);
const showNotice = (text) => status.showNotice(text);

const session = new TerminalSession(
  new ExecutionView(terminal, announce),
  {
    announce,
    showState: (name, text) => status.showState(name, text),
    setBusy: (busy) => prompt.setBusy(busy),
    offerKill: (offered) => prompt.offerKill(offered),
    onNeverStarted: (id) => showNeverStarted(id),
    onReady(message) {
      login.close();
      account.onReady(message);
      panels.setUser(account.user);
      limits.load();
      protectionProblem().then(showProtection);
    },
    askToken(problem) {
      status.showState("offline", "Login required");
      login.askToken(problem);
    },
    onExpired() {
      status.showState("offline", "Your login has ended");
      login.askAgain(account.expire(), "Your login has ended. Log in again to go on.");
    },
    onLoggedOut(reason) {
      account.reset();
      showNotice(`You are logged out. ${reason}`);
    },
    onUnprotected: (reason) => protectionProblem().then((problem) => showProtection(problem ?? reason)),
    onCounted: () => limits.load(),
    onProjectGone: () => projects.load(),
  },
  credentials,
  thisTab,
);

const limits = new LimitsView(() => session.login ?? credentials.token);

const url = new URL("ws/terminal", document.baseURI);
url.protocol = url.protocol.replace("http", "ws");
const connection = new Connection(url.href, {
  opened: () => session.onOpen(),
  message: (message) => session.onMessage(message),
  closed: (code) => session.onClose(code),
  retrying: () => status.showState("offline", ""),
});
session.use(connection);

const prompt = new PromptView({
  session,
  history,
  showNotice,
  project: () => projects.id,
  onCommand: hideWelcome,
});
const focusPrompt = () => prompt.focus();
const projects = new ProjectView({ token: () => session.login, showNotice, focusPrompt });

const NOT_NOW = "Wait until the running command has ended and the page is connected.";
function replay(id, when) {
  if (!session.replay(id, when)) return NOT_NOW;
  hideWelcome();
  return "";
}
const started = (line, dryRun) => (!session.busy && prompt.run(line, dryRun) ? "" : NOT_NOW);
const panels = new PanelsView({
  token: () => session.login,
  user: () => account.user,
  scope: () => ({ token: session.login, project: projects.id, name: projects.name }),
  replay,
  reuse(command) {
    if (session.busy) return NOT_NOW; // otherwise it would become input of the running command
    prompt.fill(command);
    return "";
  },
  run: (line) => started(line, false),
  check: (line) => started(line, true),
  focusPrompt,
});
const shared = new SharedLogin(credentials, {
  offered: (token) => account.logIn(token),
  replaced: (token) => session.replaceLogin(token),
  ended: () => {
    account.reset();
    session.logOut();
    showNotice("You are logged out.");
  },
});
function replaceLogin(token) {
  shared.replace(session.login, token);
  session.replaceLogin(token);
}
const password = new PasswordView({
  token: () => session.login,
  onSet(token) {
    replaceLogin(token);
    showNotice("Your password is set.");
  },
  focusPrompt,
});
const onLogOut = (token) => shared.end(token);
const account = new AccountView({
  session, terminal, history, projects, panels, password, showNotice, focusPrompt, onLogOut,
});
const login = new LoginView({
  token: (token) => session.presentToken(token),
  login: logIn,
});
new Renewal({ session, onRenewed: replaceLogin });

function logIn(token) {
  account.logIn(token);
  shared.offer(token);
}

// An execution that was queued has ended, and has no recording.
async function showNeverStarted(id) {
  const found = await readExecution(session.login, id).catch(() => null);
  const end = { cancelled: "cancelled", denied: `refused by ${found?.rule}`, lost: "lost" }[found?.status] ?? "ended";
  session.output.showWarning(`The command was ${end} before it started.`);
}

function hideWelcome() {
  element("welcome").hidden = true;
}

function showProtection(problem) {
  status.showProtection(problem);
  session.showState();
}

// How long a command has been running, or when the next attempt to connect is due.
function progressText() {
  if (connection.retryAt) return `Reconnecting in ${secondsTo(connection.retryAt)} s`;
  if (!session.ready) return "";
  if (session.idle) return element("unprotected").hidden ? ["Ready", limits.text()].filter(Boolean).join(" · ") : "";
  if (!session.current) return "";
  const { when, since, command, queued } = session.current;
  if (when) return "Reading the recording";
  // The time comes first, since a narrow page cuts off the end.
  return `${queued ? "Queued" : "Running"} ${Math.max(0, Math.floor((Date.now() - since) / 1000))} s${command ? ` · ${command}` : ""}`;
}

const secondsTo = (time) => Math.max(0, Math.ceil((time - Date.now()) / 1000));

async function logInByLink(ticket) {
  status.showState("connecting", "Logging in");
  if (await account.logInByLink(ticket)) {
    shared.offer(session.login);
    return;
  }
  if (session.ready) session.showState();
  else connect();
}

function connect() {
  connection.open();
  shared.ask();
}

window.addEventListener("hashchange", () => {
  const ticket = takeTicket();
  if (ticket) logInByLink(ticket);
});
element("welcome").addEventListener("click", ({ target }) => {
  if (!target.dataset.command) return;
  prompt.submit(target.dataset.command);
  focusPrompt();
});
// On a phone the focus in the prompt opens the keyboard, which a tap on a button or a link does not ask for.
element("screen").addEventListener("mouseup", ({ target }) => {
  if (!terminal.selection && !target.closest("button, .xterm-cursor-pointer")) focusPrompt();
});
element("login-dialog").addEventListener("close", () => account.abandon());
element("notice-close").addEventListener("click", focusPrompt);

bindShortcuts({ prompt, session, terminal });
bindAppearance(terminal);
bindMenu();
bindHeight();
if (session.current !== null) hideWelcome();
focusPrompt();
if (initialTicket) logInByLink(initialTicket);
else connect();
