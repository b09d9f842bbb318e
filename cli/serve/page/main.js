// Which part of the page is open: #search?image=12 and so on.
import { complain, find, refresh } from "./ui.js";
import * as search from "./search.js";
import * as translate from "./translate.js";
import * as collection from "./collection.js";
import { openApi, openBlind, openRuns } from "./others.js";

const parts = { search: search.open, translate: translate.open, collection: collection.open, runs: openRuns, blind: openBlind, api: openApi };

async function show() {
  const [name, rest = ""] = location.hash.slice(1).split("?"), open = name in parts ? name : "search";
  for (const part of document.querySelectorAll("main > section")) part.hidden = part.id !== open;
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.hash === `#${open}`) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  complain(null);
  try { await refresh(); await parts[open](new URLSearchParams(rest)); } catch (error) { complain(error); }
}

if (matchMedia("(max-width: 48rem)").matches) for (const fold of document.querySelectorAll("details.fold")) fold.open = false;  // results come sooner
window.addEventListener("hashchange", show);
document.addEventListener("paste", event => {
  const file = event.clipboardData?.files[0], open = find("main > section:not([hidden])");
  if (file && (open.id === "search" || open.id === "translate")) {
    const input = find(".picture input[type=file]", open), list = new DataTransfer();
    list.items.add(file); input.files = list.files; input.dispatchEvent(new Event("change"));
  }
});
show();
