// The dialog in which people set their password.

import { isFreshLink, isRenewable } from "../app/access-token.js";
import { setPassword } from "../app/api.js";
import { element } from "../components/element.js";
import { DialogForm } from "./dialog-form.js";

export class PasswordView {
  // `page` has: token(), onSet(token), focusPrompt()
  constructor(page) {
    this.page = page;
    this.form = new DialogForm("password", () => this.set());
    element("password-set").addEventListener("click", () => this.open());
  }

  // An API token cannot set a password.
  show(loggedIn) {
    element("password-set").hidden = !(loggedIn && isRenewable(this.page.token()));
    if (!loggedIn) this.form.close();
  }

  open() {
    const fresh = isFreshLink(this.page.token());
    element("password-current-field").hidden = fresh;
    element("password-current").required = !fresh;
    this.form.open();
  }

  async set() {
    const [current, password] = ["password-current", "password-new"].map(element);
    const token = await setPassword(this.page.token(), current.value, password.value);
    current.value = password.value = "";
    this.form.close();
    this.page.onSet(token);
    this.page.focusPrompt();
  }
}
