// The commands typed in this browser, oldest first; the arrow keys step through them.

const LIMIT = 200;

export class CommandHistory {
  constructor(store) {
    this.use(store);
  }

  // Continue with the commands of another store.
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

  // The line `step` away (-1 older, 1 newer). The line being typed is the newest one.
  walk(step, typed) {
    if (this.at === this.lines.length) this.draft = typed;
    this.at = Math.max(0, Math.min(this.lines.length, this.at + step));
    return this.at === this.lines.length ? this.draft : this.lines[this.at];
  }
}
