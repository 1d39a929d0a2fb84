// The gallery: filters and sorts entries, and draws only the rows that can be seen.
const CARD_MIN_PX = 264, CARD_GAP_PX = 14, WORDS_PX = 116, SHAPE_MIN = 0.5625, SHAPE_MAX = 1, ROWS_AROUND = 1, OPTION_CHARS = 60, FILTERS_MAX = 8;
const SORTS = {
  "": ["Manifest order", () => 0],
  newest: ["Newest first", (a, b) => (b.job.finished_ms || b.job.submitted_ms || 0) - (a.job.finished_ms || a.job.submitted_ms || 0)],
  slowest: ["Slowest first", (a, b) => (b.took_s || 0) - (a.took_s || 0)],
  dearest: ["Dearest first", (a, b) => (b.job.cost_usd || 0) - (a.job.cost_usd || 0)],
  largest: ["Largest first", (a, b) => (b.file ? b.file.bytes : 0) - (a.file ? a.file.bytes : 0)],
  prompt: ["Prompt A–Z", (a, b) => naturally(a.job.prompt || "", b.job.prompt || "")],
};
let matching = entries;
let gallery = null;

function matches() {
  const words = view.q.toLowerCase().split(/\s+/).filter(Boolean);
  const where = Object.entries(view.where);
  const found = entries.filter(({ job, text }) =>
    (!view.state || (view.state === "poor" ? job.quality : job.state === view.state)) &&
    (!view.model || job.model === view.model) &&
    (!view.mark || (view.mark === "unrejected" ? markOf(job.job) !== "reject" : view.mark === "none" ? !markOf(job.job) : markOf(job.job) === view.mark)) &&
    where.every(([name, value]) => valueOf(job, name) === value) &&
    words.every((word) => text.includes(word)));
  return view.sort in SORTS && view.sort ? found.sort(SORTS[view.sort][1]) : found;
}

function choice(label, value, options, change) {
  const select = h("select", { "aria-label": label, onchange: (event) => change(event.target.value) },
    options.map(([key, name]) => h("option", { value: key, selected: key === value, title: name }, cut(name, OPTION_CHARS))));
  return h("label", { class: value ? "field on" : "field" }, h("span", {}, label), select);
}

function setWhere(name, value) {
  if (value) view.where[name] = value;
  else delete view.where[name];
}

function filters(refresh) {
  const has = (state) => jobs.some((job) => job.state === state);
  const states = STATES.filter(has).map((state) => [state, state]);
  if (jobs.some((job) => job.quality)) states.push(["poor", "done, poor quality"]);
  const models = [...new Set(jobs.map((job) => job.model))];
  const fields = [choice("State", view.state, [["", "all"], ...states], (v) => { view.state = v; refresh(); })];
  if (models.length > 1) fields.push(choice("Model", view.model, [["", "all"], ...models.map((m) => [m, shortModel(m)])], (v) => { view.model = v; refresh(); }));
  for (const { name, label, values } of filterable.slice(0, FILTERS_MAX)) {
    fields.push(choice(label, view.where[name] || "", [["", "all"], ...values.map((v) => [v, v])], (v) => { setWhere(name, v); refresh(); }));
  }
  return fields;
}

let filtersOpen = false;  // in a narrow window, where they wait behind a button

function toolbar(refresh) {
  const search = h("input", { type: "search", id: "search", placeholder: "Search prompts, ids, parameters   /", "aria-label": "Search", value: view.q });
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { view.q = search.value; refresh("search"); }, 80);
  });
  const chosen = filters(refresh), box = h("div", { class: filtersOpen ? "filters open" : "filters" }, chosen);
  const active = chosen.filter((field) => field.classList.contains("on")).length;
  const opener = h("button", { class: "button opener", type: "button", "aria-expanded": String(filtersOpen), onclick: () => {
    filtersOpen = box.classList.toggle("open");
    opener.setAttribute("aria-expanded", String(filtersOpen));
  } }, "Filters", active ? h("span", { class: "count" }, active) : null);
  return [h("label", { class: "field search" }, search), opener, box];
}

function drawGallery(panel) {
  const bar = h("div", { class: "bar stick" }), grid = h("div", { class: "grid", role: "grid", "aria-label": "Outputs" });
  const tally = h("div", { class: "bar" });
  const refresh = (from) => {
    writeAddress();
    matching = matches();
    if (from !== "search") bar.replaceChildren(...toolbar(refresh));
    tally.replaceChildren(...tallyLine(refresh));
    gallery.show(matching);
  };
  panel.replaceChildren(bar, tally, grid);
  gallery = new Grid(grid, refresh);
  refresh();
}

const sorter = (refresh) => choice("Sort", view.sort, Object.entries(SORTS).map(([key, [name]]) => [key, name]), (v) => { view.sort = v; refresh(); });

function tallyLine(refresh) {
  const outputs = matching.filter((entry) => entry.file).length, all = entries.filter((entry) => entry.file).length;
  const some = matching.length !== entries.length;
  const rest = matching.length - outputs, unseen = some ? 0 : Math.max(0, data.status.total - jobs.filter((job) => !job.orphaned).length);
  const words = [some ? `${number(outputs)} of ${plural(all, "output")}` : plural(outputs, "output"), rest && `${plural(rest, "job")} without one`, unseen && `${number(unseen)} not begun`].filter(Boolean).join(", ");
  const line = [h("span", { class: "tally", id: "tally" }, words)];
  if (some) line.push(h("button", { class: "button", type: "button", onclick: () => { Object.assign(view, START, { where: {} }); refresh(); } }, "Clear filters"));
  line.push(h("span", { class: "grow" }), sorter(refresh));
  const rejects = marked("reject"), options = [["", "all"], ["none", "unmarked"], ...Object.keys(MARKS).map((word) => [word, word]), ["unrejected", "all but reject"]];
  line.push(choice("Marks", view.mark, options, (v) => { view.mark = v; refresh(); }));
  if (rejects.length && !data.view) {
    line.push(
      h("button", { class: "button strong", type: "button", id: "save", title: ["for", data.commands.export, "DEST --except @rejects.txt", data.commands.redo_rejects && `or ${data.commands.redo_rejects}`].filter(Boolean).join(" "), onclick: () => saveList(rejects, "rejects.txt") }, `Save ${plural(rejects.length, "rejected id")}`));
  }
  if (Object.keys(ownMarks).length && !data.view) line.push(h("button", { class: "button", type: "button", id: "save-marks", title: "Put it into the run directory, for @marks:star and others", onclick: saveMarks }, "Save marks.jsonl"));
  return line;
}

// Height by width of the media area of all cards: that of the outputs in the middle, within limits.
function usualShape() {
  const shapes = entries.filter(({ file }) => file && file.width && file.height).map(({ file }) => file.height / file.width).sort((a, b) => a - b);
  return Math.min(SHAPE_MAX, Math.max(SHAPE_MIN, shapes.length ? shapes[shapes.length >> 1] : SHAPE_MIN));
}

// Whatever a card shows that may change.
const lookOf = (entry) => (entry ? JSON.stringify([entry.key, entry.job.state, entry.job.attempt, entry.file && entry.file.path, entry.job.quality, entry.job.cost_usd, entry.job.orphaned, markOf(entry.job.job), filterable.map((d) => d.name)]) : "");

class Grid {
  // Cards stand at computed places in a box as tall as all of them; only those near the window exist.
  constructor(box, refresh) {
    this.box = box;
    this.refresh = refresh;
    this.list = [];
    this.cards = new Map();
    this.focused = 0;
    this.lay = this.lay.bind(this);
    this.frame = 0;
    this.later = () => { if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.lay(); }); };
    addEventListener("scroll", this.later, { passive: true });
    this.watch = new ResizeObserver(this.later);
    this.watch.observe(box);
    box.addEventListener("keydown", (event) => this.key(event));
  }

  stop() {
    removeEventListener("scroll", this.later);
    this.watch.disconnect();
  }

  show(list) {
    const focused = this.box.contains(document.activeElement) && this.list[this.focused];
    this.list = list;
    this.shape = usualShape();
    for (const [index, card] of this.cards) {
      if (card.dataset.look === lookOf(list[index])) continue;  // as it was: a video in it plays on
      card.remove();
      this.cards.delete(index);
    }
    const same = focused ? list.findIndex((entry) => entry.key === focused.key || (entry.job.job === focused.job.job && !focused.file)) : -1;
    this.focused = same >= 0 ? same : Math.min(this.focused, Math.max(0, list.length - 1));
    this.lay();
    for (const [index, card] of this.cards) card.tabIndex = index === this.focused ? 0 : -1;
    if (same >= 0) this.cards.get(same)?.focus({ preventScroll: true });
  }

  measure() {
    const width = this.box.clientWidth;
    const columns = Math.max(1, Math.floor((width + CARD_GAP_PX) / (CARD_MIN_PX + CARD_GAP_PX)));
    const card = (width - (columns - 1) * CARD_GAP_PX) / columns;
    return { columns, card, height: Math.round(card * this.shape) + WORDS_PX };
  }

  lay() {
    const { columns, card, height } = this.measure();
    const step = height + CARD_GAP_PX, rows = Math.ceil(this.list.length / columns);
    this.columns = columns;
    this.step = step;
    this.box.style.height = this.list.length ? `${rows * step}px` : "auto";
    if (!this.list.length) return this.box.replaceChildren(h("div", { class: "empty" }, h("b", {}, entries.length ? "Nothing matches" : "Nothing yet"), entries.length ? "Loosen a filter, or clear them all." : "No job has been submitted."));
    this.box.querySelector(".empty")?.remove();
    const top = -this.box.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / step) - ROWS_AROUND) * columns;
    const last = Math.min(this.list.length, (Math.ceil((top + innerHeight) / step) + ROWS_AROUND) * columns);
    for (const [index, element] of this.cards) {
      if (index < first || index >= last) { element.remove(); this.cards.delete(index); }
    }
    for (let index = first; index < last; index++) {
      if (!this.cards.has(index)) this.add(index);
      Object.assign(this.cards.get(index).style, { left: `${(index % columns) * (card + CARD_GAP_PX)}px`, top: `${Math.floor(index / columns) * step}px`, width: `${card}px`, height: `${height}px` });
    }
  }

  add(index) {
    const card = cardOf(this.list[index], () => openDetail(this.list, index), this.refresh);
    card.dataset.look = lookOf(this.list[index]);
    card.tabIndex = index === this.focused ? 0 : -1;
    card.addEventListener("focus", () => { this.focused = index; });
    if (data.view && !known.has(this.list[index].key)) card.classList.add("fresh");
    this.cards.set(index, card);
    this.box.append(card);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, Home: -this.list.length, End: this.list.length };
    if (!event.target.classList.contains("card")) return;
    if (event.key in moves) this.focus(this.focused + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") openDetail(this.list, this.focused);
    else if (markWithKey(event)) { toggleMark(this.list[this.focused].job.job, markWithKey(event)); this.refresh(); this.focus(this.focused); }
    else return;
    event.preventDefault();
  }

  focus(index) {
    const at = Math.min(Math.max(0, index), this.list.length - 1);
    this.focused = at;
    const y = Math.floor(at / this.columns) * this.step + this.box.getBoundingClientRect().top + scrollY;
    if (y < scrollY + 60 || y + this.step > scrollY + innerHeight) scrollTo({ top: y - innerHeight / 3 });
    this.lay();
    for (const [i, card] of this.cards) card.tabIndex = i === at ? 0 : -1;
    this.cards.get(at)?.focus({ preventScroll: true });
  }
}

function mediaOf(entry) {
  const { file, job } = entry, kind = (file && file.type || "").split("/")[0];
  if (!file) return h("div", { class: `none s-${job.state}` }, h("b", {}, job.state), job.message || waiting(job.state));
  if (file.away && !data.view) return h("div", { class: "none" }, h("b", {}, "Not shown here"), `It lies in the bucket: ${file.away}`);
  const onerror = (event) => event.target.replaceWith(unloadable(file));
  if (kind === "image") return h("img", { src: file.path, alt: job.prompt || job.job, loading: "lazy", decoding: "async", onerror });
  if (kind === "video") return h("video", { src: `${file.path}#t=0.1`, muted: true, loop: true, playsinline: true, preload: "metadata", "aria-label": job.prompt || job.job, onerror });
  return h("div", { class: "none" }, h("b", {}, file.type || "file"), nameOf(file));
}

const nameOf = (file) => decodeURIComponent(file.path).split("/").pop();

// Deleted or moved since, out of reach, or of a kind that this browser can't show.
function unloadable(file) {
  return h("div", { class: "none" }, h("b", {}, "Can't be loaded"), file.away || `${nameOf(file)}: moved, deleted, or nothing that this browser can show`);
}

const waiting = (state) => ({ submitted: "Running at the API", completed: "Generated, not yet downloaded", unknown: "The POST left and no clear answer came", pending: "Not accepted yet" })[state] || "";
const still = matchMedia("(prefers-reduced-motion: reduce)");

function playsOn(element, thumb) {
  const video = thumb.querySelector("video");
  if (!video) return;
  video.muted = true;
  const play = () => { if (!still.matches) video.play().catch(() => {}); };
  const stop = () => { video.pause(); };
  element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") play(); });
  element.addEventListener("pointerleave", stop);
  element.addEventListener("focus", play);
  element.addEventListener("blur", stop);
}

// Clips of a view that is being drawn anew, by what they show: one that plays goes on.
let keptThumbs = new Map();

function keepThumbs(draw) {
  keptThumbs = new Map([...document.querySelectorAll(".tilelet .thumb:has(video)")].map((thumb) => [thumb.shows, thumb]));
  draw();
  keptThumbs = new Map();
}

function thumbOf(entry) {
  const { job, file } = entry, shows = JSON.stringify([entry.key, file, job.state, job.media, job.quality, job.orphaned]);
  if (keptThumbs.has(shows)) return keptThumbs.get(shows);
  const thumb = Object.assign(h("div", { class: "thumb" }, mediaOf(entry)), { shows });
  const local = (job.media || []).find((m) => m.path && /\.(png|jpe?g|webp|gif|avif)$/i.test(m.path));
  if (file && local) thumb.append(h("img", { class: "inset", src: local.path, alt: `input ${local.field}`, title: "the input image", loading: "lazy" }));
  if (job.quality) thumb.append(h("span", { class: "badge bad", title: job.quality }, job.quality));
  else if (job.orphaned) thumb.append(h("span", { class: "badge" }, "left the manifest"));
  if (file && file.duration_s) thumb.append(h("span", { class: "clip" }, `${file.duration_s.toFixed(1)} s`));
  return thumb;
}

function chipsOf(job) {
  // The prompt says its variables already.
  const said = (d) => isVariable(d) && valueOf(job, d.name).length > 2 && (job.prompt || "").includes(valueOf(job, d.name));
  const chips = filterable.filter((d) => valueOf(job, d.name) !== MISSING && !said(d)).map((d) => h("span", { class: "chip", title: valueOf(job, d.name) }, h("i", {}, d.label), short(valueOf(job, d.name))));
  return chips.length ? chips : [h("span", { class: "chip" }, shortModel(job.model))];
}

function cardOf(entry, open, refresh) {
  const { job, file } = entry, rejected = markOf(job.job) === "reject";
  const thumb = thumbOf(entry);
  thumb.append(h("div", { class: "marks" }, markButtons(job.job, refresh)));
  const card = h("article", { class: rejected ? "card rejected" : "card", role: "gridcell", "data-job": job.job, "aria-label": `${job.prompt || job.job}, ${job.state}`, onclick: open },
    thumb,
    h("div", { class: "words" },
      h("p", { class: "prompt", title: job.prompt || "" }, job.prompt || job.job),
      h("div", { class: "chips" }, chipsOf(job)),
      h("div", { class: "facts" },
        h("b", {}, money(job.cost_usd)),
        entry.took_s !== null && h("span", { title: "from POST to completion" }, duration(entry.took_s)),
        file && h("span", {}, size(file.bytes)),
        file && file.width && h("span", {}, `${file.width}×${file.height}`))));
  playsOn(card, thumb);
  return card;
}
