// A dialog with a form that asks the server: it closes when that worked, and otherwise shows the problem.

import { errorText } from "../app/api.js";
import { element } from "../components/element.js";

export class DialogForm {
  // The elements are NAME-dialog, NAME-form, NAME-problem, NAME-send and NAME-close.
  constructor(name, send) {
    this.name = name;
    this.send = send;
    this.part("close").addEventListener("click", () => this.close());
    this.part("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
  }

  part(name) {
    return element(`${this.name}-${name}`);
  }

  open() {
    this.part("problem").textContent = "";
    this.part("dialog").showModal();
  }

  close() {
    this.part("dialog").close();
  }

  async submit() {
    this.part("problem").textContent = "";
    this.part("send").disabled = true;
    try {
      await this.send();
    } catch (error) {
      this.part("problem").textContent = errorText(error);
    } finally {
      this.part("send").disabled = false;
    }
  }
}
