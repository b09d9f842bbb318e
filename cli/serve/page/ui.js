// Elements, requests, and what all parts of the page share.

export function h(tag, about = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...inside.flat().filter(one => one !== null && one !== undefined && one !== false));
  return made;
}

export const find = (selector, root = document) => root.querySelector(selector);

// A request. Throws an Error with the server's one line; goes to the login where a token is needed.
export async function ask(path, body = null, signal = undefined) {
  const options = body === null ? { signal } : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  };
  for (let tries = 0; ; tries++) {
    const answer = await fetch(path, options);
    if (answer.status === 401) { location.replace("/login"); await new Promise(() => {}); }
    if (answer.status === 503 && tries < 3) {
      await new Promise(done => setTimeout(done, 1000 * Number(answer.headers.get("Retry-After") || 1)));
      continue;
    }
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  }
}

const trouble = find("#trouble");
export function complain(error) {
  if (error && error.name === "AbortError") return;
  trouble.hidden = !error;
  trouble.textContent = error ? (error.message || String(error)) : "";
}

// Runs the newest of several calls: an older one that is still asking is given up.
export function newest(work, shown = null) {
  let control = null;
  return async (...given) => {
    control?.abort();
    const mine = control = new AbortController();
    shown?.classList.add("busy");
    try { await work(mine.signal, ...given); if (mine === control) complain(null); }
    catch (error) { if (mine === control) complain(error); }
    finally { if (mine === control) shown?.classList.remove("busy"); }
  };
}

export function later(work, milliseconds = 200) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(work, milliseconds); };
}

export function picture(url, alt, size = null) {
  const made = h("img", { alt, loading: "lazy", decoding: "async" });
  made.onload = () => made.classList.toggle("small", made.naturalWidth <= 64);
  made.src = size ? `${url}?size=${size}` : url;
  return made;
}

export const words = name => name.replaceAll("_", " ");
export const quoted = name => /^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$/u.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
export function span(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// What the workspace holds; asked again when a part of the page opens, since others may add to it.
export const state = { collection: null };
export async function refresh() {
  state.collection = await ask("/api/collection");
  find("#name").textContent = state.collection.workspace;
  document.title = `rgunit: ${state.collection.workspace}`;
}

export const runsOf = (...stages) => state.collection.runs.filter(run => run.usable && stages.includes(run.stage));
export const defaultOf = runs => runs.find(run => run.default) || runs.at(-1);

export function fillRuns(select, runs) {
  const before = select.value, chosen = defaultOf(runs);
  select.replaceChildren(...runs.map(run => h("option", { value: run.id },
    `${run.id} ${run.stage === "guided" ? `guided, ${run.neighbours}` : run.stage} (${run.method})`)));
  select.value = runs.some(run => run.id === before) ? before : chosen ? chosen.id : "";
}
