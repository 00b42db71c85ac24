// The Django projects: their runners and keys, their commands, and a form for the arguments of each.

import { changeKey, createKey, listCommands, listDjango, listProjects, revokeKey } from "../app/api.js";
import { create } from "../components/element.js";
import { field, form, valuesOf } from "../components/fields.js";
import { moment, quoted } from "../components/format.js";
import { action, list, row } from "../components/row.js";
import { secretBox } from "../components/secret.js";
import { chooser, PanelView } from "./panel-view.js";

const SEARCH_AFTER = 200; // ms without a key
const MARKS = { online: "●", offline: "○", suspended: "‖", revoked: "✕" };
const NAMED = /^[A-Za-z0-9._-]{1,64}$/; // what can follow @ in a line
const KEY_USE =
  "Set it as API_KEY in the settings of the Django project. Only a digest of it is stored here, so it cannot be shown again.";

export class DjangoView extends PanelView {
  constructor(page) {
    super("django", page, [chooser({ id: "django-project", text: "Project", label: "Django project" })]);
    this.projects = [];
    this.part("project").addEventListener("change", () => this.showProject());
  }

  onOpen() {
    this.load();
  }

  get project() {
    return this.projects.find(({ project_id: id }) => id === this.part("project").value);
  }

  // Projects with runners, and those that could have one.
  load() {
    const token = this.page.token();
    this.ask(() => Promise.all([listDjango(token), listProjects(token)]), ([django, all]) => {
      const others = all.filter(({ id }) => !django.some(({ project_id: known }) => known === id));
      this.projects = [...django, ...others.map(({ id, name }) => ({ project_id: id, name, runners: [], manages: true }))];
      this.showProjects(django.length);
      this.showProject();
    });
  }

  showProjects(withRunners) {
    const choice = this.part("project");
    const before = choice.value;
    const options = this.projects.map(({ name, project_id: id }, at) => new Option(at < withRunners ? name : `${name} (no runner)`, id));
    choice.replaceChildren(...options);
    if (this.projects.some(({ project_id: id }) => id === before)) choice.value = before;
    choice.parentElement.hidden = this.projects.length === 0;
  }

  showProject() {
    const { project } = this;
    if (!project) {
      this.show([create("p", "Create a project first: New project, next to the list of projects.", { className: "aside" })]);
      return;
    }
    this.commands = create("div", "");
    this.show([...this.runnersOf(project), ...this.searchOf(project)]);
    if (project.runners.length) this.search(project, "");
  }

  // Runners and their keys.

  runnersOf(project) {
    const head = create("div", "", { className: "head" });
    head.append(create("h3", "Runners"));
    if (project.manages) {
      head.append(action({ text: "New key", label: `New key for a runner of ${project.name}`, run: () => this.showNewKey(project) }));
    }
    const none = create("p", "No runner yet. A runner in the Django project needs a key; it then lists its commands here.", { className: "aside" });
    const current = project.runners.filter(({ state }) => state !== "revoked");
    return [head, current.length ? list(current.map((runner) => this.runnerRow(project, runner))) : none];
  }

  runnerRow(project, runner) {
    const { name, state, suspended, last_seen: seen, expires_at: ends } = runner;
    const versions = [["runner", "runner_version"], ["Django", "django_version"], ["Python", "python_version"]];
    return row({
      status: state,
      mark: MARKS[state],
      title: name,
      facts: [
        [
          state[0].toUpperCase() + state.slice(1) + (suspended ? `: ${suspended}` : ""),
          seen ? `seen ${moment(seen)}` : "never seen",
          ...versions.filter(([, key]) => runner[key]).map(([what, key]) => `${what} ${runner[key]}`),
          ends && `key valid until ${moment(ends)}`,
        ].filter(Boolean).join(" · "),
      ],
      actions: project.manages ? this.runnerActions(project, runner) : [],
    });
  }

  runnerActions(project, runner) {
    const { id, name, suspended } = runner;
    const change = (what, body) => () => this.change(() => changeKey(this.page.token(), project.project_id, id, what, body));
    return [
      suspended === null
        ? { text: "Suspend", label: `Suspend ${name}`, run: () => this.showSuspend(project, runner) }
        : { text: "Resume", label: `Resume ${name}`, run: change("resume", {}) },
      {
        text: "Rotate",
        label: `Rotate the key of ${name}`,
        confirm: "Rotate?",
        run: () => this.newSecret(() => changeKey(this.page.token(), project.project_id, id, "rotate", {}), "The old key is valid for another day. "),
      },
      {
        text: "Revoke",
        label: `Revoke the key of ${name}`,
        confirm: "Revoke?",
        run: () => this.change(() => revokeKey(this.page.token(), project.project_id, id)),
      },
    ];
  }

  change(request) {
    this.ask(request, () => this.load());
  }

  newSecret(request, before = "") {
    const done = () => this.load();
    this.ask(request, ({ secret }) => this.show([secretBox({ text: before + KEY_USE, secret, onDone: done })], done));
  }

  showNewKey(project) {
    const name = field({ name: "name", label: "Name of the runner", value: "production", required: true, maxLength: 64 });
    const run = ({ name: label }) => this.newSecret(() => createKey(this.page.token(), project.project_id, label));
    this.showForm(`New key for ${project.name}`, form({ fields: [name], send: "Create", run }));
  }

  showSuspend(project, runner) {
    const hint = "It gets no more executions, and is shown this text. What it runs goes on.";
    const reason = field({ name: "reason", label: "Reason", required: true, maxLength: 500, hint });
    const run = (values) => this.change(() => changeKey(this.page.token(), project.project_id, runner.id, "suspend", values));
    this.showForm(`Suspend ${runner.name}`, form({ fields: [reason], send: "Suspend", run }));
  }

  showForm(title, made, intro = []) {
    this.show([create("h3", title), ...intro, made], () => this.showProject());
    made.querySelector("input, select, button")?.focus();
  }

  // Commands.

  searchOf(project) {
    if (!project.runners.length) return [];
    const search = create("input", "", { type: "search", placeholder: "Search commands and their help", ariaLabel: "Search commands", autocomplete: "off", spellcheck: false });
    search.addEventListener("input", () => {
      clearTimeout(this.searching);
      this.searching = setTimeout(() => search.isConnected && this.search(project, search.value), SEARCH_AFTER);
    });
    const head = create("div", "", { className: "head" });
    head.append(create("h3", "Commands"), search);
    return [head, this.commands];
  }

  search(project, text) {
    this.ask(() => listCommands(this.page.token(), project.project_id, text), ({ commands, total }) => {
      this.commands.replaceChildren(list(commands.map((each) => this.commandRow(project, each))));
      if (total === 0) this.note("The runners have not listed their commands yet.");
      else if (commands.length === 0) this.note(`None of ${total} commands matches.`);
      else this.note(commands.length < total ? `${commands.length} of ${total} commands` : "");
    });
  }

  commandRow(project, command) {
    const { name, app_label: app, summary, allowed } = command;
    const open = { text: "Open", label: `Open ${name}`, run: () => this.showCommand(project, command) };
    return row({
      status: allowed ? "allowed" : "denied",
      mark: allowed ? "›" : "✕",
      title: name,
      facts: [[summary, app].filter(Boolean).join(" · "), !allowed && "Not allowed for this project."],
      actions: [allowed && open],
    });
  }

  showCommand(project, command) {
    const [required, others] = [true, false].map((is) => command.fields.filter((each) => each.required === is));
    const rest = field({ name: "rest", label: command.fields.length ? "Other arguments" : "Arguments", hint: "As they are typed in a shell." });
    const fields = [...required, ...others].map((each) => argumentField(each));
    const line = (values) => `@${addressOf(project)} ${[command.name, ...words(command.fields, values)].join(" ")}`;
    const check = create("button", "Check", { type: "button", title: "Check the command without running it" });
    const made = form({ fields: [...fields, rest], send: "Run", run: (values) => this.leave(this.page.run(line(values))), more: [check] });
    check.addEventListener("click", () => made.reportValidity() && this.leave(this.page.check(line(valuesOf(made)))));
    const preview = create("code", "", { className: "preview", ariaLabel: "The command line" });
    const update = () => (preview.textContent = line(valuesOf(made)));
    made.addEventListener("input", update);
    made.lastChild.before(preview);
    update();
    this.showForm(command.name, made, [create("p", command.summary, { className: "aside" }), ...fullHelp(command.help_text)]);
  }
}

// A project is known by its name, or by its id where that cannot be typed.
const addressOf = ({ name, project_id: id }) => (NAMED.test(name) ? name : id);

function argumentField({ name, flag, takes_value: takesValue, required, choices, help, many }) {
  const hint = [help, many && "Several, with blanks between."].filter(Boolean).join(" ");
  const shared = { name: flag || name, label: flag || name, hint };
  if (!takesValue) return field({ ...shared, type: "checkbox" });
  if (!choices.length) return field({ ...shared, required });
  const options = [...(required ? [] : [["", "not set"]]), ...choices.map((each) => [each, each])];
  return field({ ...shared, required, type: "select", options });
}

// The words of a line, each as it could be typed. What has no flag comes first, since some options take several words.
function words(fields, values) {
  const typed = (text, many) => (many ? text.split(/\s+/) : [text]).map(quoted);
  const plain = fields.filter(({ flag }) => !flag).sort((one, other) => other.required - one.required);
  const found = plain.flatMap(({ name, many }) => (values[name] ? typed(values[name], many) : []));
  for (const { flag, takes_value: takesValue, many } of fields.filter((each) => each.flag)) {
    if (values[flag] === true) found.push(flag);
    else if (takesValue && values[flag]) found.push(flag, ...typed(values[flag], many));
  }
  return values.rest ? [...found, values.rest] : found;
}

function fullHelp(text) {
  if (!text) return [];
  const details = create("details", "");
  details.append(create("summary", "Help"), create("pre", text));
  return [details];
}
