// The panels of the account: wide dialogs that open at once. What is in one is loaded when it is opened, since most visits open none.

import { listHosts } from "../app/api.js";
import { element } from "../components/element.js";

const NOT_LOADED =
  "This part of the page could not be loaded: the server cannot be reached, or has a newer version of the page. Try again in a moment, or reload the page.";

// Each has a button in the header with its name as id; `load()` returns the class of its view.
const PANELS = {
  history: { title: "History", load: async () => (await import("./history-view.js")).HistoryView },
  hosts: { title: "Hosts", load: async () => (await import("./hosts-view.js")).HostsView },
  django: { title: "Django", load: async () => (await import("./django-view.js")).DjangoView },
  automation: { title: "Automation", load: async () => (await import("./automation-view.js")).AutomationView },
};

export class PanelsView {
  // `page` is what the views get: token(), user(), scope() -> { token, project, name }, focusPrompt(), and replay(id, when),
  // reuse(command), run(line) and check(line), which return a problem as text
  constructor(page) {
    this.page = page;
    this.views = {};
    for (const [name, { title }] of Object.entries(PANELS)) {
      document.body.append(panel(name, title));
      element(name).addEventListener("click", () => this.open(name));
    }
  }

  async open(name) {
    const dialog = element(`${name}-dialog`);
    element(`${name}-problem`).textContent = "";
    element(`${name}-note`).textContent = "Loading …";
    dialog.showModal();
    const View = await PANELS[name].load().catch(() => null);
    if (!dialog.open) return;
    element(`${name}-note`).textContent = "";
    if (View === null) {
      element(`${name}-problem`).textContent = NOT_LOADED;
      return;
    }
    this.views[name] ??= new View(this.page);
    this.views[name].onOpen();
  }

  close() {
    for (const name of Object.keys(PANELS)) element(`${name}-dialog`).close();
  }

  // An account that may use no host has no button for them.
  async setUser(user) {
    if (user !== this.user) element("hosts").hidden = true;
    this.user = user;
    const token = this.page.token();
    if (user === null || token === null) return;
    const hosts = await listHosts(token).catch(() => []);
    if (user === this.user) element("hosts").hidden = hosts.length === 0;
  }
}

// The elements are NAME-dialog, NAME-top with NAME-back, NAME-title and NAME-close, NAME-problem, NAME-body and NAME-note.
function panel(name, title) {
  const dialog = element("panel").content.firstElementChild.cloneNode(true);
  dialog.id = `${name}-dialog`;
  dialog.setAttribute("aria-labelledby", `${name}-title`);
  const parts = {};
  for (const part of dialog.querySelectorAll("[data-part]")) {
    part.id = `${name}-${part.dataset.part}`;
    parts[part.dataset.part] = part;
  }
  parts.title.textContent = title;
  parts.close.addEventListener("click", () => dialog.close());
  return dialog;
}
