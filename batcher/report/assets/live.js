// `batcher view`: the same page, told of changes by the server, which keeps the marks.
const unsent = new Map(), SETTLES_MS = 3000;
let known = new Set();

function takeMarks() {
  const mine = new Map([...unsent.keys()].map((id) => [id, marks.get(id)]));
  marks.clear();
  for (const [id, mark] of [...Object.entries(data.marks || {}), ...mine]) marks.set(id, mark);
}

// One after the other: the last mark of a job is the one that counts.
let sending = Promise.resolve();
const send = (id) => {
  const sent = {};
  unsent.set(id, sent);
  sending = sending.then(() => deliver(id, sent));
};

async function deliver(id, sent) {
  if (unsent.get(id) !== sent) return;  // marked again meanwhile: that one is on its way
  try {
    const answer = await fetch("marks", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ job: id, ...marks.get(id) }) });
    // Data that were on their way meanwhile may not know of it yet.
    sent.saved = answer.ok;
    if (answer.ok) setTimeout(() => { if (unsent.get(id) === sent) unsent.delete(id); }, SETTLES_MS);
    else toast(`Not saved: ${await answer.text()}`);
  } catch {
    toast("Not saved: batcher view has ended. Start it again and open its new address");
  }
}

async function lookNow() {
  const answer = await fetch("data");
  if (!answer.ok) return;
  known = new Set(entries.map((entry) => entry.key));
  takeData(await answer.json());
  takeMarks();
  drawHead();
  drawTiles();
  drawTabs();
  if (view.tab === "gallery" && gallery) {
    if (document.activeElement?.tagName !== "SELECT") gallery.refresh(document.activeElement?.id);
  } else if (!sheet.open && !["INPUT", "SELECT"].includes(document.activeElement?.tagName)) redraw();
}

// The view anew, with everything where it was: the window, a wide table, the keyboard's focus, a clip that plays.
function redraw() {
  const left = document.querySelector(".matrix")?.scrollLeft || 0, top = scrollY, at = document.activeElement?.dataset.key;
  keepThumbs(() => TABS[view.tab][1](byId("panel")));
  const box = document.querySelector(".matrix");
  if (box) box.scrollLeft = left;
  scrollTo(0, top);
  if (at) [...document.querySelectorAll("[data-key]")].find((tile) => tile.dataset.key === at)?.focus({ preventScroll: true });
}

function setLink(state) {
  if (document.documentElement.dataset.link === state) return;
  document.documentElement.dataset.link = state;
  drawHead();
}

function follow() {
  if (!data.view) return;
  sendMark = send;
  known = new Set(entries.map((entry) => entry.key));
  let version = null;
  const events = new EventSource("events");
  events.addEventListener("open", () => { setLink("on"); for (const [id, sent] of unsent) if (!sent.saved) send(id); });
  events.addEventListener("error", () => setLink("off"));
  events.addEventListener("message", (event) => {
    if (event.data !== version) lookNow().catch(() => {});
    version = event.data;
  });
}

// How fast the last outputs came, and how long the rest will take at that rate.
const RATE_OVER = 20;
function paceOf(status) {
  const ends = jobs.map((job) => (job.state === "done" ? job.finished_ms : null)).filter(Boolean).sort((a, b) => a - b).slice(-RATE_OVER);
  const left = status.pending + status.submitted + status.completed + status.unknown;
  if (!status.live || ends.length < 3 || !left) return null;
  const perMs = (ends.length - 1) / Math.max(1, Date.now() - ends[0]);
  return `${(perMs * 60000).toFixed(perMs * 60000 < 10 ? 1 : 0)} a minute, about ${duration(left / perMs / 1000)} left`;
}
