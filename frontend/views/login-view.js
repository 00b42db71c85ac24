// The two dialogs that ask who this is: for an access token, and for a name and a password.

import { tokenForPassword } from "../app/api.js";
import { anyDialogOpen, element } from "../components/element.js";
import { DialogForm } from "./dialog-form.js";

export class LoginView {
  // `on` has: token(token) for one that was typed in, login(token) for one that a password gave
  constructor(on) {
    this.on = on;
    this.form = new DialogForm("login", () => this.logIn());
    element("log-in").addEventListener("click", () => this.askPassword());
    element("token-login").addEventListener("click", () => this.askPassword());
    element("token-form").addEventListener("submit", () => {
      on.token(element("token").value);
      element("token").value = "";
    });
  }

  askToken(problem) {
    element("token-problem").textContent = problem;
    if (!anyDialogOpen()) element("token-dialog").showModal();
  }

  closeToken() {
    element("token-dialog").close();
  }

  askPassword() {
    this.closeToken();
    this.form.open();
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
