// The menu that a narrow page has in place of the header's controls, and the height that a screen keyboard leaves.

import { element } from "../components/element.js";

const SHORT = 560; // pixels; a phone with its keyboard open has less
const PHONE = window.matchMedia("(max-width: 620px), (pointer: coarse)");

export function bindMenu() {
  const menu = element("menu");
  const close = () => menu.matches(":popover-open") && menu.hidePopover();
  menu.addEventListener("click", ({ target }) => target.closest("button, a") && close());
  // In a wide page the controls are in the header.
  window.matchMedia("(max-width: 620px)").addEventListener("change", close);
}

// Some browsers lay the keyboard over the page, and report only here how much of it can be seen.
export function bindHeight() {
  const view = window.visualViewport;
  if (!view) return;
  const root = document.documentElement;
  const fit = () => {
    if (view.scale > 1.01) return; // the page is enlarged, not covered
    root.style.setProperty("--height", `${view.height}px`);
    root.toggleAttribute("data-short", PHONE.matches && view.height < SHORT);
    window.scrollTo(0, 0);
  };
  view.addEventListener("resize", fit);
  fit();
}
