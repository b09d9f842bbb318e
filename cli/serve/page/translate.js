// Translate: unguided, random neighbours and guided side by side, and the way between two styles.
import { ask, complain, defaultOf, fillRuns, find, h, later, newest, picture, runsOf, words } from "./ui.js";
import { Chooser, Switches, detail } from "./controls.js";

const box = find("#translate"), form = find("form.controls", box), told = find(".told", box), beside = find(".beside", box);
const between = find("#between"), strip = find(".strip", between), second = find("form", between);
const again = later(() => translate(), 250);
const source = new Chooser(find(".picture", form), () => { mark(); translate(); });
const switches = new Switches(find(".edit", form), () => translate());
const style = new Chooser(find(".picture.style", form), () => translate(), { optional: true });
const end = new Switches(find(".edit", second), () => interpolate());

function mark() {
  const number = source.value?.image_id;
  history.replaceState(null, "", number === undefined ? "#translate" : `#translate?image=${number}`);
}
const runs = () => runsOf("translation", "guided");
const run = () => runs().find(one => one.id === form.run.value) || defaultOf(runs());
const oneWay = () => run()?.target !== null && run()?.target !== undefined;
const domains = () => run()?.domains || [];  // of a run with an encoder a domain, which has no styles
const styled = () => !oneWay() && !domains().length;
const guided = () => run()?.neighbours === "retrieved" || run()?.neighbours === "random";
const targetTold = target => Object.entries(target).filter(([, bit]) => bit === 1).map(([name]) => words(name)).join(", ") || "none of them";

function figure(url, caption, name, minor = false) {
  return h("figure", { className: minor ? "minor" : "" }, h("a", { href: url, download: name, title: "Download" }, picture(url, caption)), h("figcaption", {}, caption));
}

function lane(title, about, answer) {
  const pictures = [], number = answer.outputs[0].source.image_id;
  if (number !== null) pictures.push(h("figure", { className: "minor" }, picture(answer.outputs[0].source.url, "source"), h("figcaption", {}, "source")));
  answer.outputs.forEach((one, place) => {
    pictures.push(figure(one.url, answer.outputs.length > 1 ? `sample ${place + 1}` : "translation", `${title}-${place + 1}.png`));
  });
  const masks = answer.outputs.filter(one => one.mask).slice(0, 1).map(one => figure(one.mask, "mask", `${title}-mask.png`, true));
  const near = answer.outputs[0].neighbours.map((one, place) => h("figure", { className: "minor" },
    h("button", { type: "button", className: "tile", onclick: () => detail(one.image_id) }, picture(one.url, `neighbour ${place + 1}, image ${one.image_id}`, 128)), h("figcaption", {}, `near ${place + 1}`)));
  return h("section", { className: "lane" }, h("div", {}, h("h3", {}, title), h("p", {}, about), h("p", {}, `${answer.milliseconds.toFixed(0)} ms`)),
    h("div", { className: "pictures" }, pictures, masks, near));
}

const translate = newest(async signal => {
  if (!source.value) { told.textContent = "Choose a picture, or drop one."; return; }
  const to = switches.text;
  const other = styled() ? style.value : null;
  if (!oneWay() && !to && !other) { told.textContent = styled() ? "Set an attribute, or take the style of another picture." : "Choose a domain."; beside.replaceChildren(); interpolate(); return; }
  const body = { ...source.value, run: form.run.value || undefined, seed: form.seed.valueAsNumber || 0 };
  if (!oneWay()) {
    if (to) body.to = to;
    if (to && styled()) body.samples = form.samples.valueAsNumber || 1;
    if (other) body.style_of = other;
    if (domains().length && form.source.value) body.source = form.source.value;
  }
  const strength = form.guidance.valueAsNumber, asks = [["unguided", "no neighbours", { ...body, guidance: guided() ? 0 : undefined }]];
  if (guided()) {
    asks.push(["random", `neighbours drawn at random, guidance ${strength}`, { ...body, guidance: strength, neighbours: "random" }]);
    if (run().neighbours === "retrieved") asks.push(["guided", `neighbours that were found, guidance ${strength}`, { ...body, guidance: strength }]);
  }
  const answers = await Promise.all(asks.map(([, , one]) => ask("/api/translate", one, signal)));
  told.textContent = oneWay() ? "" : `wanted: ${targetTold(answers[0].outputs[0].target)} (${answers[0].run}, ${answers[0].method})`;
  beside.replaceChildren(...answers.map((answer, place) => lane(asks[place][0], asks[place][1], answer)));
  interpolate();
}, beside);

const interpolate = newest(async signal => {
  if (!between.open || !source.value || oneWay()) return;
  const body = { ...source.value, run: form.run.value || undefined, steps: second.steps.valueAsNumber || 6, seed: form.seed.valueAsNumber || 0 };
  if (guided()) body.guidance = form.guidance.valueAsNumber;
  const other = styled() ? style.value : null;
  if (domains().length && form.source.value) body.source = form.source.value;
  if (other) body.style_of = [source.value, other];
  else if (switches.text && end.text) body.to = [switches.text, end.text];
  find("#between-ends").textContent = other ? "From the picture's own style to that of the other picture." : body.to ? `From ${switches.text} to ${end.text}.`
    : styled() ? "Set a style on the left and another one here, or take the style of a picture on the left." : "Choose a domain on the left and another one here.";
  find(".edit", second).hidden = Boolean(other);
  if (!body.to && !body.style_of) { strip.replaceChildren(); return; }
  const answer = await ask("/api/interpolate", body, signal);
  strip.replaceChildren(...answer.outputs.map((one, place) => figure(one.url, `${Math.round(100 * place / (answer.outputs.length - 1))} %`, `between-${place + 1}.png`)));
}, strip);

function adapt() {
  switches.show(run()); end.show(run());
  const has = { guided: guided(), style: styled(), domain: domains().length > 0 };
  for (const row of form.querySelectorAll("[data-needs]")) row.hidden = !has[row.dataset.needs];
  find(".picture.style", form).closest("details").hidden = !styled();
  between.hidden = oneWay();
  const before = form.source.value;
  form.source.replaceChildren(h("option", { value: "" }, "as it is labelled"), ...domains().map(one => h("option", { value: one }, words(one))));
  if (domains().includes(before)) form.source.value = before;
}

form.addEventListener("submit", event => { event.preventDefault(); translate(); });
second.addEventListener("submit", event => event.preventDefault());
second.addEventListener("input", event => { if (event.target === second.steps) interpolate(); });
between.addEventListener("toggle", () => interpolate());
form.addEventListener("input", event => {
  find("output", form).textContent = form.guidance.value;
  if (event.target === form.run) adapt();
  if (event.target.name && !event.target.name.startsWith("switch")) again();
});

export function open(asked) {
  fillRuns(form.run, runs());
  if (!runs().length) { told.textContent = "No translation run yet: `rgunit run` trains one."; return; }
  adapt();
  const number = asked.get("image");
  if (number !== null && Number(number) !== source.value?.image_id) source.set({ image_id: Number(number) }, true);
  if (!oneWay() && !switches.text && !style.value && run().attributes.length) switches.set(new Map([[run().attributes[Math.min(1, run().attributes.length - 1)], 1]]));
  if (source.value) translate(); else source.random().catch(complain);
}
