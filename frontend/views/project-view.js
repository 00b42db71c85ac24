// The projects of the account: the one that commands run in, and the dialog that creates one.

import { createProject, errorText, listProjects } from "../app/api.js";
import { thisTab } from "../app/storage.js";
import { element } from "../components/element.js";
import { DialogForm } from "./dialog-form.js";

export class ProjectView {
  // `page` has: token() of the account, or null; showNotice(text), focusPrompt()
  constructor(page) {
    this.page = page;
    this.user = null;
    this.form = new DialogForm("project", () => this.create());
    element("project").addEventListener("change", () => thisTab.set("project", this.id));
    element("project-new").addEventListener("click", () => {
      element("project-name").value = "";
      this.form.open();
    });
  }

  // Empty while none is selected.
  get id() {
    return element("project").value;
  }

  get name() {
    return this.id && element("project").selectedOptions[0].text;
  }

  setUser(user) {
    this.user = user;
    return this.load();
  }

  // An account without projects has only its own workspace, and nothing to select.
  async load() {
    const { user } = this;
    if (user === null || this.page.token() === null) return;
    try {
      const projects = await listProjects(this.page.token());
      if (user === this.user) this.show(projects);
    } catch (error) {
      this.page.showNotice(`Your projects could not be loaded. ${errorText(error)}`);
    }
  }

  show(projects) {
    const options = projects.map(({ id, name, owner }) => new Option(owner === this.user ? name : `${name} (${owner})`, id));
    element("project").replaceChildren(new Option("none", ""), ...options);
    const stored = thisTab.get("project", "");
    element("project").value = projects.some(({ id }) => id === stored) ? stored : "";
    element("project-label").hidden = projects.length === 0;
  }

  // The new project is selected.
  async create() {
    const { id } = await createProject(this.page.token(), element("project-name").value.trim());
    thisTab.set("project", id);
    await this.load();
    this.form.close();
    this.page.focusPrompt();
  }

  close() {
    this.form.close();
  }

  // Nothing of an account stays on the page.
  reset() {
    this.user = null;
    this.close();
    thisTab.remove("project");
    element("project").replaceChildren();
    element("project-label").hidden = true;
  }
}
