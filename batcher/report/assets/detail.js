// One output, large: beside its input, with everything that is known of it.
const sheet = byId("detail");
let looking = { list: [], at: 0 };
let wide = false, paired = false;

function openDetail(list, at) {
  looking = { list, at };
  drawDetail();
  if (!sheet.open) sheet.showModal();
  sheet.focus();
}

function turn(by) {
  const at = looking.at + by;
  if (at >= 0 && at < looking.list.length) openDetail(looking.list, at);
}

function drawDetail() {
  const entry = looking.list[looking.at];
  const other = paired && looking.list[looking.at + 1];
  sheet.classList.toggle("full", wide);
  const stages = other ? h("div", { class: "two" }, stageOf(entry, other), stageOf(other, entry)) : stageOf(entry);
  sheet.replaceChildren(h("div", { class: "sheet" }, stages, wide ? toolsOf() : sideOf(entry)));
}

const widen = () => { wide = !wide; drawDetail(); sheet.focus(); };
const pairUp = () => { paired = !paired; drawDetail(); sheet.focus(); };
const stepButtons = () => [
  h("button", { class: "button", type: "button", "aria-label": "Previous", title: "Previous (←)", disabled: looking.at === 0, onclick: () => turn(-1) }, "←"),
  h("button", { class: "button", type: "button", "aria-label": "Next", title: "Next (→)", disabled: looking.at === looking.list.length - 1, onclick: () => turn(1) }, "→"),
];

// All that is left of the words beside an output that fills the window.
function toolsOf() {
  return h("div", { class: "tools" }, markButtons(looking.list[looking.at].job.job, remarked), h("span", { class: "tally" }, `${number(looking.at + 1)} of ${number(looking.list.length)}`), stepButtons(),
    h("button", { class: "button", type: "button", title: "Out of the full window (f)", onclick: widen }, "✕"));
}

// Marks are about the left one of two, which a line marks; its neighbour comes to the left with the next step.
function remarked() {
  drawDetail();
  sheet.focus();
  if (gallery) gallery.refresh();
}

function soundOf(entry) {
  const sound = (entry.file && entry.file.type || "").startsWith("audio/") && (data.view || !entry.file.away);
  return sound && h("audio", { src: entry.file.path, controls: true, preload: "metadata", "aria-label": entry.job.prompt || entry.job.job });
}

function stageOf(entry, other) {
  const { job, file } = entry;
  const main = soundOf(entry) || mediaOf(entry);
  if (main.tagName === "VIDEO") {
    Object.assign(main, { controls: true, muted: true, autoplay: !still.matches });
    main.src = file.path;
  }
  const figures = (job.media || []).filter((m) => m.path).slice(0, 3).map((m) => h("figure", { class: "in" }, inputOf(m), h("figcaption", {}, `${m.field} (input)`)));
  const unlike = other && captionsOf([entry, other], ["prompt"])[0];
  const caption = file ? [file.width && `${file.width}×${file.height}`, file.duration_s && `${file.duration_s.toFixed(2)} s`, file.fps && `${file.fps} fps`, size(file.bytes)].filter(Boolean).join(" · ") : job.state;
  const sign = markOf(job.job) && h("span", { class: `sign m-${markOf(job.job)}` }, `${MARKS[markOf(job.job)][0]} ${markOf(job.job)}`);
  figures.push(h("figure", { class: "out" }, main, h("figcaption", {}, sign, unlike && h("b", {}, unlike), caption)));
  return h("div", { class: "stage" }, h("div", { class: "pair" }, figures));
}

function inputOf(medium) {
  if (/\.(mp4|mov|webm|m4v)$/i.test(medium.path)) return h("video", { src: medium.path, controls: true, preload: "none" });
  return h("img", { src: medium.path, alt: `input ${medium.field}` });
}

function sideOf({ job, file }) {
  const note = h("textarea", { class: "jotting", id: "note", rows: 2, maxlength: 4000, placeholder: "Note   n", "aria-label": "Note", onchange: (event) => setNote(job.job, event.target.value) });
  note.value = noteOf(job.job);
  return h("div", { class: "side" },
    h("header", {},
      h("span", { class: "pill" }, dot(job.state), job.state),
      h("span", { class: "tally" }, `${number(looking.at + 1)} of ${number(looking.list.length)}`),
      h("span", { class: "grow" }),
      stepButtons(),
      h("button", { class: "button", type: "button", "aria-label": "Close", title: "Close (Esc)", onclick: () => sheet.close() }, "✕")),
    h("p", { class: "say" }, job.prompt || job.job),
    job.quality && h("p", { class: "warn" }, `Quality: ${job.quality}`),
    job.message && h("p", { class: "warn" }, [job.stage && `at ${job.stage}`, job.code].filter(Boolean).join(", "), job.stage || job.code ? ": " : "", job.message),
    h("div", { class: "bar marking" }, markButtons(job.job, remarked), h("button", { class: "button", type: "button", "aria-pressed": String(wide), title: "Only the output, as large as the window (f)", onclick: widen }, "Enlarge"), h("button", { class: "button", type: "button", "aria-pressed": String(paired), title: "Beside the next one (2)", onclick: pairUp }, "Side by side")),
    note,
    list(parametersOf(job)),
    list(recordOf(job, file)),
    h("div", { class: "bar" }, file && (data.view || !file.away) && h("a", { class: "button", href: file.path, target: "_blank", rel: "noopener" }, "Open file")));
}

const list = (pairs) => (pairs.length ? h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])) : null);

function parametersOf(job) {
  const remote = new Set((job.media || []).filter((m) => m.url).map((m) => m.url));
  const show = (value) => (remote.has(value) ? linkTo(value) : shown(value));
  return [["model", job.model], ...Object.entries(job.input || {}).map(([name, value]) => [name, show(value)]),
    ...Object.entries(job.meta || {}).map(([name, value]) => [`meta.${name}`, shown(value)]),
    ...Object.entries(job.vars || {}).map(([name, value]) => [`var.${name}`, shown(value)])];
}

// A remote input is a link to follow, never something that this page loads.
function linkTo(url) {
  return /^https?:\/\//i.test(url) ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url) : url;
}

function recordOf(job, file) {
  const pairs = [["job", h("button", { class: "mono copy", type: "button", title: "Copy", onclick: () => copy(job.job) }, job.job)], ["cost", money(job.cost_usd)]];
  if (job.submitted_ms) pairs.push(["submitted", moment(job.submitted_ms)]);
  if (job.submitted_ms && job.completed_ms) pairs.push(["generated in", duration((job.completed_ms - job.submitted_ms) / 1000)]);
  if (job.completed_ms && job.finished_ms && job.state === "done") pairs.push(["downloaded in", duration((job.finished_ms - job.completed_ms) / 1000)]);
  if (job.attempt > 1) pairs.push(["attempt", String(job.attempt)]);
  if (job.request_id) pairs.push(["request", h("button", { class: "mono copy", type: "button", title: "Copy", onclick: () => copy(job.request_id) }, job.request_id)]);
  if (job.source) pairs.push(["manifest", job.source]);
  if (file) pairs.push(["file", file.away || decodeURIComponent(file.path)]);
  return pairs;
}

sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });
// Escape leads back by one step: from the full window first.
sheet.addEventListener("cancel", (event) => { if (wide) { event.preventDefault(); widen(); } });
sheet.addEventListener("close", () => { sheet.replaceChildren(); if (gallery && view.tab === "gallery") gallery.focus(looking.at); });
sheet.addEventListener("keydown", (event) => {
  if (event.target.tagName === "TEXTAREA") { if (event.key === "Escape") { event.preventDefault(); event.target.blur(); sheet.focus(); } return; }
  if (event.target.tagName === "VIDEO" && event.key.startsWith("Arrow")) return;
  const word = markWithKey(event);
  if (event.key === "ArrowRight") turn(1);
  else if (event.key === "ArrowLeft") turn(-1);
  else if (word) { toggleMark(looking.list[looking.at].job.job, word); remarked(); }
  else if (event.key === "f") widen();
  else if (event.key === "2") pairUp();
  else if (event.key === "n") { event.preventDefault(); if (wide) widen(); byId("note").focus(); }
});
