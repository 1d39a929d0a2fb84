// The frame: head, summary, tabs, keys, theme, and looking again while the run goes on.
const TABS = { gallery: ["Gallery", drawGallery], compare: ["Compare", drawCompare], problems: ["Problems", drawProblems], plots: ["Plots", drawPlots] };
const THEMES = ["auto", "light", "dark"];

function drawHead() {
  const { run, status } = data, models = [...new Set(jobs.map((job) => shortModel(job.model)))];
  const spent = run.began_ms && run.ended_ms ? `, ${run.runs > 1 ? `${run.runs} runs` : `ran ${duration((run.ended_ms - run.began_ms) / 1000)}`}` : "";
  const words = [models.length > 2 ? `${models.length} models` : models.join(", "), run.began_ms && `began ${moment(run.began_ms)}${spent}`, run.api === "sandbox" && "sandbox"].filter(Boolean).join(" · ");
  byId("top").replaceChildren(h("div", { class: "grow" }, h("h1", {}, data.batch), h("p", {}, words)), ...[liveOf(status)].filter(Boolean), h("button", { class: "pill", type: "button", title: "Keys (?)", "aria-label": "Keys", onclick: showKeys }, "?"), h("button", { class: "pill", type: "button", id: "theme", onclick: nextTheme }));
  setTheme(document.documentElement.dataset.theme || "auto");
}

function liveOf(status) {
  if (data.view && document.documentElement.dataset.link === "off") return h("span", { class: "pill live", id: "live", title: "batcher view has ended" }, "Not connected");
  if (data.view) return h("span", { class: status.live ? "pill live" : "pill live paused", id: "live" }, status.live ? "Live" : "Run ended");
  if (!status.live) return null;
  if (!data.refresh_s) return h("span", { class: "pill live paused" }, `Running · as of ${clock(Date.parse(data.made_at))}`);
  let timer = 0;
  const pill = h("button", { class: "pill live", type: "button", title: "Looks for a newer page; press to pause" });
  const set = (going) => {
    clearTimeout(timer);
    pill.classList.toggle("paused", !going);
    pill.textContent = going ? `Live · every ${duration(data.refresh_s)}` : "Live · paused";
    if (going) timer = setTimeout(lookAgain, data.refresh_s * 1000);
  };
  pill.addEventListener("click", () => set(pill.classList.contains("paused")));
  set(true);
  return pill;
}

// Not while somebody looks at one output or types; the address keeps the view, the session its place.
function lookAgain() {
  if (sheet.open || document.activeElement?.tagName === "INPUT") setTimeout(lookAgain, 2000);
  else {
    try { sessionStorage.setItem("batcher.scroll", String(scrollY)); } catch { /* then from the top */ }
    location.reload();
  }
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" }[theme];
  byId("theme").setAttribute("aria-label", `Theme: ${theme}`);
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "auto") + 1) % THEMES.length];
  try { localStorage.setItem("batcher.theme", theme); } catch { /* for this page only */ }
  setTheme(theme);
}

const tile = (title, big, note) => h("div", { class: "tile" }, h("h2", {}, title), h("div", { class: "big" }, big), note && h("div", { class: "note" }, note));

function drawTiles() {
  const { status } = data, took = entries.map((entry) => entry.took_s).filter((s) => s !== null).sort((a, b) => a - b);
  const used = STATES.filter((state) => status[state]);
  const meter = h("div", { class: "meter", role: "img", "aria-label": used.map((state) => `${status[state]} ${state}`).join(", ") }, used.map((state) => h("i", { class: `s-${state}`, style: { flexGrow: String(status[state]) } })));
  const progress = h("div", { class: "tile" }, h("h2", {}, "Jobs"), h("div", { class: "big" }, number(status.done), h("small", {}, ` of ${number(status.total)} done`)), meter,
    h("div", { class: "legend" }, used.map((state) => h("span", {}, dot(state), h("b", {}, number(status[state])), ` ${state}`)), paceOf(status) && h("span", { id: "pace" }, paceOf(status))));
  const finished = jobs.filter((job) => job.state === "done");
  const each = finished.length ? finished.reduce((sum, job) => sum + (job.cost_usd || 0), 0) / finished.length : null;
  const wrong = problemCount();
  byId("tiles").replaceChildren(progress,
    tile("Cost", money(status.cost_usd), status.unpriced_attempts ? `and ${plural(status.unpriced_attempts, "attempt")} of unknown price` : each !== null ? `${money(each)} a finished job` : null),
    tile("Outputs", number(entries.filter((entry) => entry.file).length), size(status.bytes)),
    tile("Typical wait", took.length ? duration(took[took.length >> 1]) : "—", took.length ? `longest ${duration(took.at(-1))}` : "POST to completion"),
    tile("Needs a look", number(wrong), wrong ? [status.failed && `${status.failed} failed`, status.unknown && `${status.unknown} unknown`, status.bad_quality && `${status.bad_quality} poor`, status.cancelled && `${status.cancelled} cancelled`].filter(Boolean).join(", ") : "nothing went wrong"));
}

function drawTabs() {
  const counts = { problems: problemCount() };
  byId("tabs").replaceChildren(...Object.entries(TABS).map(([name, [title]]) =>
    h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(view.tab === name), "aria-controls": "panel", tabindex: view.tab === name ? 0 : -1, onclick: () => show(name) }, title, counts[name] ? h("span", { class: "count" }, number(counts[name])) : null)));
  byId("panel").setAttribute("aria-labelledby", `tab-${view.tab}`);
}

function show(name) {
  view.tab = name in TABS ? name : "gallery";
  if (gallery) { gallery.stop(); gallery = null; }
  writeAddress();
  drawTabs();
  TABS[view.tab][1](byId("panel"));
}

byId("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(TABS), by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  show(names[(names.indexOf(view.tab) + by + names.length) % names.length]);
  byId(`tab-${view.tab}`).focus();
});

addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (event.key === "?" && !typing) showKeys();
  if (event.key === "/" && !typing && !sheet.open) { event.preventDefault(); byId("search")?.focus(); }
  if (event.key === "Escape" && event.target.id === "search") event.target.blur();
});
const KEYS = [["/", "search"], ["← → ↑ ↓", "from card to card, from output to output"], ["Enter", "one output, large"], ["s  k  x", "star, keep, reject; again: take it back"],
  ["n", "a note on the large one"], ["f", "only the output, as large as the window"], ["2", "the next one beside it"], ["Esc", "back"], ["?", "these keys"]];

function showKeys() {
  const box = byId("keys");
  box.replaceChildren(h("div", { class: "side" }, h("header", {}, h("b", {}, "Keys"), h("span", { class: "grow" }), h("button", { class: "button", type: "button", "aria-label": "Close", onclick: () => box.close() }, "✕")),
    h("dl", {}, KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]))));
  if (!box.open) box.showModal();
}

addEventListener("hashchange", () => { readAddress(); show(view.tab); });

try { const theme = localStorage.getItem("batcher.theme"); if (THEMES.includes(theme) && theme !== "auto") document.documentElement.dataset.theme = theme; } catch { /* auto */ }
readAddress();
drawHead();
drawTiles();
show(view.tab);
follow();
try { const y = sessionStorage.getItem("batcher.scroll"); if (y) scrollTo(0, Number(y)); sessionStorage.removeItem("batcher.scroll"); } catch { /* from the top */ }
document.documentElement.dataset.ready = String(Math.round(performance.now()));
