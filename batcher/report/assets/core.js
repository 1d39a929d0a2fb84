// The page's data, its state, and the few words that everything is built with.
// Text from the data only ever becomes text nodes and checked attributes.
const data = JSON.parse(document.getElementById("data").textContent);
const jobs = data.jobs;
const STATES = ["done", "completed", "submitted", "unknown", "failed", "cancelled", "pending"];
const byId = (id) => document.getElementById(id);

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, String(value));
  }
  element.append(...children.flat());
  return element;
}

// ---- numbers for people
const number = (value) => value.toLocaleString("en-US");
const money = (usd) => (usd === null || usd === undefined ? "price unknown" : `$${usd.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: usd && usd < 0.1 ? 3 : 2 })}`);
const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many || `${one}s`}`;

function size(bytes) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (bytes < 1000) return `${unit === "B" ? bytes : bytes.toFixed(bytes < 10 ? 1 : 0)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} TB`;
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return seconds < 600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${minutes} min`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 1440)} days`;
}

const moment = (ms) => new Date(ms).toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock = (ms, withDay) => new Date(ms).toLocaleString("en-GB", withDay ? { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MISSING = "—";
const shown = (value) => (value === null || value === undefined ? MISSING : value === true ? "yes" : value === false ? "no" : String(value));
const shortModel = (model) => (model || "?").split("/").slice(1).join("/") || model;

// ---- one entry per output file, and one for each job without any
function entriesOf(job, at) {
  const files = job.files || [null];
  return files.map((file, number) => ({
    job, file, at, number,
    key: file ? `${job.job}:${number}` : job.job,
    text: [job.job, job.prompt, job.model, job.source, job.message, job.quality, job.request_id, ...Object.values(job.input || {}), ...Object.values(job.meta || {})].join("\n").toLowerCase(),
    took_s: job.submitted_ms && job.completed_ms ? (job.completed_ms - job.submitted_ms) / 1000 : null,
  }));
}
const entries = jobs.flatMap(entriesOf);

// ---- dimensions: whatever differs between jobs
function valueOf(job, dimension) {
  if (dimension === "model" || dimension === "prompt") return shown(job[dimension]);
  const [group, ...name] = dimension.split(".");
  return shown((job[group] || {})[name.join(".")]);
}

function dimensionsOf() {
  const names = new Set(["prompt", "model"]);
  for (const job of jobs) {
    for (const group of ["input", "meta"]) for (const name in job[group] || {}) names.add(`${group}.${name}`);
  }
  return [...names].map((name) => {
    const values = new Set();
    for (const job of jobs) {
      const value = valueOf(job, name);
      if (value !== MISSING) values.add(value);
      if (values.size > 400) break;
    }
    return { name, label: name.replace(/^(input|meta)\./, ""), values: [...values].sort(naturally) };
  }).filter((dimension) => dimension.values.length > 1);
}
const collator = new Intl.Collator("en", { numeric: true });
const naturally = (a, b) => collator.compare(a, b);
const dimensions = dimensionsOf();
const FILTER_VALUES_MAX = 60;
const filterable = dimensions.filter((d) => d.name !== "prompt" && d.name !== "model" && d.values.length <= FILTER_VALUES_MAX);

// ---- what is being looked at: in the address, so that a reload, a bookmark or a mail keeps it
const START = { tab: "gallery", q: "", state: "", model: "", sort: "", rejected: "", rows: "", cols: "" };
const view = { ...START, where: {} };

function readAddress() {
  Object.assign(view, START, { where: {} });
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name.startsWith("w.")) view.where[name.slice(2)] = value;
    else if (name in START) view[name] = value;
  }
}

function writeAddress() {
  const query = new URLSearchParams();
  for (const name in START) if (view[name] !== START[name]) query.set(name, view[name]);
  for (const name in view.where) query.set(`w.${name}`, view.where[name]);
  history.replaceState(null, "", query.size ? `#${query}` : location.pathname + location.search);
}

// ---- rejects: kept by this browser, per batch
const STORE = `batcher.rejects.${data.batch}.${data.run.began_ms}`;
const rejects = new Set();
try {
  for (const id of JSON.parse(localStorage.getItem(STORE) || "[]")) rejects.add(id);
} catch { /* no storage here: marks last as long as the page */ }

function toggleReject(id) {
  if (!rejects.delete(id)) rejects.add(id);
  try { localStorage.setItem(STORE, JSON.stringify([...rejects])); } catch { /* as above */ }
}

function saveList(ids, name) {
  const address = URL.createObjectURL(new Blob([ids.join("\n") + "\n"], { type: "text/plain" }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  toast(`${plural(ids.length, "job id")} saved as ${name}`);
}

let toastTimer = 0;
function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("on"), 2600);
}

function copier(text) {
  return h("button", { class: "button", type: "button", onclick: () => navigator.clipboard.writeText(text).then(() => toast("Copied"), () => toast("This browser does not allow copying here")) }, "Copy");
}

const dot = (state) => h("span", { class: `dot s-${state}` });
