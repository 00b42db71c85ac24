// The theme of the page and the screen reader mode of the terminal; both are remembered in this browser.

import { lasting } from "../app/storage.js";
import { element } from "../components/element.js";

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");

export function bindAppearance(terminal) {
  const [theme, reader] = ["theme", "reader"].map(element);

  function applyTheme() {
    document.documentElement.dataset.theme = theme.value;
    terminal.setDark(theme.value === "dark" || (theme.value === "auto" && systemDark.matches));
  }

  theme.value = lasting.get("theme", "auto");
  theme.addEventListener("change", () => {
    lasting.set("theme", theme.value);
    applyTheme();
  });
  systemDark.addEventListener("change", applyTheme);

  reader.checked = lasting.get("reader", false) === true;
  reader.addEventListener("change", () => {
    lasting.set("reader", reader.checked);
    terminal.setScreenReader(reader.checked);
  });

  applyTheme();
  terminal.setScreenReader(reader.checked);
}
