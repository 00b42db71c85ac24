// Wiring: the elements of the page, the session and the connection.

import { Connection } from "./connection.js";
import { History } from "./history.js";
import { Screen } from "./screen.js";
import { Session } from "./session.js";
import { lasting, thisTab } from "./storage.js";

const element = (id) => document.getElementById(id);
const line = element("line");
const screen = new Screen(element("screen"));
const history = new History(lasting);

const view = {
  screen,
  state(name, text) {
    element("state").dataset.state = name;
    stateText(text);
  },
  announce(text) {
    element("live").textContent = text;
  },
  running(busy) {
    element("prompt-label").textContent = busy ? "›" : "$";
    line.placeholder = busy ? "Input for the command" : "Type a command";
    line.setAttribute("aria-label", busy ? "Input for the running command" : "Command");
    element("send").textContent = busy ? "Send" : "Run";
    for (const [id, shown] of [["stop", busy], ["end", busy], ["older", !busy], ["newer", !busy]]) {
      element(id).hidden = !shown;
    }
  },
  askToken(problem) {
    element("token-problem").textContent = problem;
    view.state("offline", "Access token needed");
    if (!element("token-dialog").open) element("token-dialog").showModal();
  },
};

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
    tick();
  },
});
session.use(connection);

function stateText(text) {
  if (text && element("state-text").textContent !== text) element("state-text").textContent = text;
}

// What changes with time: how long a command has run, when the next attempt comes.
function tick() {
  if (connection.timer) {
    stateText(`Reconnecting in ${Math.max(0, Math.ceil((waitingUntil - Date.now()) / 1000))} s`);
  } else if (session.ready && session.current) {
    const seconds = Math.max(0, Math.floor((Date.now() - session.current.since) / 1000));
    stateText(`Running ${session.current.command ?? "the command"} · ${seconds} s`);
  }
}

function submit(text) {
  if (session.busy) {
    session.input(text);
  } else if (text.trim()) {
    if (session.run(text.trim())) history.add(text.trim());
    element("welcome").hidden = true;
  }
  tick();
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
const controlKeys = {
  c: () => {
    if (session.busy) session.cancel();
    else line.value = "";
  },
  d: () => session.endInput(),
  l: () => screen.clear(),
};

const selecting = () => screen.selection || line.selectionStart !== line.selectionEnd || String(window.getSelection());

document.addEventListener("keydown", (event) => {
  const control = event.ctrlKey && !event.altKey && !event.metaKey && !event.shiftKey;
  const inPrompt = event.target === line || !/^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(event.target.tagName);
  if (!inPrompt || event.isComposing || element("token-dialog").open) return;
  const action = control ? controlKeys[event.key.toLowerCase()] : event.target === line ? keys[event.key] : undefined;
  // With something selected, Ctrl-C copies as everywhere.
  if (!action || (control && event.key.toLowerCase() === "c" && selecting())) return;
  event.preventDefault();
  action();
});

element("prompt").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = line.value;
  line.value = "";
  submit(text);
});
element("welcome").addEventListener("click", (event) => {
  const command = event.target.dataset.command;
  if (command) submit(command);
  if (command) line.focus();
});
element("stop").addEventListener("click", () => session.cancel());
element("end").addEventListener("click", () => session.endInput());
element("older").addEventListener("click", () => walk(-1));
element("newer").addEventListener("click", () => walk(1));
element("screen").addEventListener("mouseup", () => screen.selection || line.focus({ preventScroll: true }));
element("token-form").addEventListener("submit", () => {
  session.prove(element("token").value);
  element("token").value = "";
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
line.focus({ preventScroll: true });
connection.open();
