// Figures and words as people read them.

// Milliseconds, as a time of `digits` after the point where it is short.
export function duration(ms, digits = 1) {
  if (ms < 1000 && digits) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(digits)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.floor((ms % 60_000) / 1000)} s`;
}

// Bytes.
export function size(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${(bytes / 1024 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}

// A time in ISO 8601 as a short date and time in the language of this browser.
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
export const moment = (iso) => clock.format(new Date(iso));

// The same as a day of the week and a time, in a time zone.
export function dueTime(iso, timeZone) {
  const shown = { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone };
  return new Intl.DateTimeFormat(undefined, shown).format(new Date(iso));
}

// Lines of at most `width` characters, broken between words; every line has the indent of the first.
export function wrapped(text, width) {
  const indent = /^ */.exec(text)[0];
  const lines = [];
  for (const word of text.trim().split(" ")) {
    const line = lines.at(-1);
    if (line === undefined || line.length + 1 + word.length > width) lines.push(indent + word);
    else lines[lines.length - 1] = `${line} ${word}`;
  }
  return lines;
}

// An argument as it could be typed.
export const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
