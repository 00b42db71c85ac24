// What the page says about itself: its state in the header, notices above the terminal, and text for screen readers.

import { element } from "../components/element.js";

const TICK = 500; // ms

export class StatusView {
  // `progress()` returns the text that changes with time, empty where there is none.
  constructor(progress) {
    this.progress = progress;
    element("notice-close").addEventListener("click", () => this.showNotice(""));
    setInterval(() => this.tick(), TICK);
  }

  // Without a text the state has one that changes with time.
  showState(name, text) {
    element("state").dataset.state = name;
    if (!text) this.tick();
    else if (name === "ready" && !element("unprotected").hidden) this.setText("Connected, but no command can run");
    else this.setText(text);
  }

  tick() {
    const text = this.progress();
    if (text) this.setText(text);
  }

  // Only a change is written, since a screen reader reads it.
  setText(text) {
    if (element("state-text").textContent !== text) element("state-text").textContent = text;
  }

  announce(text) {
    element("live").textContent = text;
  }

  // An empty text removes the notice.
  showNotice(text) {
    element("notice-text").textContent = text;
    element("notice").hidden = !text;
  }

  // Why no command can run; null when commands can.
  showProtection(problem) {
    element("unprotected").textContent = problem ?? "";
    element("unprotected").hidden = !problem;
  }
}
