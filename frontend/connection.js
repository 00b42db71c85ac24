// A WebSocket that comes back: backoff with jitter, and at once when the network or the tab returns.

const PROTOCOL = "gatepost.v1.batch";
const UNAUTHORISED = 4001;
const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 15_000; // ms

export class Connection {
  // `on` has: opened(), message(object), closed(code), waiting(seconds)
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.failures = 0;
    this.timer = 0;
    window.addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
  }

  // Connects, anew if there is a connection; the end of the old one is not told.
  open() {
    clearTimeout(this.timer);
    this.timer = 0;
    const old = this.socket;
    const socket = new WebSocket(this.url, [PROTOCOL]);
    this.socket = socket;
    old?.close();
    socket.addEventListener("open", () => this.on.opened());
    socket.addEventListener("message", (event) => this.on.message(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.lost(socket, event.code));
  }

  // The service answers: the next loss starts with a short wait again.
  settled() {
    this.failures = 0;
  }

  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  lost(socket, code) {
    if (socket !== this.socket) return;
    this.on.closed(code);
    if (code !== UNAUTHORISED) this.retry();
  }

  retry() {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures);
    const wait = longest / 2 + (Math.random() * longest) / 2;
    this.failures += 1;
    this.timer = setTimeout(() => this.open(), wait);
    this.on.waiting(Math.ceil(wait / 1000));
  }

  hurry() {
    if (this.timer) this.open();
  }
}

export const isUnauthorised = (code) => code === UNAUTHORISED;
