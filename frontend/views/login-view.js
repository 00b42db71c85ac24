// The two dialogs that ask who this is: for an access token, and for a name and a password.

import { accountsOnly, tokenForPassword } from "../app/api.js";
import { anyDialogOpen, element } from "../components/element.js";
import { DialogForm } from "./dialog-form.js";

export class LoginView {
  // `on` has: token(token) for one that was typed in, login(token) for one that a password gave
  constructor(on) {
    this.on = on;
    this.form = new DialogForm("login", () => this.logIn());
    element("log-in").addEventListener("click", () => this.askPassword());
    element("token-login").addEventListener("click", () => this.askPassword());
    element("login-token").addEventListener("click", () => this.enterToken());
    element("token-form").addEventListener("submit", () => {
      on.token(element("token").value);
      element("token").value = "";
    });
  }

  // A server that admits no visitors has no token for them: an account is required, or the token of one.
  async askToken(problem) {
    element("token-problem").textContent = problem;
    const accounts = await accountsOnly();
    element("login-token").hidden = !accounts;
    if (anyDialogOpen()) return;
    if (accounts && !problem) this.askPassword();
    else element("token-dialog").showModal();
  }

  // The server has said who this is.
  close() {
    element("token-dialog").close();
    this.form.close();
  }

  askPassword() {
    element("token-dialog").close();
    this.form.open();
  }

  // The login of this account has ended.
  askAgain(name, problem) {
    element("login-name").value = name ?? "";
    if (!element("login-dialog").open) this.askPassword();
    element("login-problem").textContent = problem;
    element(name ? "login-password" : "login-name").focus();
  }

  enterToken() {
    this.form.close();
    element("token-dialog").showModal();
  }

  async logIn() {
    const [name, password] = ["login-name", "login-password"].map(element);
    try {
      const token = await tokenForPassword(name.value.trim(), password.value);
      this.form.close();
      this.on.login(token);
    } catch (error) {
      password.focus();
      throw error;
    } finally {
      password.value = "";
    }
  }
}
