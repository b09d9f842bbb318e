// A picture chosen, dropped, pasted or picked from the collection; and attributes as switches.
import { ask, complain, find, h, picture, quoted, words } from "./ui.js";

const LARGE = 2 ** 21, SIDE = 1280;

const base64 = blob => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => fail(reader.error);
  reader.readAsDataURL(blob);
});

async function shrunk(file) {
  // Large photographs are made smaller here; others go as they are, so that the collection's own are known again.
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { return { blob: file, shown: null }; }
  const draw = most => {
    const share = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
    const canvas = h("canvas", { width: Math.max(1, Math.round(bitmap.width * share)), height: Math.max(1, Math.round(bitmap.height * share)) });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas;
  };
  const blob = file.size <= LARGE ? file : await new Promise(done => draw(SIDE).toBlob(done, "image/jpeg", 0.92));
  return { blob, shown: draw(176) };
}

// Builds a chooser into a fieldset. `value` is null, {image_id} or {image}; `changed` is called with it.
export class Chooser {
  constructor(box, changed, { optional = false } = {}) {
    this.value = null; this.changed = changed; this.optional = optional;
    this.shown = h("div", { className: "shown" });
    const file = h("input", { type: "file", accept: "image/*", onchange: () => { if (file.files[0]) this.take(file.files[0]); file.value = ""; } });
    file.setAttribute("aria-label", `${find("legend", box).textContent}: a file`);
    this.clear = h("button", { type: "button", onclick: () => this.set(null) }, "none");
    this.drop = h("div", { className: "drop" }, this.shown, h("div", { className: "buttons" },
      h("label", { className: "file" }, "a file", file),
      h("button", { type: "button", onclick: () => pick(number => this.set({ image_id: number })) }, "of the collection"),
      h("button", { type: "button", onclick: () => this.random() }, "any"), this.clear));
    box.append(this.drop);
    for (const kind of ["dragover", "dragleave", "drop"]) this.drop.addEventListener(kind, event => {
      event.preventDefault();
      this.drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) this.take(event.dataTransfer.files[0]);
    });
    this.show();
  }
  async take(file) {
    try {
      const { blob, shown } = await shrunk(file);
      this.value = { image: await base64(blob) };
      this.show(shown, file.name);
      this.changed(this.value);
    } catch (error) { complain(error); }
  }
  async random() {
    try {
      const where = "origin=real|unlabelled", { total } = await ask(`/api/images?limit=1&where=${encodeURIComponent(where)}`);
      if (!total) throw new Error("the collection has no images yet");
      const { images } = await ask(`/api/images?limit=1&offset=${Math.floor(Math.random() * total)}&where=${encodeURIComponent(where)}`);
      this.set({ image_id: images[0].image_id });
    } catch (error) { complain(error); }
  }
  set(value, quietly = false) { this.value = value; this.show(); if (!quietly) this.changed(value); }
  show(canvas = null, name = "") {
    this.clear.hidden = !this.optional || !this.value;
    this.shown.replaceChildren(this.value?.image_id !== undefined
      ? picture(`/api/images/${this.value.image_id}`, `image ${this.value.image_id}`, 176)
      : canvas || h("div", { className: "none" }, this.value ? name || "a file" : this.optional ? "none" : "drop a picture here"));
  }
}

// The dialog that picks an image of the collection.
export function pick(chosen) {
  const dialog = find("#pick"), list = find("ol", dialog), more = find("p button", dialog), form = find("form.bar", dialog);
  let offset = 0;
  const load = async afresh => {
    if (afresh) { offset = 0; list.replaceChildren(); }
    try {
      const told = await ask(`/api/images?limit=60&offset=${offset}&where=${encodeURIComponent(form.where.value)}`);
      offset += told.images.length;
      more.hidden = offset >= told.total;
      list.append(...told.images.map(one => h("li", {}, h("button", {
        type: "button", className: "tile", onclick: () => { dialog.close(); chosen(one.image_id); },
      }, picture(one.url, `image ${one.image_id}`, 160)))));
    } catch (error) { complain(error); }
  };
  more.onclick = () => load(false);
  form.onsubmit = event => { event.preventDefault(); load(true); };
  form.where.onchange = () => load(true);
  load(true);
  dialog.showModal();
}

function choice(name, options, changed) {
  // Radios that look like one control: [[value, text]], the first is chosen.
  return h("span", { className: "choices", role: "radiogroup" }, options.map(([value, text], place) => h("label", {},
    h("input", { type: "radio", name, value, checked: place === 0, onchange: changed }), text)));
}

let made = 0;
// Attributes of a run as switches, exclusive groups as radios. `text` is the edit that they say, "" for none.
export class Switches {
  constructor(box, changed) { this.box = box; this.changed = changed; this.legend = find("legend", box); this.names = ""; }
  show(run) {
    const names = run ? run.attributes : [], groups = run ? run.groups : [];
    const now = JSON.stringify([names, groups, run?.target]);
    if (now === this.names) return;
    const before = this.edit ? this.edit() : new Map();
    this.names = now; this.rows = [];
    this.box.replaceChildren(this.legend);
    if (run?.target !== null && run?.target !== undefined) {
      this.box.append(h("p", { className: "soft" }, `This run knows one direction: ${run.source || "all"} to ${run.target || "all"}.`));
    }
    const none = run?.domains?.length ? [] : [["-", "none"]];  // a run with an encoder a domain knows no other
    for (const group of run?.target ? [] : groups) {
      const name = `switch${++made}`, control = choice(name, [["", "as it is"], ...group.map(one => [`+${one}`, words(one)]), ...none], this.changed);
      control.setAttribute("aria-label", group.map(words).join(", "));
      this.rows.push({ control, group });
      this.box.append(h("div", { className: "group" }, control));
    }
    for (const one of run?.target ? [] : names.filter(name => !groups.some(group => group.includes(name)))) {
      const control = choice(`switch${++made}`, [["", "as it is"], [`+${one}`, "yes"], [`-${one}`, "no"]], this.changed);
      control.setAttribute("aria-label", words(one));
      this.rows.push({ control, group: [one] });
      this.box.append(h("div", { className: "switch" }, h("span", {}, words(one)), control));
    }
    this.set(before);
  }
  edit() {
    const bits = new Map();
    for (const { control, group } of this.rows || []) {
      const value = find("input:checked", control)?.value || "";
      if (value === "-") for (const name of group) bits.set(name, 0);
      else if (value) bits.set(value.slice(1), value[0] === "+" ? 1 : 0);
    }
    return bits;
  }
  set(bits) {
    for (const { control, group } of this.rows) {
      const on = group.find(name => bits.get(name) === 1), off = group.every(name => bits.get(name) === 0);
      const value = on ? `+${on}` : off && bits.size ? (group.length > 1 ? "-" : `-${group[0]}`) : "";
      for (const input of control.querySelectorAll("input")) input.checked = input.value === value;
    }
  }
  get text() { return [...this.edit()].map(([name, bit]) => `${bit ? "+" : "-"}${quoted(name)}`).join(" "); }
}

export function labelsTold(attributes, target = null) {
  // What matched: of the labels sought how many are known to be so, and which are not.
  const sought = Object.entries(target || {}).filter(([, bit]) => bit !== null);
  const known = sought.filter(([name]) => attributes[name] !== null && attributes[name] !== undefined);
  const wrong = known.filter(([name, bit]) => attributes[name] !== bit);
  if (!sought.length) return h("span", { className: "soft" }, Object.entries(attributes).filter(([, bit]) => bit === 1).map(([name]) => words(name)).join(", "));
  if (!known.length) return h("span", { className: "soft" }, "labels unknown");
  return h("span", {}, h("span", { className: wrong.length ? "no" : "ok" }, `${known.length - wrong.length} of ${known.length} labels`),
    wrong.length ? `: ${wrong.map(([name, bit]) => (bit ? "no " : "") + words(name)).join(", ")}` : "");
}

// The dialog that shows an image with its labels.
export async function detail(number) {
  try {
    const { images: [one] } = await ask(`/api/images?limit=1&where=${encodeURIComponent(`id=${number}`)}`);
    if (!one) throw new Error(`there is no image ${number}`);
    const dialog = find("#image"), go = tab => () => { dialog.close(); location.hash = `${tab}?image=${number}`; };
    const bits = Object.entries(one.attributes), named = bit => bits.filter(([, value]) => value === bit).map(([name]) => words(name)).join(", ") || "–";
    find("div", dialog).replaceChildren(h("h2", {}, `Image ${number}`), h("div", { className: "detail" }, picture(one.url, `image ${number}`),
      h("div", {}, h("p", {}, `${one.origin}, ${one.split || "no split"}`), h("p", {}, h("b", {}, "yes: "), named(1)), h("p", { className: "soft" }, h("b", {}, "no: "), named(0)),
        bits.some(([, bit]) => bit === null) ? h("p", { className: "soft" }, h("b", {}, "unknown: "), named(null)) : null,
        Object.entries(one.fields).filter(([, text]) => text).map(([name, text]) => h("p", { className: "soft" }, `${name}: ${text}`)),
        one.parent === null ? null : h("p", {}, "made from ", h("button", { type: "button", onclick: () => detail(one.parent) }, `image ${one.parent}`)),
        h("p", { className: "bar" }, h("button", { type: "button", onclick: go("search") }, "Search from it"), h("button", { type: "button", onclick: go("translate") }, "Translate it")))));
    if (!dialog.open) dialog.showModal();
  } catch (error) { complain(error); }
}

