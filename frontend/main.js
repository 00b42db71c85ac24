// Wiring: the elements of the page, the session and the connection.

import { Account } from "./account.js";
import { whyUnprotected } from "./api.js";
import { Connection } from "./connection.js";
import { History } from "./history.js";
import { Past } from "./past.js";
import { Screen } from "./screen.js";
import { Session } from "./session.js";
import { lasting, thisTab } from "./storage.js";
import { takeTicket, ticketAtStart } from "./ticket.js";

const element = (id) => document.getElementById(id);
const line = element("line");
const screen = new Screen(element("screen"));
const history = new History(thisTab.get("login", null) === null ? lasting : thisTab);

const view = {
  screen,
  state(name, text) {
    element("state").dataset.state = name;
    if (!text) tick();
    else if (name === "ready" && !element("unprotected").hidden) stateText("Connected, but no command can run");
    else stateText(text);
  },
  announce(text) {
    element("live").textContent = text;
  },
  running(busy) {
    element("prompt-label").textContent = busy ? "›" : "$";
    line.placeholder = busy ? "Input for the command" : "Type a command";
    line.setAttribute("aria-label", busy ? "Input for the running command" : "Command");
    element("send").textContent = busy ? "Send" : "Run";
    const shown = { stop: busy, end: busy, older: !busy, newer: !busy, check: !busy };
    for (const [id, shows] of Object.entries(shown)) {
      element(id).hidden = !shows;
    }
  },
  ready(message) {
    element("token-dialog").close();
    account.ready(message);
    whyUnprotected().then(showProtection);
  },
  askToken(problem) {
    element("token-problem").textContent = problem;
    view.state("offline", "Access token needed");
    if (!anyDialog()) element("token-dialog").showModal();
  },
  loggedOut(reason) {
    account.leave();
    notice(`You are logged out. ${reason}`);
  },
  unprotected(reason) {
    whyUnprotected().then((more) => showProtection(more ?? reason));
  },
  projectGone() {
    account.offerProjects();
  },
};

const focusLine = () => line.focus({ preventScroll: true });
const anyDialog = () => document.querySelector("dialog[open]") !== null;

// A line of its own above the terminal; without text it goes.
function show(id, text) {
  element(id).textContent = text ?? "";
  element(id).hidden = !text;
}

function showProtection(problem) {
  show("unprotected", problem);
  session.show();
}

function notice(text) {
  element("notice-text").textContent = text;
  element("notice").hidden = !text;
}

const session = new Session(view, thisTab);
const url = new URL("ws/terminal", document.baseURI);
url.protocol = url.protocol.replace("http", "ws");
let waitingUntil = 0;
const connection = new Connection(url.href, {
  opened: () => session.opened(),
  message: (message) => session.message(message),
  closed: (code) => session.closed(code),
  waiting: (seconds) => {
    waitingUntil = Date.now() + seconds * 1000;
    view.state("offline", "");
  },
});
session.use(connection);

const account = new Account({ session, screen, history, notice, focus: focusLine });

const UNTIL_ENDED = "Wait until the command that runs has ended, and the page is connected.";
new Past({
  scope: () => ({ token: session.login, project: account.project, name: account.projectName }),
  open(id, when) {
    if (!session.replay(id, when)) return UNTIL_ENDED;
    element("welcome").hidden = true;
    return "";
  },
  reuse(command) {
    if (session.busy) return UNTIL_ENDED; // else it would become the input of what runs
    line.value = command;
    return "";
  },
  focus: focusLine,
});

function logInBy(ticket) {
  view.state("connecting", "Logging in");
  account.logInBy(ticket).then((known) => {
    if (known) return;
    if (session.ready) session.show();
    else connection.open();
  });
}

function stateText(text) {
  if (element("state-text").textContent !== text) element("state-text").textContent = text;
}

// What changes with time: how long a command has run, when the next attempt comes.
function tick() {
  if (connection.timer) {
    stateText(`Reconnecting in ${Math.max(0, Math.ceil((waitingUntil - Date.now()) / 1000))} s`);
  } else if (session.ready && session.current?.when) {
    stateText("Reading what was recorded");
  } else if (session.ready && session.current) {
    const seconds = Math.max(0, Math.floor((Date.now() - session.current.since) / 1000));
    // The time comes first, since a narrow page cuts off the end.
    stateText(`Running ${seconds} s${session.current.command ? ` · ${session.current.command}` : ""}`);
  }
}

// False when the text was not taken. With `dryRun` a command is judged only.
function submit(text, dryRun = false) {
  let taken = true;
  if (session.busy) {
    taken = !dryRun && session.input(text);
  } else if (text.trim()) {
    taken = session.run(text.trim(), account.project, dryRun);
    if (taken) history.add(text.trim());
    element("welcome").hidden = true;
  }
  tick();
  return taken;
}

// The line stays, to be changed or run.
function check() {
  submit(line.value, true);
  line.focus();
}

function walk(step) {
  if (session.busy) return;
  line.value = history.walk(step, line.value);
  line.setSelectionRange(line.value.length, line.value.length);
}

const keys = {
  ArrowUp: () => walk(-1),
  ArrowDown: () => walk(1),
};
const shiftKeys = {
  Enter: check,
};
const scrollKeys = {
  PageUp: () => screen.scroll(-1),
  PageDown: () => screen.scroll(1),
};
const controlKeys = {
  c: () => {
    if (session.busy) session.cancel();
    else line.value = "";
  },
  d: () => session.endInput(),
  l: () => screen.clear(),
};

const selecting = () => screen.selection || line.selectionStart !== line.selectionEnd || String(window.getSelection());

// What a key does here, if anything.
function actionOf({ key, target, ctrlKey, altKey, metaKey, shiftKey }) {
  if (altKey || metaKey) return undefined;
  if (!ctrlKey) return shiftKey && target === line ? shiftKeys[key] : { ...scrollKeys, ...(target === line && keys) }[key];
  // With something selected, Ctrl-C copies as everywhere.
  if (shiftKey || (key.toLowerCase() === "c" && selecting())) return undefined;
  return controlKeys[key.toLowerCase()];
}

// Nobody can type into the output, so what is typed there goes to the prompt.
function isMeantForPrompt({ key, target, ctrlKey, altKey, metaKey }) {
  return key.length === 1 && !ctrlKey && !altKey && !metaKey && element("screen").contains(target);
}

document.addEventListener("keydown", (event) => {
  const { target } = event;
  const elsewhere = /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(target.tagName) && !element("screen").contains(target);
  if ((target !== line && elsewhere) || event.isComposing || anyDialog()) return;
  if (isMeantForPrompt(event)) line.focus();
  const action = actionOf(event);
  if (!action) return;
  event.preventDefault();
  action();
});

element("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  if (submit(line.value)) line.value = "";
});
// A line of input cannot hold the line breaks of what is pasted and would join its lines to a single, other command.
line.addEventListener("paste", (event) => {
  const lines = event.clipboardData.getData("text/plain").replace(/[\r\n]+$/, "").split(/\r\n|\r|\n/);
  const count = lines.length;
  if (count === 1) return;
  event.preventDefault();
  line.setRangeText(lines.shift(), line.selectionStart, line.selectionEnd, "end");
  if (session.busy) while (lines.length && submit(line.value)) line.value = lines.shift();
  else notice(`One line runs at a time: of the ${count} lines that were pasted, the first is in the prompt.`);
});
element("welcome").addEventListener("click", (event) => {
  const command = event.target.dataset.command;
  if (command) submit(command);
  if (command) line.focus();
});
element("stop").addEventListener("click", () => session.cancel());
element("end").addEventListener("click", () => session.endInput());
element("check").addEventListener("click", check);
element("older").addEventListener("click", () => walk(-1));
element("newer").addEventListener("click", () => walk(1));
element("screen").addEventListener("mouseup", () => screen.selection || focusLine());
element("token-form").addEventListener("submit", () => {
  session.prove(element("token").value);
  element("token").value = "";
});
element("notice-close").addEventListener("click", () => {
  notice("");
  line.focus();
});
window.addEventListener("hashchange", () => {
  const ticket = takeTicket();
  if (ticket) logInBy(ticket);
});

const darkWanted = window.matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const theme = element("theme").value;
  document.documentElement.dataset.theme = theme;
  screen.paint(theme === "dark" || (theme === "auto" && darkWanted.matches));
}
element("theme").value = lasting.get("theme", "auto");
element("theme").addEventListener("change", () => {
  lasting.set("theme", element("theme").value);
  paint();
});
darkWanted.addEventListener("change", paint);

element("reader").checked = lasting.get("reader", false) === true;
element("reader").addEventListener("change", () => {
  lasting.set("reader", element("reader").checked);
  screen.readAloud(element("reader").checked);
});

paint();
screen.readAloud(element("reader").checked);
element("welcome").hidden = session.current !== null;
setInterval(tick, 500);
focusLine();
if (ticketAtStart) logInBy(ticketAtStart);
else connection.open();
