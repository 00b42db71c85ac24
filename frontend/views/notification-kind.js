// Notifications, as the view of what runs by itself shows them.

import { actOn, deleteThing, partsOf } from "../app/api.js";
import { create } from "../components/element.js";
import { field } from "../components/fields.js";
import { moment } from "../components/format.js";
import { list, row } from "../components/row.js";
import { targetText } from "./places.js";

const EVENTS = [["failed", "failed"], ["lost", "lost"], ["recovered", "recovered"], ["ended", "any other end"]];
const MARKS = { delivered: "✓", pending: "○", dead: "✕" };

export const notifications = {
  title: "Notifications",
  one: "notification",
  about: "A notification reports how executions ended, to a webhook or by e-mail.",

  rowOf(notification, view) {
    const { id, name, subject, events, url, email, dead } = notification;
    const tested = ({ delivered, error }) => (delivered ? "The receiver has accepted the message." : `Not accepted: ${error}`);
    return row({
      status: dead ? "dead" : "running",
      mark: dead ? "✕" : "●",
      title: name,
      facts: [
        [subjectText(subject, view), events.join(", "), url ? new URL(url).host : email, ...view.placeAndOwner(notification)].filter(Boolean).join(" · "),
        dead && `${dead} ${dead === 1 ? "message was" : "messages were"} not accepted.`,
      ],
      actions: [
        { text: "Test", label: `Send a test message to ${name}`, run: () => view.change(() => actOn(view.token, "notifications", id, "test"), tested) },
        { text: "Messages", label: `Messages of ${name}`, run: () => showMessages(notification, view) },
        { text: "Delete", label: `Delete ${name}`, confirm: "Delete?", run: () => view.change(() => deleteThing(view.token, "notifications", id)) },
      ],
    });
  },

  fields: ({ projects }) => [
    field({ name: "name", label: "Name", required: true, maxLength: 100 }),
    field({ name: "to", label: "Send to", type: "select", options: [["url", "a webhook"], ["email", "an e-mail address"]] }),
    field({ name: "url", label: "URL", type: "url", required: true, maxLength: 1000, placeholder: "https://", hint: "A public address. Messages are signed with a secret that is shown once." }),
    field({ name: "email", label: "E-mail address", type: "email", required: true, maxLength: 320 }),
    field({
      name: "subject",
      label: "About",
      type: "select",
      options: [["executions", "all your executions"], ...(projects.length ? [["A project", projects.map(({ id, name }) => [`project:${id}`, name])]] : [])],
    }),
    field({ name: "events", label: "When an execution", type: "choices", options: EVENTS, value: ["failed", "lost", "recovered"] }),
  ],

  // Only one of the two addresses is there.
  setUp(form) {
    const show = () => {
      for (const name of ["url", "email"]) {
        const control = form.elements[name];
        control.disabled = form.elements.to.value !== name;
        control.parentElement.hidden = control.disabled;
      }
    };
    form.elements.to.addEventListener("change", show);
    show();
  },

  bodyOf: ({ to: _, ...values }) => values,

  secretText: ({ name }) => `The messages of ${name} are signed with this secret, as Standard Webhooks describe it. It cannot be shown again.`,
};

const subjectText = (subject, { places }) => (subject === "executions" ? "all executions" : targetText(subject, places));

function showMessages({ id, name }, view) {
  view.ask(() => partsOf(view.token, "notifications", id, "deliveries"), (messages) => {
    const none = create("p", "No message yet.", { className: "aside" });
    view.showPart(`Messages of ${name}`, [messages.length ? list(messages.map((each) => messageRow(id, each, view))) : none]);
  });
}

function messageRow(notification, message, view) {
  const { id, event, status, attempts, error, execution, created_at: created, next_at: next } = message;
  const again = () => actOn(view.token, "notifications", notification, `deliveries/${id}/repeat`);
  return row({
    status: status === "delivered" ? "succeeded" : status,
    mark: MARKS[status],
    title: event,
    facts: [
      [status, `${attempts} ${attempts === 1 ? "attempt" : "attempts"}`, moment(created), next && attempts > 0 && `again at ${moment(next)}`].filter(Boolean).join(" · "),
      error,
    ],
    actions: [
      status === "dead" && { text: "Send again", label: `Send the message of ${moment(created)} again`, run: () => view.change(again, () => "It is sent within a second or two.") },
      { text: "Open", label: `Open the execution of the message of ${moment(created)}`, run: () => view.openExecution(execution) },
    ],
  });
}
