// What the account has running by itself: schedules, notifications and hooks, one kind at a time.

import { addThing, listThings } from "../app/api.js";
import { create, element } from "../components/element.js";
import { form } from "../components/fields.js";
import { action, list } from "../components/row.js";
import { secretBox } from "../components/secret.js";
import { hooks } from "./hook-kind.js";
import { notifications } from "./notification-kind.js";
import { PanelView } from "./panel-view.js";
import { places, targetText } from "./places.js";
import { schedules } from "./schedule-kind.js";

// Each kind has: title, one, about, rowOf(thing, view), fields(places, things), bodyOf(values, form) and, where it has a
// secret, secretText(thing) and perhaps tryOut(thing, view), which is shown while the secret is. `setUp(form)` may add what depends on what is entered.
const KINDS = { schedules, notifications, hooks };

export class AutomationView extends PanelView {
  // `page` has: token(), user(), replay(id), which returns a problem as text, focusPrompt()
  constructor(page) {
    super("automation");
    this.page = page;
    this.places = { projects: [], django: [] };
    element("automation").addEventListener("click", () => this.open());
    element("automation-kinds").addEventListener("change", () => this.showList());
  }

  get kindName() {
    return element("automation-kinds").querySelector(":checked").value;
  }

  get kind() {
    return KINDS[this.kindName];
  }

  get token() {
    return this.page.token();
  }

  open() {
    super.open();
    this.showList();
  }

  showList(note = "") {
    const { kind, kindName, token } = this;
    this.show([this.head(kind)]);
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
    const add = (values) => addThing(this.token, this.kindName, kind.bodyOf(values, made));
    const run = (values) => this.ask(() => add(values), (added) => this.added(kind, added));
    const made = form({ fields: kind.fields(this.places), send: "Create", run });
    kind.setUp?.(made);
    this.showPart(`New ${kind.one}`, [made]);
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

  // Something was done with a thing, and the list shows what it is now.
  change(request, note = () => "") {
    this.ask(request, (answer) => this.showList(note(answer)));
  }

  // Something else than the list, with a way back to it.
  showPart(title, nodes) {
    this.show([create("h3", title), ...nodes], () => this.showList());
  }

  openExecution(id) {
    const problem = this.page.replay(id);
    if (problem) this.problem(problem);
    else this.close();
  }
}
