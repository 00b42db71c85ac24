// The commands of this browser, oldest first, walked with the arrow keys.

const LIMIT = 200;

export class History {
  constructor(store) {
    this.use(store);
  }

  // Go on with the commands that are kept in another place.
  use(store) {
    this.store = store;
    this.lines = store.get("history", []).filter((line) => typeof line === "string");
    this.rewind();
  }

  rewind() {
    this.at = this.lines.length;
    this.draft = "";
  }

  add(line) {
    this.lines = [...this.lines.filter((known) => known !== line), line].slice(-LIMIT);
    this.store.set("history", this.lines);
    this.rewind();
  }

  // The line `step` away (-1 older, 1 newer); what was typed waits at the newest end.
  walk(step, typed) {
    if (this.at === this.lines.length) this.draft = typed;
    this.at = Math.max(0, Math.min(this.lines.length, this.at + step));
    return this.at === this.lines.length ? this.draft : this.lines[this.at];
  }
}
