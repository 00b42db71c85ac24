// Who is logged in: the form, the name in the header, the projects, the way out. The token is the session's.

import { makeProject, projects, revoke, tokenOfPassword, tokenOfTicket, wordsOf } from "./api.js";
import { lasting, thisTab } from "./storage.js";

const element = (id) => document.getElementById(id);

export class Account {
  // `page` has: session, screen, history, notice(text), focus()
  constructor(page) {
    this.page = page;
    this.user = null;
    element("log-in").addEventListener("click", () => this.ask());
    element("token-login").addEventListener("click", () => this.ask());
    element("log-out").addEventListener("click", () => this.logOut());
    element("login-close").addEventListener("click", () => element("login-dialog").close());
    element("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.logIn();
    });
    element("project").addEventListener("change", () => thisTab.set("project", element("project").value));
    element("project-new").addEventListener("click", () => this.askName());
    element("project-close").addEventListener("click", () => element("project-dialog").close());
    element("project-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.makeProject();
    });
  }

  // The id of the project that was chosen, empty for none.
  get project() {
    return this.user === null ? "" : element("project").value;
  }

  get projectName() {
    return this.project && element("project").selectedOptions[0].text;
  }

  // From the session: the server says who this is.
  ready({ user = null, profile }) {
    this.user = user;
    element("who").textContent = user === null ? "" : `${user} · ${profile}`;
    element("who").title = user === null ? "" : `Logged in as ${user}, with the profile ${profile}`;
    this.show();
    this.offerProjects();
  }

  show() {
    const known = this.user !== null;
    element("who").hidden = !known;
    element("log-out").hidden = !known;
    element("log-in").hidden = known;
    element("work").hidden = !known;
    if (!known) element("project-label").hidden = true;
  }

  // The projects of the account, to run commands in; without any, its own place is the only one.
  async offerProjects() {
    const { user } = this;
    if (user === null || this.page.session.login === null) return;
    let found;
    try {
      found = await projects(this.page.session.login);
    } catch (error) {
      this.page.notice(`Your projects could not be read. ${wordsOf(error)}`);
      return;
    }
    if (user !== this.user) return;
    const names = found.map(({ id, name, owner }) => [id, owner === user ? name : `${name} (${owner})`]);
    element("project").replaceChildren(...[["", "none"], ...names].map(([id, name]) => new Option(name, id)));
    const kept = thisTab.get("project", "");
    element("project").value = found.some(({ id }) => id === kept) ? kept : "";
    element("project-label").hidden = found.length === 0;
  }

  askName() {
    element("project-problem").textContent = "";
    element("project-name").value = "";
    element("project-dialog").showModal();
  }

  // Commands run in it from now on.
  async makeProject() {
    const button = element("project-send");
    element("project-problem").textContent = "";
    button.disabled = true;
    try {
      const { id } = await makeProject(this.page.session.login, element("project-name").value.trim());
      thisTab.set("project", id);
      await this.offerProjects();
      element("project-dialog").close();
      this.page.focus();
    } catch (error) {
      element("project-problem").textContent = wordsOf(error);
    } finally {
      button.disabled = false;
    }
  }

  ask() {
    element("token-dialog").close();
    element("login-problem").textContent = "";
    element("login-dialog").showModal();
  }

  async logIn() {
    const [name, password, button] = ["login-name", "login-password", "login-send"].map(element);
    element("login-problem").textContent = "";
    button.disabled = true;
    try {
      this.enter(await tokenOfPassword(name.value.trim(), password.value));
      element("login-dialog").close();
      this.page.focus();
    } catch (error) {
      element("login-problem").textContent = wordsOf(error);
      password.focus();
    } finally {
      password.value = "";
      button.disabled = false;
    }
  }

  // By the ticket of a login link; false when it is not good any more.
  async logInBy(ticket) {
    try {
      this.enter(await tokenOfTicket(ticket));
      return true;
    } catch (error) {
      this.page.notice(wordsOf(error));
      return false;
    }
  }

  // Go on as the account of a new token; one that it replaces is ended.
  enter(token) {
    const { session, history, notice, focus } = this.page;
    if (session.login !== null) {
      revoke(session.login).catch(() => {});
      this.leave();
    }
    notice("");
    history.use(thisTab);
    session.become(token);
    focus();
  }

  // Nothing of an account stays on the page.
  leave() {
    this.user = null;
    this.page.screen.clear();
    for (const id of ["past-dialog", "project-dialog"]) element(id).close();
    for (const key of ["history", "project"]) thisTab.remove(key);
    this.page.history.use(lasting);
    element("project").replaceChildren();
    this.show();
  }

  async logOut() {
    const { session, notice, focus } = this.page;
    const { login, busy } = session;
    this.leave();
    session.become(null);
    notice(`You are logged out.${busy ? " The command that ran is left to itself." : ""}`);
    focus();
    if (login.startsWith("gp_")) return; // that of a program goes on
    try {
      await revoke(login);
    } catch (error) {
      // A token that is not good any more needs no end.
      if (error.status !== 401) notice(`You are logged out here, but the server did not hear of it. ${wordsOf(error)}`);
    }
  }
}
