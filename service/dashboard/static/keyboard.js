// Keys for what is done often. Nothing can be done with them only.
import { toggleAll } from "./masks.js";

const help = document.querySelector("#help");
let leading = 0;

const writes = (element) => element.matches("input, select, textarea, [contenteditable]");

function move(step) {
  const rows = [...document.querySelectorAll("a.opens")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || writes(event.target) || document.querySelector("dialog[open]")) return;
  if (Date.now() - leading < 1500) {
    leading = 0;
    const link = document.querySelector(`.bar nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  switch (event.key) {
    case "/": event.preventDefault(); document.querySelector("#find")?.focus(); break;
    case "?": event.preventDefault(); help?.showModal(); break;
    case "g": leading = Date.now(); break;
    case "j": move(1); break;
    case "k": move(-1); break;
    case "m": if (document.querySelector("[data-mask]")) toggleAll(); break;
    case "f": {
      const filters = document.querySelector("#filters");
      if (!filters) break;
      event.preventDefault();
      filters.open = true;
      filters.querySelector("input:not([type=hidden])").focus();
    }
  }
});

const button = document.querySelector("[data-help]");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => help.showModal());
}
