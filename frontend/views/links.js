// Links in the output: web addresses that are spelled out, and nothing else, open in a new tab at a click.

import { create } from "../components/element.js";

const ADDRESS = /https?:\/\/[^\s"'<>`{}|\\^[\]]+/gi;
const PUNCTUATION = /[.,;:!?*]+$/; // belongs to the sentence around it
const LONGEST = 2048; // characters
const ROWS = 50; // of a long line that are looked through in each direction

export function provideLinks(terminal) {
  terminal.registerLinkProvider({
    provideLinks: (row, answer) => answer(linksIn(terminal, row - 1)),
  });
}

// The links of a logical line that touch a row; rows and columns are counted from 1.
function linksIn(terminal, row) {
  const { text, places } = logicalLine(terminal, row);
  const links = [];
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    if (found.length > LONGEST) continue; // no address, and long work to find its end
    const address = withoutTrailing(found);
    const [start, end] = [places[index], places[index + address.length - 1]];
    if (opens(address) && start.y <= row + 1 && end.y >= row + 1) {
      links.push({ text: address, range: { start, end }, activate: () => open(address) });
    }
  }
  return links.length ? links : undefined;
}

// Its text, and the place of each of its UTF-16 units.
function logicalLine(terminal, row) {
  const buffer = terminal.buffer.active;
  let first = row;
  while (first > Math.max(0, row - ROWS) && buffer.getLine(first).isWrapped) first -= 1;
  let text = "";
  const places = [];
  for (let at = first; at === first || (at < row + ROWS && buffer.getLine(at)?.isWrapped); at += 1) {
    const line = buffer.getLine(at);
    for (let x = 0; x < terminal.cols; x += 1) {
      const cell = line.getCell(x);
      if (cell.getWidth() === 0) continue; // the second half of a wide character
      const chars = cell.getChars() || " ";
      text += chars;
      for (let unit = 0; unit < chars.length; unit += 1) places.push({ x: x + 1, y: at + 1 });
    }
  }
  return { text, places };
}

// A bracket that was not opened inside the address does not belong to it.
function withoutTrailing(found) {
  let address = found.replace(PUNCTUATION, "");
  while (address.endsWith(")") && address.split(")").length > address.split("(").length) {
    address = address.slice(0, -1).replace(PUNCTUATION, "");
  }
  return address;
}

function opens(address) {
  return URL.canParse(address) && /^https?:$/.test(new URL(address).protocol);
}

function open(address) {
  create("a", "", { href: address, target: "_blank", rel: "noopener noreferrer" }).click();
}
