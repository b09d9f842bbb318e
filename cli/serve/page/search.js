// Search: the content of a picture in another style; results come as the controls change.
import { ask, count, defaultOf, fillRuns, find, h, later, newest, picture, runsOf } from "./ui.js";
import { Chooser, Switches, labelsTold } from "./controls.js";

const box = find("#search"), form = find("form", box), told = find(".told", box), grid = find("ol", box);
const again = later(() => search());
const content = new Chooser(find(".picture", form), () => { mark(); search(); });
const switches = new Switches(find(".edit", form), () => search());
const style = new Chooser(find(".picture.style", form), () => search(), { optional: true });

function mark() {
  const number = content.value?.image_id;
  history.replaceState(null, "", number === undefined ? "#search" : `#search?image=${number}`);
}

const search = newest(async signal => {
  if (!content.value) { told.textContent = "Choose a picture, or drop one."; return; }
  const body = { ...content.value, k: form.k.valueAsNumber || 24, labels: form.labels.value, run: form.run.value || undefined };
  if (switches.text) body.to = switches.text;
  if (style.value) body.style_of = style.value;
  if (form.where.value.trim()) body.where = form.where.value.trim();
  if (form.weighing.value) body.content_weight = form.weight.valueAsNumber;
  const answer = await ask("/api/query", body, signal);
  const sought = body.to || body.style_of ? answer.target : null;
  told.textContent = `${count(answer.neighbours.length, "image")} in ${answer.milliseconds.toFixed(0)} ms (${answer.run}, ${answer.plan})`;
  grid.replaceChildren(...answer.neighbours.map(one => h("li", {}, h("button", {
    type: "button", className: "tile", title: "Search from it", onclick: () => { location.hash = `search?image=${one.image_id}`; },
  }, picture(one.url, `rank ${one.rank}, image ${one.image_id}`, 256),
    h("span", {}, `${one.rank}. ${one.distance.toFixed(3)} `, one.origin === "real" ? null : h("i", {}, `${one.origin} `)), h("br"), labelsTold(one.attributes, sought)))));
}, grid);

function run() { return runsOf("retrieval").find(one => one.id === form.run.value) || defaultOf(runsOf("retrieval")); }

form.addEventListener("submit", event => { event.preventDefault(); search(); });
form.addEventListener("input", event => {
  if (event.target === form.weighing) find("#weight").hidden = !form.weighing.value;
  if (event.target === form.run) switches.show(run());
  if (event.target.name && !event.target.name.startsWith("switch")) again();
});

export function open(asked) {
  const runs = runsOf("retrieval");
  fillRuns(form.run, runs);
  switches.show(run());
  if (!runs.length) { told.textContent = "No retrieval run yet: `rgunit run` trains one."; return; }
  const number = asked.get("image");
  if (number !== null && Number(number) !== content.value?.image_id) { content.set({ image_id: Number(number) }, true); window.scrollTo({ top: 0 }); }
  if (content.value || number !== null) search(); else content.random();
}
