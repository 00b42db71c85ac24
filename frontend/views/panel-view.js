// What is in a panel: lists, forms, and what the server answers. Its content is replaced, never added to.

import { errorText } from "../app/api.js";
import { create, element } from "../components/element.js";

export class PanelView {
  // The elements of the panel are there; `tools` are put next to its title.
  constructor(name, page, tools) {
    this.name = name;
    this.page = page;
    this.requests = 0; // only the answer to the last one is shown
    this.part("close").before(...tools);
    this.part("back").addEventListener("click", () => this.goBack());
    // Nothing of an account stays on the page, nor does an answer that arrives too late.
    this.part("dialog").addEventListener("close", () => this.show());
  }

  part(name) {
    return element(`${this.name}-${name}`);
  }

  // The dialog closes, and the output is in the terminal, unless there is a problem.
  leave(problem) {
    if (problem) {
      this.problem(problem);
      return;
    }
    this.part("dialog").close();
    this.page.focusPrompt();
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

// A list to choose from, next to the title of a panel; a phone has no room for `text`.
export function chooser({ id, text, label, options = [] }) {
  const place = create("label", "");
  const select = create("select", "", { id, ariaLabel: label });
  select.append(...options.map(([value, shown]) => new Option(shown, value)));
  place.append(create("span", text), " ", select);
  return place;
}
