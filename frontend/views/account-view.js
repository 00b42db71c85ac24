// The account in the header: its name, and how the page goes from one account to another.

import { errorText, revokeToken, tokenForTicket } from "../app/api.js";
import { lasting, thisTab } from "../app/storage.js";
import { element } from "../components/element.js";

export class AccountView {
  // `page` has: session, terminal, history, projects, panels, password, showNotice(text), focusPrompt(),
  // onLogOut(token)
  constructor(page) {
    this.page = page;
    this.user = null;
    this.expired = false; // its login has ended, and the page waits for another one
    element("log-out").addEventListener("click", () => this.logOut());
  }

  // The server says who this is.
  onReady({ user = null, profile }) {
    if (this.user !== null && user !== this.user) this.forget();
    this.user = user;
    element("who").textContent = user === null ? "" : `${user} · ${profile}`;
    element("who").title = user === null ? "" : `Logged in as ${user} with the profile ${profile}`;
    this.show(user !== null);
    this.page.projects.setUser(user);
  }

  show(loggedIn) {
    for (const id of ["who", "log-out", "work"]) element(id).hidden = !loggedIn;
    element("log-in").hidden = loggedIn;
    this.page.password.show(loggedIn);
  }

  // Continue as the account of a new token; a token that it replaces is revoked.
  logIn(token) {
    const { session, history, showNotice, focusPrompt } = this.page;
    if (session.login !== null) {
      revokeToken(session.login).catch(() => {});
      this.reset();
    }
    this.expired = false;
    showNotice("");
    history.use(thisTab);
    session.logIn(token);
    focusPrompt();
  }

  // The screen stays, for the same account to go on.
  expire() {
    this.expired = true;
    this.page.panels.close();
    this.page.projects.close();
    return this.user;
  }

  // The login that was offered was declined.
  abandon() {
    if (!this.expired) return;
    this.reset();
    this.page.session.logOut();
    this.page.showNotice("You are logged out.");
  }

  // False when the link has expired or has been used.
  async logInByLink(ticket) {
    try {
      this.logIn(await tokenForTicket(ticket));
      this.page.showNotice("This link works once. Set a password to log in without one.");
      return true;
    } catch (error) {
      this.page.showNotice(errorText(error));
      return false;
    }
  }

  // Nothing of an account stays on the page.
  reset() {
    this.forget();
    this.page.history.use(lasting);
    this.show(false);
  }

  forget() {
    const { terminal, history, projects, panels, session } = this.page;
    this.user = null;
    this.expired = false;
    terminal.clear();
    session.forget();
    panels.close();
    projects.reset();
    thisTab.remove("history");
    history.use(thisTab);
  }

  async logOut() {
    const { session, showNotice, focusPrompt } = this.page;
    const { login, busy } = session;
    this.page.onLogOut(login);
    this.reset();
    session.logOut();
    showNotice(`You are logged out.${busy ? " The running command continues." : ""}`);
    focusPrompt();
    if (login.startsWith("gp_")) return; // an API token belongs to a program and stays valid
    try {
      await revokeToken(login);
    } catch (error) {
      // A token that is no longer valid needs no revocation.
      if (error.status === 401) return;
      showNotice(`You are logged out here, but the server did not revoke the token. ${errorText(error)}`);
    }
  }
}
