// The terminal protocol (docs/protocol.md): the messages that the page sends, and how it reads those of the server.

export const SUBPROTOCOL = "gatepost.v1.batch";
export const UNAUTHORIZED = 4001; // close code
const STDIN_PIECE = 15_000; // characters sent at once; a frame holds 64 KiB, a character up to 4 bytes

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
export const closeInputMessage = () => ({ type: "stdin_close" });

// A line of standard input, in as many messages as it takes.
export function inputMessages(line) {
  const text = `${line}\n`;
  const messages = [];
  for (let at = 0; at < text.length; at += STDIN_PIECE) {
    messages.push({ type: "stdin", data: text.slice(at, at + STDIN_PIECE) });
  }
  return messages;
}

// Control characters in texts of the server could drive the terminal emulator; they are shown as spaces.
export const plain = (text) => String(text ?? "").replace(/[\x00-\x1f\x7f-\x9f]/g, " ");

// What a message says, without the mark that clients without a subprotocol get: the page has colours and labels of its own.
export const textOf = ({ reason, message }) => plain(reason ?? message).replace(/^[✅❌]\uFE0F? */u, "");

// The number of the last line in a message; the lines of a batch are numbered from `seq` on.
export const lastSeq = ({ seq, lines }) => seq + (lines ? lines.length - 1 : 0);
