// A WebSocket that reconnects: backoff with jitter, and at once when the network or the tab returns.

import { bytesOf, FRAME_LIMIT, SUBPROTOCOL, UNAUTHORIZED } from "../protocol/messages.js";

const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 15_000; // ms

export class Connection {
  // `on` has: opened(), message(object), closed(code), retrying()
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.failures = 0;
    this.timer = 0;
    this.retryAt = 0; // ms since the epoch; 0 while no attempt is due
    window.addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
  }

  // Connects, and replaces a connection that is open; the end of that one is not reported.
  open() {
    clearTimeout(this.timer);
    this.retryAt = 0;
    const old = this.socket;
    const socket = new WebSocket(this.url, [SUBPROTOCOL]);
    this.socket = socket;
    old?.close();
    socket.addEventListener("open", () => this.on.opened());
    socket.addEventListener("message", (event) => this.on.message(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => this.onClose(socket, event.code));
  }

  // The service answers: after the next loss the first wait is short again.
  resetBackoff() {
    this.failures = 0;
  }

  // False when it cannot be sent: the connection is down, or the message is longer than a frame may be.
  send(message) {
    const frame = JSON.stringify(message);
    if (this.socket?.readyState !== WebSocket.OPEN || bytesOf(frame) > FRAME_LIMIT) return false;
    this.socket.send(frame);
    return true;
  }

  // Whether a part of what was sent has not left this computer.
  get unsent() {
    return this.socket?.bufferedAmount > 0;
  }

  onClose(socket, code) {
    if (socket !== this.socket) return;
    this.on.closed(code);
    if (code !== UNAUTHORIZED) this.retryLater();
  }

  retryLater() {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures);
    const wait = longest / 2 + (Math.random() * longest) / 2;
    this.failures += 1;
    this.timer = setTimeout(() => this.open(), wait);
    this.retryAt = Date.now() + wait;
    this.on.retrying();
  }

  retryNow() {
    if (this.retryAt) this.open();
  }
}
