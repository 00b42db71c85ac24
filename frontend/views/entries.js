// The commands in the terminal, each with a button that copies it and its output: on a phone nothing else selects text.

import { copyText } from "../components/clipboard.js";
import { create } from "../components/element.js";

const WIDTH = 6; // columns
const SHOWN = 1500; // ms that the button says what it did

export class Entries {
  // `terminal` is xterm's; `announce(text)` reaches screen readers
  constructor(terminal, announce) {
    this.terminal = terminal;
    this.announce = announce;
    this.markers = []; // the first line of each, oldest first
  }

  // An entry begins in the line of the cursor.
  begin(command) {
    const marker = this.terminal.registerMarker(0);
    this.markers.push(marker);
    marker.onDispose(() => this.markers.splice(this.markers.indexOf(marker), 1));
    const decoration = this.terminal.registerDecoration({ marker, anchor: "right", width: WIDTH, layer: "top" });
    decoration?.onRender((place) => place.firstChild ?? place.append(this.button(command, marker)));
  }

  button(command, marker) {
    const button = create("button", "Copy", { type: "button", className: "copy", ariaLabel: `Copy ${command} and its output` });
    // Otherwise the emulator would begin a selection.
    button.addEventListener("mousedown", (event) => event.stopPropagation());
    button.addEventListener("click", () => this.copy(marker, button));
    return button;
  }

  async copy(marker, button) {
    const done = (await copyText(this.text(marker))) ? "Copied" : "Failed";
    button.textContent = done;
    this.announce(done === "Copied" ? "Copied." : "The browser did not allow copying.");
    setTimeout(() => (button.textContent = "Copy"), SHOWN);
  }

  // Everything up to the next entry; lines that the width of the page broke are joined.
  text(marker) {
    const buffer = this.terminal.buffer.active;
    const end = this.markers[this.markers.indexOf(marker) + 1]?.line ?? buffer.length;
    const lines = [];
    for (let at = marker.line; at < end; at += 1) {
      const continues = at + 1 < end && buffer.getLine(at + 1).isWrapped;
      const text = buffer.getLine(at).translateToString(!continues);
      if (buffer.getLine(at).isWrapped && lines.length) lines[lines.length - 1] += text;
      else lines.push(text);
    }
    return `${lines.join("\n").trimEnd()}\n`;
  }
}
