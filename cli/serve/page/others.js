// Runs, the blind choice, and the API's document.
import { ask, complain, count, find, h, newest, span, state } from "./ui.js";

// Runs
const runBox = find("#run");
const showRun = newest(async (signal, id) => {
  const one = await ask(`/api/runs/${id}`, null, signal);
  const parts = [h("h2", {}, `${one.id}: ${one.stage}, ${one.method}`), h("p", { className: "soft" },
    [one.attributes.length && `attributes ${one.attributes.join(", ")}`, one.neighbours && `neighbours: ${one.neighbours}`, one.target && `${one.source || "all"} to ${one.target}`, `made ${one.created}`].filter(Boolean).join("; "))];
  if (one.curves.length) parts.push(h("h3", {}, "Curves"), h("div", { className: "charts" }, one.curves.map(chart => {
    const figure = h("figure", {}, h("figcaption", {}, h("b", {}, chart.title), chart.unit ? ` ${chart.unit}` : ""));
    figure.insertAdjacentHTML("beforeend", chart.svg + chart.key);  // drawn by the server, which escapes what it writes
    return figure;
  })));
  if (one.samples.length) {
    const shown = h("img", { className: "wide", alt: "what it drew" }), at = h("output");
    const slide = h("input", { type: "range", min: 0, max: one.samples.length - 1, value: one.samples.length - 1, className: "wide", "aria-label": "Step" });
    const show = () => { const sample = one.samples[slide.valueAsNumber]; shown.src = sample.url; at.textContent = `step ${sample.step.toLocaleString("en")}`; };
    slide.addEventListener("input", show); show();
    parts.push(h("h3", {}, "Samples while it trained"), h("p", { className: "row" }, slide, at), shown);
  }
  parts.push(h("details", {}, h("summary", {}, "Settings"), h("pre", {}, JSON.stringify(one.config, null, 1))));
  runBox.replaceChildren(...parts);
}, runBox);

export function openRuns(asked) {
  const { runs, report } = state.collection;
  find("#report").replaceChildren(...(report ? [h("a", { href: report, target: "_blank", rel: "noopener" }, "The report"), " says what was learned, and how surely."] : ["No report yet: `rgunit run` writes one."]));
  find("#runs tbody").replaceChildren(...runs.map(one => h("tr", {}, h("td", {}, h("a", { href: `#runs?run=${one.id}` }, one.id)), h("td", {}, one.stage + (one.neighbours ? `, ${one.neighbours}` : "")), h("td", {}, one.method), h("td", {}, one.preset),
    h("td", { className: "number" }, one.steps.toLocaleString("en")), h("td", { className: "number" }, span(one.seconds)), h("td", {}, one.status + (one.default ? ", asked by default" : "")))));
  const id = asked.get("run") || (runs.find(one => one.stage === "translation") || runs[0])?.id;
  if (id) showRun(id);
}

// Blind choice
const blind = find("#blind"), told = find(".told", blind), frame = find("iframe", blind), given = find("#choices");
let page = "";
find("form.bar", blind).addEventListener("submit", async event => {
  event.preventDefault();
  const form = event.target, arms = form.arms.value.split(",").map(one => one.trim()).filter(Boolean);
  told.textContent = "Translating the pairs: this takes a while.";
  find("button", form).disabled = true;
  try {
    const answer = await ask("/api/blind", { pairs: form.pairs.valueAsNumber || 20, ...(arms.length ? { arms } : {}) });
    page = answer.url; frame.src = page; frame.hidden = given.hidden = false;
    told.textContent = `${count(answer.pairs, "pair")}.`; find("#preferred").textContent = "";
    complain(null);
  } catch (error) { told.textContent = ""; complain(error); }
  find("button", form).disabled = false;
});
find("input", given).addEventListener("change", async event => {
  try {
    const choices = await Promise.all([...event.target.files].map(async file => {
      try { return JSON.parse(await file.text()); } catch { throw new Error(`${file.name} is no file of choices`); }
    }));
    const one = await ask(`${page}/choices`, { choices }), percent = share => `${(100 * share).toFixed(0)} %`;
    find("#preferred").textContent = `${one.arms[0]} was preferred to ${one.arms[1]} in ${percent(one.share)} of pairs (${percent(one.interval[0])} to ${percent(one.interval[1])}): ${one.verdict}. ${one.judged} of ${one.pairs} pairs, ${count(one.judges, "person", "people")}.`;
    complain(null);
  } catch (error) { complain(error); }
  event.target.value = "";
});
export function openBlind() {}

// API
const shape = (schema, schemas) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(one => shape(one, schemas)).join(" or ");
  if (schema.enum) return schema.enum.map(one => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return `[${shape(schema.items || schema.prefixItems?.[0], schemas)}]`;
  return schema.type || "any";
};
export async function openApi() {
  const shown = find("#api div");
  if (shown.children.length) return;
  try {
    const told = await ask("/openapi.json"), schemas = told.components.schemas;
    const rows = fields => h("div", { className: "scroll" }, h("table", {}, h("tbody", {}, fields.map(([name, type, about]) => h("tr", {}, h("td", {}, h("code", {}, name)), h("td", {}, type), h("td", {}, about || ""))))));
    for (const [path, methods] of Object.entries(told.paths)) for (const [method, one] of Object.entries(methods)) {
      const body = one.requestBody?.content["application/json"].schema, named = body && schemas[shape(body, schemas)];
      const answer = one.responses["200"]?.content?.["application/json"]?.schema, answered = answer && schemas[shape(answer, schemas)];
      const fields = [...(one.parameters || []).map(field => [field.name, shape(field.schema, schemas), field.description]),
        ...Object.entries(named?.properties || {}).map(([name, field]) => [name, shape(field, schemas), field.description])];
      shown.append(h("details", {}, h("summary", {}, h("code", {}, `${method.toUpperCase()} ${path}`), ` ${one.summary}`),
        named?.description ? h("p", {}, named.description) : null, fields.length ? rows(fields) : null,
        answered ? h("p", { className: "soft" }, "answers ", Object.keys(answered.properties).join(", ")) : null,
        named && path.includes("/api/") && !path.includes("{") ? h("pre", {}, `curl -s ${location.origin}${path} -H 'Content-Type: application/json' -d '{"image_id": 1, "to": "+Name"}'`) : null));
    }
  } catch (error) { complain(error); }
}
