// One output, large: beside its input, with everything that is known of it.
const sheet = byId("detail");
let looking = { list: [], at: 0 };

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
  sheet.replaceChildren(h("div", { class: "sheet" }, stageOf(entry), sideOf(entry)));
}

function stageOf(entry) {
  const { job, file } = entry;
  const main = mediaOf(entry);
  if (main.tagName === "VIDEO") {
    Object.assign(main, { controls: true, muted: true, autoplay: !still.matches });
    main.src = file.path;
  }
  const figures = (job.media || []).filter((m) => m.path).slice(0, 3).map((m) => h("figure", { class: "in" }, inputOf(m), h("figcaption", {}, `${m.field} (input)`)));
  const caption = file ? [file.width && `${file.width}×${file.height}`, file.duration_s && `${file.duration_s.toFixed(2)} s`, file.fps && `${file.fps} fps`, size(file.bytes)].filter(Boolean).join(" · ") : job.state;
  figures.push(h("figure", { class: "out" }, main, h("figcaption", {}, caption)));
  return h("div", { class: "stage" }, h("div", { class: "pair" }, figures));
}

function inputOf(medium) {
  if (/\.(mp4|mov|webm|m4v)$/i.test(medium.path)) return h("video", { src: medium.path, controls: true, preload: "none" });
  return h("img", { src: medium.path, alt: `input ${medium.field}` });
}

function sideOf({ job, file }) {
  const rejected = rejects.has(job.job);
  const mark = () => { toggleReject(job.job); drawDetail(); sheet.focus(); if (gallery) gallery.refresh(); };
  return h("div", { class: "side" },
    h("header", {},
      h("span", { class: "pill" }, dot(job.state), job.state),
      h("span", { class: "grow" }),
      h("button", { class: "button", type: "button", "aria-label": "Previous", disabled: looking.at === 0, onclick: () => turn(-1) }, "←"),
      h("button", { class: "button", type: "button", "aria-label": "Next", disabled: looking.at === looking.list.length - 1, onclick: () => turn(1) }, "→"),
      h("button", { class: "button", type: "button", "aria-label": "Close", onclick: () => sheet.close() }, "✕")),
    h("p", { class: "say" }, job.prompt || job.job),
    job.quality && h("p", { class: "warn" }, `Quality: ${job.quality}`),
    job.message && h("p", { class: "warn" }, [job.stage && `at ${job.stage}`, job.code].filter(Boolean).join(", "), job.stage || job.code ? ": " : "", job.message),
    list(parametersOf(job)),
    list(recordOf(job, file)),
    h("div", { class: "bar" }, h("button", { class: "button", type: "button", "aria-pressed": String(rejected), onclick: mark }, rejected ? "Take back" : "Reject"),
      file && !file.away && h("a", { class: "button", href: file.path, target: "_blank", rel: "noopener" }, "Open file")));
}

const list = (pairs) => (pairs.length ? h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])) : null);

function parametersOf(job) {
  const remote = new Set((job.media || []).filter((m) => m.url).map((m) => m.url));
  const show = (value) => (remote.has(value) ? linkTo(value) : shown(value));
  return [["model", job.model], ...Object.entries(job.input || {}).map(([name, value]) => [name, show(value)]),
    ...Object.entries(job.meta || {}).map(([name, value]) => [`meta.${name}`, shown(value)])];
}

// A remote input is a link to follow, never something that this page loads.
function linkTo(url) {
  return /^https?:\/\//i.test(url) ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url) : url;
}

function recordOf(job, file) {
  const pairs = [["job", h("span", { class: "mono" }, job.job)], ["cost", money(job.cost_usd)]];
  if (job.submitted_ms) pairs.push(["submitted", moment(job.submitted_ms)]);
  if (job.submitted_ms && job.completed_ms) pairs.push(["generated in", duration((job.completed_ms - job.submitted_ms) / 1000)]);
  if (job.completed_ms && job.finished_ms && job.state === "done") pairs.push(["downloaded in", duration((job.finished_ms - job.completed_ms) / 1000)]);
  if (job.attempt > 1) pairs.push(["attempt", String(job.attempt)]);
  if (job.request_id) pairs.push(["request", h("span", { class: "mono" }, job.request_id)]);
  if (job.source) pairs.push(["manifest", job.source]);
  if (file) pairs.push(["file", file.away || decodeURIComponent(file.path)]);
  return pairs;
}

sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });
sheet.addEventListener("close", () => { sheet.replaceChildren(); if (gallery && view.tab === "gallery") gallery.focus(looking.at); });
sheet.addEventListener("keydown", (event) => {
  if (event.target.tagName === "VIDEO") return;
  if (event.key === "ArrowRight") turn(1);
  else if (event.key === "ArrowLeft") turn(-1);
  else if (event.key === "x") { toggleReject(looking.list[looking.at].job.job); drawDetail(); if (gallery) gallery.refresh(); }
});
