// A wide dialog whose content is replaced: lists, forms, and what the server answers.

import { errorText } from "../app/api.js";
import { element } from "../components/element.js";

export class PanelView {
  // The elements are NAME-dialog, NAME-close, NAME-back, NAME-problem, NAME-body and NAME-note.
  constructor(name) {
    this.name = name;
    this.requests = 0; // only the answer to the last one is shown
    this.part("close").addEventListener("click", () => this.close());
    this.part("back").addEventListener("click", () => this.goBack());
    // Nothing of an account stays on the page, nor does an answer that arrives too late.
    this.part("dialog").addEventListener("close", () => this.show());
  }

  part(name) {
    return element(`${this.name}-${name}`);
  }

  open() {
    this.part("dialog").showModal();
  }

  close() {
    this.part("dialog").close();
  }

  // Replace the content; `back` is called by the button, which is there while one is given.
  show(nodes = [], back = null) {
    this.requests += 1;
    this.goBack = back;
    this.part("back").hidden = back === null;
    this.part("body").replaceChildren(...nodes);
    this.part("body").scrollTop = 0;
    this.note("");
    this.problem("");
  }

  note(text) {
    this.part("note").textContent = text;
  }

  problem(text) {
    this.part("problem").textContent = text;
  }

  // Ask the server, and use the answer unless something else is shown by then.
  async ask(request, use) {
    this.requests += 1;
    const number = this.requests;
    this.problem("");
    this.note("Loading …");
    try {
      const answer = await request();
      if (number !== this.requests) return;
      this.note("");
      await use(answer);
    } catch (error) {
      const text = errorText(error);
      if (number !== this.requests) return;
      this.note("");
      this.problem(text);
    }
  }
}
