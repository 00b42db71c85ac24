// An entry of the history: the command, what came of it, and what can be done with it.

import { duration, moment } from "./format.js";
import { row } from "./row.js";

export const STATUS = {
  queued: "Queued",
  running: "Running",
  succeeded: "Succeeded",
  failed: "Failed",
  denied: "Refused",
  cancelled: "Cancelled",
  timed_out: "Timed out",
  lost: "Lost",
};
export const MARKS = { queued: "○", running: "●", succeeded: "✓" };

// `on` has: replay(entry), reuse(entry), save(entry)
export function historyRow(entry, on) {
  const { command, status } = entry;
  return row({ status, mark: MARKS[status] ?? "✕", title: command, facts: factsText(entry), actions: actions(entry, on) });
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
  // A refused command has no recording, one that was only checked has no output.
  const recorded = status !== "denied";
  return [
    recorded && { text: "Open", label: `Open ${command}`, run: () => on.replay(entry) },
    { text: "Use again", label: `Use again ${command}`, run: () => on.reuse(entry) },
    recorded && !dryRun && { text: "Save", label: `Save the output of ${command}`, run: () => on.save(entry) },
  ];
}
