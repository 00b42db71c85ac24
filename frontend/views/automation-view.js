// What the account has running by itself: schedules, notifications and hooks, one kind at a time.

import { addThing, changeThing, listThings } from "../app/api.js";
import { create } from "../components/element.js";
import { form } from "../components/fields.js";
import { action, list } from "../components/row.js";
import { secretBox } from "../components/secret.js";
import { hooks } from "./hook-kind.js";
import { notifications } from "./notification-kind.js";
import { PanelView } from "./panel-view.js";
import { places, targetText } from "./places.js";
import { schedules } from "./schedule-kind.js";

// Each kind has: title, one, about, rowOf(thing, view), fields(places, thing to change), bodyOf(values, form) and, where it has a
// secret, secretText(thing) and perhaps tryOut(thing, view), which is shown while the secret is. `setUp(form)` may add what depends on what is entered.
const KINDS = { schedules, notifications, hooks };

export class AutomationView extends PanelView {
  constructor(page) {
    super("automation", page, [kindsField()]);
    this.part("kinds").addEventListener("change", () => this.showList());
  }

  get kindName() {
    return this.part("kinds").querySelector(":checked").value;
  }

  get kind() {
    return KINDS[this.kindName];
  }

  get token() {
    return this.page.token();
  }

  onOpen() {
    this.showList();
  }

  // Nothing is there to be pressed before all of it is: a button that is replaced under the pointer is never clicked.
  showList(note = "") {
    const { kind, kindName, token } = this;
    this.show();
    this.ask(() => Promise.all([listThings(token, kindName), places(token)]), ([things, found]) => {
      this.places = found;
      const rows = things.map((thing) => kind.rowOf(thing, this));
      this.show([this.head(kind), rows.length ? list(rows) : create("p", kind.about, { className: "aside" })]);
      this.note(note);
    });
  }

  head(kind) {
    const head = create("div", "", { className: "head" });
    head.append(create("h3", kind.title), action({ text: `New ${kind.one}`, label: `New ${kind.one}`, run: () => this.showNew(kind) }));
    return head;
  }

  showNew(kind) {
    const add = (body) => this.ask(() => addThing(this.token, this.kindName, body), (added) => this.added(kind, added));
    this.showForm(kind, `New ${kind.one}`, "Create", add);
  }

  showForm(kind, title, send, run, thing) {
    const made = form({ fields: kind.fields(this.places, thing), send, run: (values) => run(kind.bodyOf(values, made)) });
    kind.setUp?.(made);
    this.showPart(title, [made]);
    made.querySelector("input").focus();
  }

  added(kind, thing) {
    if (thing.secret) this.showSecret(kind, thing);
    else this.showList();
  }

  showSecret(kind, thing) {
    const onDone = () => this.showList();
    const box = secretBox({ text: kind.secretText(thing), secret: thing.secret, onDone });
    this.show([box, ...(kind.tryOut?.(thing, this) ?? [])], onDone);
  }

  // Called by the kinds.

  // What a list says of where something runs, and whose it is.
  placeAndOwner({ target, owner }) {
    return [target && targetText(target, this.places), this.page.user() !== owner && owner];
  }

  // A form with what a thing is now; only what was changed in it is sent.
  showEdit(thing) {
    const { kindName } = this;
    const changed = (body) => Object.fromEntries(Object.entries(body).filter(([name, value]) => value !== thing[name]));
    const save = (body) => this.change(() => changeThing(this.token, kindName, thing.id, changed(body)), ({ name }) => `${name} has been changed.`);
    this.showForm(this.kind, `Edit ${thing.name}`, "Save", save, thing);
  }

  // Something was done with a thing, and the list shows what it is now.
  change(request, note = () => "") {
    this.ask(request, (answer) => this.showList(note(answer)));
  }

  // Something else than the list, with a way back to it.
  showPart(title, nodes) {
    this.show([create("h3", title), ...nodes], () => this.showList());
  }

  openExecution(id) {
    this.leave(this.page.replay(id));
  }
}

// The choice of one kind.
function kindsField() {
  const place = create("fieldset", "", { id: "automation-kinds", className: "kinds" });
  place.append(create("legend", "Show", { className: "visually-hidden" }));
  for (const [value, { title }] of Object.entries(KINDS)) {
    const label = create("label", "");
    const checked = value === "schedules";
    label.append(create("input", "", { type: "radio", name: "automation-kind", value, checked }), create("span", title));
    place.append(label);
  }
  return place;
}
