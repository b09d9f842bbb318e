// Collection: browse and filter, counts, near-duplicates, the map.
import { ask, count, find, h, newest, picture, quoted, state, words } from "./ui.js";
import { detail, labelsTold } from "./controls.js";

const box = find("#collection"), form = find("[data-shows=browse] form", box), grid = find("[data-shows=browse] ol", box);
const told = find("[data-shows=browse] .told", box), more = find("#more");
let offset = 0;

const tile = (one, ...under) => h("button", { type: "button", className: "tile", onclick: () => detail(one.image_id) }, picture(one.url, `image ${one.image_id}`, 256), ...under);
const where = () => [form.where.value.trim(), form.split.value && `split=${form.split.value}`, form.origin.value && `origin=${form.origin.value}`].filter(Boolean).join(" ");

const browse = newest(async (signal, afresh = true) => {
  if (afresh) offset = 0;
  const answer = await ask(`/api/images?limit=60&offset=${offset}&where=${encodeURIComponent(where())}`, null, signal);
  offset += answer.images.length;
  if (afresh) grid.replaceChildren();
  grid.append(...answer.images.map(one => h("li", {}, tile(one, h("span", {}, one.image_id, one.origin === "real" ? " " : ` ${one.origin} `), labelsTold(one.attributes)))));
  told.textContent = count(answer.total, "image");
  more.hidden = offset >= answer.total;
}, grid);

function counts() {
  const { labels, by_split, by_origin, groups } = state.collection;
  const add = term => () => { form.where.value = `${form.where.value} ${term}`.trim(); browse(); };
  const rows = Object.entries(labels).map(([name, one]) => h("tr", {}, h("td", {}, h("button", { type: "button", onclick: add(`+${quoted(name)}`) }, words(name))),
    ...["true", "false", "unknown"].map(bit => h("td", { className: "number" }, one[bit].toLocaleString("en"))), h("td", { className: "soft" }, (groups.find(group => group.includes(name)) || []).map(words).join(" | "))));
  const plain = (title, counted) => h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, title), h("th", { className: "number" }, "images"))), h("tbody", {}, Object.entries(counted).map(([name, n]) => h("tr", {}, h("td", {}, name || "none"), h("td", { className: "number" }, n.toLocaleString("en"))))));
  find("#counts div").replaceChildren(h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["label", "yes", "no", "unknown", "one of"].map((text, place) => h("th", { className: place && place < 4 ? "number" : "" }, text)))), h("tbody", {}, rows))), plain("split", by_split), plain("origin", by_origin));
}

const views = { duplicates: find("[data-shows=duplicates]", box), map: find("[data-shows=map]", box) };
const duplicates = newest(async signal => {
  const shown = find(".told", views.duplicates), list = find("ol", views.duplicates);
  shown.textContent = "Comparing: the first time every picture is read.";
  list.replaceChildren();
  const answer = await ask(`/api/duplicates?distance=${find("input", views.duplicates).valueAsNumber || 0}`, null, signal).catch(error => { shown.textContent = ""; throw error; });
  shown.textContent = `${count(answer.duplicates, "near-duplicate")} in ${count(answer.groups.length, "group")} among ${count(answer.images, "image")}`;
  list.append(...answer.groups.slice(0, 100).map(group => h("li", {}, group.slice(0, 12).map(one => tile(one, `${one.image_id}: ${one.bits} bits`)))));
});

const map = newest(async () => {
  const frame = find("iframe", views.map), shown = find(".told", views.map);
  shown.textContent = "Laying out: this takes a while the first time.";
  const url = `/api/map.html?by=${find("select", views.map).value}`, answer = await fetch(url, { cache: "no-store" });
  shown.textContent = "";
  if (!answer.ok) throw new Error((await answer.json()).error);
  frame.hidden = false; frame.src = url;
});

for (const button of box.querySelectorAll("[data-view]")) button.addEventListener("click", () => {
  for (const other of box.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", String(other === button));
  for (const part of box.querySelectorAll("[data-shows]")) part.hidden = part.dataset.shows !== button.dataset.view;
  if (button.dataset.view === "duplicates" && !find("li", views.duplicates)) duplicates();
  if (button.dataset.view === "map" && find("iframe", views.map).hidden) map();
});
find("form", views.duplicates).addEventListener("submit", event => { event.preventDefault(); duplicates(); });
find("form", views.map).addEventListener("submit", event => { event.preventDefault(); map(); });
form.addEventListener("submit", event => { event.preventDefault(); browse(); });
form.addEventListener("change", () => browse());
more.addEventListener("click", () => browse(false));

export function open() {
  for (const [name, counted] of [["split", state.collection.by_split], ["origin", state.collection.by_origin]]) {
    const before = form[name].value;
    form[name].replaceChildren(h("option", { value: "" }, "all"), ...Object.keys(counted).filter(Boolean).map(value => h("option", { value }, value)));
    form[name].value = before;
  }
  counts();
  browse();
}
