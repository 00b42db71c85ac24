// The terminal protocol (docs/protocol.md): the messages that the page sends, and how it reads those of the server.

export const SUBPROTOCOL = "gatepost.v1.batch";
export const UNAUTHORIZED = 4001; // close code
export const FRAME_LIMIT = 64 * 1024; // bytes
const STDIN_PIECE = 10_000; // UTF-16 units sent at once: in JSON one takes up to 6 bytes

const HIGH_SURROGATE = /^[\ud800-\udbff]$/;

export const authMessage = (token) => ({ type: "auth", token });

// `project` may be empty; with `dryRun` the command is only checked.
export const runMessage = ({ command, id, project, dryRun }) => ({
  type: "run",
  command,
  id,
  ...(project && { project }),
  ...(dryRun && { dry_run: true }),
});

export const attachMessage = (execution, afterSeq) => ({ type: "attach", execution, after_seq: afterSeq });
export const cancelMessage = (execution) => ({ type: "cancel", execution });
export const killMessage = (execution) => ({ type: "signal", signal: "KILL", execution });
export const closeInputMessage = () => ({ type: "stdin_close" });

export const bytesOf = (text) => new TextEncoder().encode(text).length;

// A line of standard input, in as many messages as it takes. A character is never divided: the server refuses halves.
export function inputMessages(line) {
  const text = `${line}\n`.toWellFormed();
  const messages = [];
  for (let at = 0, end; at < text.length; at = end) {
    end = at + STDIN_PIECE;
    if (HIGH_SURROGATE.test(text[end - 1])) end -= 1;
    messages.push({ type: "stdin", data: text.slice(at, end) });
  }
  return messages;
}

// Control characters in texts of the server, and of other users, could drive the terminal emulator, and are shown as spaces;
// bidirectional ones could make a line look like another one, and are shown as U+FFFD.
export const plain = (text) =>
  String(text ?? "").replace(/[\x00-\x1f\x7f-\x9f]/g, " ").replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

// What a message says, without the mark that clients without a subprotocol get: the page has colours and labels of its own.
export const textOf = ({ reason, message }) => plain(reason ?? message).replace(/^[✅❌]\uFE0F? */u, "");

// The number of the last line in a message; the lines of a batch are numbered from `seq` on.
export const lastSeq = ({ seq, lines }) => seq + (lines ? lines.length - 1 : 0);
