// The elements of the page.

export const element = (id) => document.getElementById(id);

export function create(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

export const anyDialogOpen = () => document.querySelector("dialog[open]") !== null;
