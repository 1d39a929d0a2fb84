// The page's data, its state, and the few words that everything is built with.
// Text from the data only ever becomes text nodes and checked attributes.
let data = JSON.parse(document.getElementById("data").textContent);
let jobs = data.jobs;
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

// Where a job's values are, and how columns of the dataset are called after it.
const GROUPS = [["input", "input"], ["vars", "var"], ["meta", "meta"]];
const groupOf = Object.fromEntries(GROUPS.map(([group, prefix]) => [prefix, group]));

// ---- one entry per output file, and one for each job without any
function entriesOf(job, at) {
  const files = job.files || [null];
  return files.map((file, number) => ({
    job, file, at, number,
    key: file ? `${job.job}:${number}` : job.job,
    text: [job.job, job.prompt, job.model, job.source, job.message, job.quality, job.request_id, ...GROUPS.flatMap(([group]) => Object.values(job[group] || {}))].join("\n").toLowerCase(),
    took_s: job.submitted_ms && job.completed_ms ? (job.completed_ms - job.submitted_ms) / 1000 : null,
  }));
}

function lineOf(job) {
  const at = (job.source || "").lastIndexOf(":");
  return at < 0 ? ["", 0] : [job.source.slice(0, at), Number(job.source.slice(at + 1)) || 0];
}

// In the order of the manifest. Calls that run at once pass each other on the way, so the ledger has the variants of a line
// only about in their order: those of a matrix stand by their values, each value where it first came.
function inManifestOrder(list) {
  const lines = new Map();
  const keyed = list.map((job, at) => {
    if (!lines.has(job.source)) lines.set(job.source, { count: 0, names: new Map() });
    const line = lines.get(job.source);
    line.count += 1;
    return { job, at, place: lineOf(job), line, ranks: ranksOf(job, line.names) };
  });
  for (const line of lines.values()) line.isMatrix = isMatrix(line);
  const compare = (a, b) => naturally(a.place[0], b.place[0]) || a.place[1] - b.place[1] || (a.line === b.line && a.line.isMatrix && byRanks(a.ranks, b.ranks)) || a.at - b.at;
  return keyed.sort(compare).map(({ job }) => job);
}

// By the job's parameters, variables first: how many other values each had on this line before this one.
function ranksOf(job, names) {
  const ranks = [], pairs = ["vars", "input"].flatMap((group) => Object.entries(job[group] || {}).map(([name, value]) => [`${group}.${name}`, shown(value)]));
  for (const [name, value] of pairs) {
    if (!names.has(name)) names.set(name, { at: names.size, count: 0, values: new Map() });
    const seen = names.get(name);
    seen.count += 1;
    if (!seen.values.has(value)) seen.values.set(value, seen.values.size);
    ranks[seen.at] = seen.values.get(value);
  }
  return ranks;
}

// The same parameters in each, and about as many jobs as combinations; while it runs, at least half as many.
function isMatrix({ count, names }) {
  const all = [...names.values()];
  return all.every((seen) => seen.count === count) && all.reduce((product, seen) => product * seen.values.size, 1) <= 2 * count;
}

function byRanks(a, b) {
  const at = a.findIndex((rank, n) => rank !== b[n]);
  return at < 0 ? 0 : a[at] - b[at];
}

// ---- dimensions: whatever differs between jobs
function valueOf(job, dimension) {
  if (dimension === "model" || dimension === "prompt") return shown(job[dimension]);
  const [prefix, ...name] = dimension.split(".");
  return shown((job[groupOf[prefix]] || {})[name.join(".")]);
}

function dimensionsOf() {
  const names = new Set(["prompt", "model"]);
  for (const job of jobs) {
    for (const [group, prefix] of GROUPS) for (const name in job[group] || {}) names.add(`${prefix}.${name}`);
  }
  const plain = (name) => name.replace(/^(input|var|meta)\./, "");
  const twice = [...names].map(plain).filter((label, at, all) => all.indexOf(label) !== at);
  return [...names].map((name) => {
    const values = new Set();
    for (const job of jobs) {
      const value = valueOf(job, name);
      if (value !== MISSING) values.add(value);
      if (values.size > 400) break;
    }
    return { name, label: twice.includes(plain(name)) ? name : plain(name), values: [...values].sort(naturally) };
  }).filter((dimension) => dimension.values.length > 1);
}
const collator = new Intl.Collator("en", { numeric: true });
const naturally = (a, b) => collator.compare(a, b);
const FILTER_VALUES_MAX = 60, LONG_CHARS = 24;
let entries, dimensions, filterable;

// How much of a value stands on a card: the end of an address or a path, the beginning of a text.
function short(value) {
  const name = /^(https?:\/\/|\.{0,2}\/|[^ ]+\/)\S*$/i.test(value) ? value.split(/[?#]/)[0].split("/").filter(Boolean).at(-1) || value : value;
  return cut(name, LONG_CHARS);
}
// No half of an emoji at its end.
function cut(text, chars) {
  return text.length > chars ? `${text.slice(0, chars - 1).replace(/[\ud800-\udbff]$/, "")}…` : text;
}
const isVariable = (dimension) => dimension.name.startsWith("var.");
const groupRank = (dimension) => ["var", "input", "meta"].indexOf(dimension.name.split(".")[0]);
const isLong = (dimension) => dimension.values.some((value) => value.length > LONG_CHARS);

// Under how many prompts a parameter varies: what was tried, rather than what came along.
function telling(name) {
  const seen = new Map();
  for (const job of jobs.slice(0, RANKED_JOBS)) {
    const value = valueOf(job, name), first = seen.get(job.prompt);
    if (value !== MISSING && first !== true) seen.set(job.prompt, first === undefined || first === value ? value : true);
  }
  return [...seen.values()].filter((v) => v === true).length;
}

function takeData(next) {
  data = next;
  jobs = data.jobs;
  entries = inManifestOrder(jobs).flatMap(entriesOf);
  dimensions = dimensionsOf();
  for (const d of dimensions) d.telling = telling(d.name);
  filterable = dimensions.filter((d) => d.name !== "prompt" && d.name !== "model" && d.values.length <= FILTER_VALUES_MAX)
    .sort((a, b) => isLong(a) - isLong(b) || b.telling - a.telling || groupRank(a) - groupRank(b));
}
const RANKED_JOBS = 2000;
takeData(data);

// ---- what is being looked at: in the address, so that a reload, a bookmark or a mail keeps it
const START = { tab: "gallery", q: "", state: "", model: "", sort: "", mark: "", rows: "", cols: "" };
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

// ---- marks: those of marks.jsonl, and what was marked since
const MARKS = { star: ["★", "Star", "s"], keep: ["✓", "Keep", "k"], reject: ["✕", "Reject", "x"] };
const STORE = `batcher.marks.${data.batch}.${data.run.began_ms}`;
const marks = new Map(Object.entries(data.marks || {}));
let ownMarks = {};
let sendMark = (id) => {
  ownMarks[id] = marks.get(id) || {};
  try { localStorage.setItem(STORE, JSON.stringify(ownMarks)); } catch { /* no storage here: marks last as long as the page */ }
};
if (!data.view) {
  try { ownMarks = JSON.parse(localStorage.getItem(STORE) || "{}"); } catch { /* as above */ }
  for (const [id, mark] of Object.entries(ownMarks)) marks.set(id, mark);
}

const markOf = (id) => (marks.get(id) || {}).mark || "";
const noteOf = (id) => (marks.get(id) || {}).note || "";
const marked = (word) => jobs.filter((job) => markOf(job.job) === word).map((job) => job.job);

function toggleMark(id, word) {
  marks.set(id, { mark: markOf(id) === word ? null : word, note: noteOf(id) || null });
  sendMark(id);
}

function setNote(id, note) {
  marks.set(id, { mark: markOf(id) || null, note: note.trim() || null });
  sendMark(id);
}

const markWithKey = (event) => (event.ctrlKey || event.metaKey || event.altKey ? undefined : Object.keys(MARKS).find((word) => MARKS[word][2] === event.key));
const markButtons = (id, done) => Object.entries(MARKS).map(([word, [sign, title, key]]) => h("button", {
  class: `mark m-${word}`, type: "button", tabindex: -1, "aria-pressed": String(markOf(id) === word), "aria-label": `${title} ${id}`, title: `${title} (${key})`,
  onclick: (event) => { event.stopPropagation(); toggleMark(id, word); done(); },
}, sign));

function saveMarks() {
  const lines = [...marks].map(([job, { mark, note }]) => JSON.stringify({ job, mark: mark || null, ...(note ? { note } : {}), at: new Date().toISOString() }));
  saveList(lines, "marks.jsonl", plural(lines.length, "mark"));
}

function saveList(ids, name, what = plural(ids.length, "job id")) {
  const address = URL.createObjectURL(new Blob([ids.join("\n") + "\n"], { type: "text/plain" }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
  toast(`${what} saved as ${name}`);
}

let toastTimer = 0;
function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("on"), 2600);
}

const copy = (text) => navigator.clipboard.writeText(text).then(() => toast("Copied"), () => toast("This browser does not allow copying here"));
const copier = (text) => h("button", { class: "button", type: "button", onclick: () => copy(text) }, "Copy");

const dot = (state) => h("span", { class: `dot s-${state}` });
