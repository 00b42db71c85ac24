// Schedules, as the view of what runs by itself shows them.

import { actOn, changeThing, deleteThing, partsOf } from "../app/api.js";
import { field } from "../components/fields.js";
import { dueTime, moment } from "../components/format.js";
import { list, row } from "../components/row.js";
import { create } from "../components/element.js";
import { bodyOfPlace, placeField } from "./places.js";

const MISSED = [["run_once", "run once for all of them"], ["skip", "skip them"]];
const OVERLAP = [["skip", "skip them"], ["run_once", "run once, afterwards"], ["queue", "run each, one after the other"]];
const MARKS = { succeeded: "✓", running: "●", starting: "●", waiting: "○", skipped: "–" };
const LASTING = { succeeded: "succeeded", running: "running", starting: "running" };

export const schedules = {
  title: "Schedules",
  one: "schedule",
  about: "A schedule runs a command at the times of a cron expression, as your account.",

  rowOf(schedule, view) {
    const { id, name, paused, next } = schedule;
    const change = (body) => view.change(() => changeThing(view.token, "schedules", id, body));
    return row({
      status: paused ? "paused" : "running",
      mark: paused ? "‖" : "●",
      title: `${name}: ${schedule.command}`,
      facts: [
        [schedule.cron, schedule.zone, ...view.placeAndOwner(schedule)].filter(Boolean).join(" · "),
        paused ? "Paused" : `Next: ${next.map((due) => dueTime(due, schedule.zone)).join(" · ")}`,
      ],
      actions: [
        { text: "Run now", label: `Run ${name} now`, run: () => view.change(() => actOn(view.token, "schedules", id, "run"), () => `${name} has been started.`) },
        paused
          ? { text: "Resume", label: `Resume ${name}`, run: () => change({ paused: false }) }
          : { text: "Pause", label: `Pause ${name}`, run: () => change({ paused: true }) },
        { text: "Edit", label: `Edit ${name}`, run: () => view.showEdit(schedule) },
        { text: "Runs", label: `Runs of ${name}`, run: () => showRuns(schedule, view) },
        { text: "Delete", label: `Delete ${name}`, confirm: "Delete?", run: () => view.change(() => deleteThing(view.token, "schedules", id)) },
      ],
    });
  },

  // `old` are the values of a schedule that is changed.
  fields: (places, old = {}) => [
    field({ name: "name", label: "Name", required: true, maxLength: 100, value: old.name }),
    field({ name: "command", label: "Command", required: true, placeholder: "clearsessions", value: old.command }),
    field({ ...placeField(places, old.target) }),
    field({ name: "cron", label: "When", required: true, maxLength: 100, value: old.cron, placeholder: "30 2 * * *", hint: "Minute, hour, day of month, month, day of week: 30\u00a02\u00a0*\u00a0*\u00a0* is every night at half past two." }),
    field({ name: "zone", label: "Time zone", required: true, value: old.zone ?? (Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC") }),
    field({ name: "missed", label: "Times that no server kept", type: "select", options: MISSED, value: old.missed }),
    field({ name: "overlap", label: "Times while it still runs", type: "select", options: OVERLAP, value: old.overlap }),
    field({ name: "retries", label: "Further attempts after a failure", type: "number", value: old.retries ?? 0, min: 0, max: 10 }),
  ],

  bodyOf: ({ place, retries, ...values }) => ({ ...values, ...bodyOfPlace(place), retries: Number(retries) }),
};

function showRuns({ id, name }, view) {
  view.ask(() => partsOf(view.token, "schedules", id, "runs"), ({ runs }) => {
    const none = create("p", "It has not run yet.", { className: "aside" });
    view.showPart(`Runs of ${name}`, [runs.length ? list(runs.map((run) => runRow(run, view))) : none]);
  });
}

function runRow({ due_at: due, attempt, status, manual, execution, reason }, view) {
  return row({
    status: LASTING[status] ?? status,
    mark: MARKS[status] ?? "✕",
    title: moment(due),
    facts: [
      [status.replace("_", " "), attempt && `attempt ${attempt + 1}`, manual && "requested"].filter(Boolean).join(" · "),
      reason,
    ],
    actions: [execution && status !== "denied" && { text: "Open", label: `Open the run of ${moment(due)}`, run: () => view.openExecution(execution) }],
  });
}
