// The terminal. All text goes through xterm, never into HTML; nothing that the emulator answers leaves the page.

import { wrapped } from "../components/format.js";
import { FitAddon } from "../vendor/addon-fit.mjs";
import { Terminal } from "../vendor/xterm.mjs";
import { Entries } from "./entries.js";
import { provideLinks } from "./links.js";

const SCROLLBACK = 10_000; // lines
const PIECE = 256 * 1024; // characters handed to xterm at a time, so that the page stays responsive

const DARK = {
  background: "#131c18", foreground: "#dfe9e3", cursor: "#131c18", selectionBackground: "#2f5544",
  scrollbarSliderBackground: "#93a59b40", overviewRulerBorder: "#131c18",
  black: "#26342d", red: "#ff9a8f", green: "#8fe0bd", yellow: "#f2b866", blue: "#93c5fd", magenta: "#d8b4fe",
  cyan: "#7fd8e0", white: "#dfe9e3", brightBlack: "#93a59b", brightRed: "#ffb4ab", brightGreen: "#b2f0d3",
  brightYellow: "#ffd59a", brightBlue: "#bfdbfe", brightMagenta: "#e9d5ff", brightCyan: "#b0eef3", brightWhite: "#ffffff",
};
const LIGHT = {
  background: "#fffdf8", foreground: "#1d2a24", cursor: "#fffdf8", selectionBackground: "#bfe3d2",
  scrollbarSliderBackground: "#56645c40", overviewRulerBorder: "#fffdf8",
  black: "#1d2a24", red: "#a3262a", green: "#0b6b4b", yellow: "#8a5200", blue: "#1d4ed8", magenta: "#86198f",
  cyan: "#0e6673", white: "#56645c", brightBlack: "#56645c", brightRed: "#b3282d", brightGreen: "#0b6b4b",
  brightYellow: "#8a5200", brightBlue: "#1d4ed8", brightMagenta: "#86198f", brightCyan: "#0e6673", brightWhite: "#1d2a24",
};

export const style = {
  accent: (text) => `\x1b[32m${text}\x1b[0m`,
  strong: (text) => `\x1b[1m${text}\x1b[0m`,
  faint: (text) => `\x1b[90m${text}\x1b[0m`,
  refused: (text) => `\x1b[33m${text}\x1b[0m`,
  problem: (text) => `\x1b[31m${text}\x1b[0m`,
};

export class TerminalView {
  // `announce(text)` reaches screen readers
  constructor(element, announce) {
    this.terminal = new Terminal({
      disableStdin: true,
      scrollback: SCROLLBACK,
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"),
      fontSize: window.innerWidth < 620 ? 13 : 15,
      lineHeight: 1.25,
      cursorInactiveStyle: "none",
      overviewRuler: { width: 10 },
      minimumContrastRatio: 4.5,
      // A link whose address cannot be seen must not open anything.
      linkHandler: { activate: () => {} },
      allowProposedApi: true, // for the copy buttons of the entries
    });
    this.fit = new FitAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.open(element);
    // Keys belong to the page. The emulator would keep Tab, and a keyboard user could not leave it.
    this.terminal.attachCustomKeyEventHandler(() => false);
    this.terminal.textarea.setAttribute("aria-label", "Terminal output; Page Up and Page Down scroll");
    provideLinks(this.terminal);
    this.entries = new Entries(this.terminal, announce);
    this.queue = []; // text, and functions that are called when what is before them has been written
    this.writing = false;
    this.drawing = false; // what was written is not on the screen yet
    this.onDrawn = () => {};
    this.atLineStart = true;
    this.empty = true;
    new ResizeObserver(() => this.fit.fit()).observe(element);
    this.fit.fit();
  }

  // Lines of output; with `partial` the last one continues with the next call.
  writeLines(lines, partial, paint = (text) => text) {
    const text = lines.join("\r\n");
    this.atLineStart = !partial;
    this.write(paint(text) + (partial ? "" : "\r\n"));
  }

  // A message of the page, on a line of its own.
  writeMessage(text) {
    this.write(`${this.atLineStart ? "" : "\r\n"}${text}\r\n`);
    this.atLineStart = true;
  }

  // A message of the page, wrapped between words; `head` has a colour of its own.
  writeWrapped(text, paint = (line) => line, head = "", paintHead = paint) {
    const [first, ...others] = wrapped(head + text, this.terminal.cols);
    const rest = first.slice(head.length);
    this.writeMessage(paintHead(first.slice(0, head.length)) + (rest && paint(rest)));
    for (const line of others) this.writeMessage(paint(line));
  }

  // The line that a command begins with; `note` says what is done with it.
  writeCommand(text, note = "") {
    if (!this.empty) this.writeMessage("");
    this.queue.push(() => this.entries.begin(text));
    this.writeMessage(`${style.accent("$")} ${style.strong(text)}${note && style.faint(`  ${note}`)}`);
  }

  write(text) {
    this.empty = false;
    this.drawing = true;
    for (let at = 0; at < text.length; at += PIECE) this.queue.push(text.slice(at, at + PIECE));
    if (!this.writing) this.writeNext();
  }

  writeNext() {
    while (typeof this.queue[0] === "function") this.queue.shift()();
    const text = this.queue.shift();
    this.writing = text !== undefined;
    if (this.writing) this.terminal.write(text, () => this.writeNext());
    else if (document.hidden) this.drawn(); // a hidden page has no frames
    else requestAnimationFrame(() => this.drawn()); // after the emulator has drawn, since it asked first
  }

  drawn() {
    if (this.writing) return;
    this.drawing = false;
    this.onDrawn();
  }

  clear() {
    this.queue.length = 0;
    this.terminal.reset();
    this.atLineStart = true;
    this.empty = true;
  }

  scroll(pages) {
    this.terminal.scrollPages(pages);
  }

  get selection() {
    return this.terminal.getSelection();
  }

  setDark(dark) {
    this.terminal.options.theme = dark ? DARK : LIGHT;
  }

  setScreenReader(on) {
    this.terminal.options.screenReaderMode = on;
  }
}
