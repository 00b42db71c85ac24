// An entry of the history: the command, what came of it, and what can be done with it.

import { create } from "./element.js";
import { duration, moment } from "./format.js";

const STATUS = {
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  denied: "Refused",
  cancelled: "Cancelled",
  timed_out: "Timed out",
  lost: "Lost",
};
const MARKS = { running: "●", succeeded: "✓" };

// `on` has: replay(entry), reuse(entry), save(entry)
export function historyRow(entry, on) {
  const row = create("li", "");
  row.dataset.status = entry.status;
  const mark = create("span", MARKS[entry.status] ?? "✕", { className: "mark", ariaHidden: "true" });
  const words = create("div", "", { className: "words" });
  words.append(create("code", entry.command), create("p", factsText(entry)));
  row.append(mark, words, actions(entry, on));
  return row;
}

function factsText({ status, exit_code, dry_run, duration_ms, rule, risk_level, created_at }) {
  const code = status === "failed" ? `, exit code ${exit_code}` : "";
  return [
    dry_run && status === "succeeded" ? "Checked, allowed" : (STATUS[status] ?? status) + code,
    duration_ms !== null && !dry_run && status !== "denied" && duration(duration_ms),
    rule && `${rule}, ${risk_level}`,
    moment(created_at),
  ].filter(Boolean).join(" · ");
}

function actions(entry, on) {
  const { command, status, dry_run: dryRun } = entry;
  const group = create("div", "", { className: "actions" });
  // A refused command has no recording, one that was only checked has no output.
  const recorded = status !== "denied";
  if (recorded) group.append(action("Open", `Open ${command}`, () => on.replay(entry)));
  group.append(action("Use again", `Use again ${command}`, () => on.reuse(entry)));
  if (recorded && !dryRun) group.append(action("Save", `Save the output of ${command}`, () => on.save(entry)));
  return group;
}

function action(text, label, run) {
  const button = create("button", text, { type: "button", ariaLabel: label });
  button.addEventListener("click", run);
  return button;
}
