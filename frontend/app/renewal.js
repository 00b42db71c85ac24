// Renews the login while the page is used: a key, a click or a running command in the first half of its life is enough.

import { renewToken } from "./api.js";
import { isDue, isRenewable } from "./access-token.js";

const TICK = 5000; // ms

export class Renewal {
  // `page` has: session, onRenewed(token)
  constructor(page) {
    this.page = page;
    this.usedAt = Date.now();
    for (const type of ["keydown", "pointerdown"]) document.addEventListener(type, () => this.use(), true);
    setInterval(() => this.tick(), TICK);
  }

  use() {
    this.usedAt = Date.now();
  }

  async tick() {
    const { session, onRenewed } = this.page;
    const token = session.login;
    if (session.busy) this.use();
    // A command that was sent and not answered would be abandoned.
    if (!isRenewable(token) || session.pending !== null || !isDue(token, this.usedAt)) return;
    const renewed = await renewToken(token).catch(() => null); // the next tick tries again
    if (renewed !== null && session.login === token) onRenewed(renewed);
  }
}
