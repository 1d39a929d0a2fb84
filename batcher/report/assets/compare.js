// The same thing, made differently: a table of outputs over two chosen parameters.
const ROWS_AT_ONCE = 24, COLUMNS_MAX = 24, PER_CELL = 12, TILE_PX = 220, TILE_MIN_PX = 124, TILE_SHAPE = 9 / 16;

function comparable() {
  return dimensions.filter((d) => d.name === "prompt" || d.values.length <= FILTER_VALUES_MAX);
}

function chosenAxes() {
  const names = comparable();
  const known = (name) => names.some((d) => d.name === name);
  const cols = known(view.cols) ? view.cols : (mostTelling(names) || names[0]).name;
  const others = names.filter((d) => d.name !== cols);
  const rows = known(view.rows) && view.rows !== cols ? view.rows : (others.find((d) => d.name === "prompt") || others[0] || {}).name;
  return { rows, cols };
}

// The parameter that varies under the most prompts; among equals the one with the fewest values.
function mostTelling(names) {
  const rank = names.filter((d) => d.name !== "prompt");
  rank.sort((a, b) => b.telling - a.telling || a.values.length - b.values.length);
  return rank.length ? rank[0] : null;
}

function drawCompare(panel) {
  if (!comparable().length) {
    panel.replaceChildren(h("div", { class: "empty" }, h("b", {}, "Nothing to compare"), "All jobs have the same inputs. A matrix in the manifest makes variants."));
    return;
  }
  const bar = h("div", { class: "bar" }), box = h("div");
  const refresh = (from) => {
    writeAddress();
    if (from !== "search") bar.replaceChildren(...axes(refresh), ...toolbar(refresh));
    box.replaceChildren(matrixOf(chosenAxes()));
  };
  panel.replaceChildren(bar, box);
  refresh();
}

function axes(refresh) {
  const { rows, cols } = chosenAxes(), options = comparable().map((d) => [d.name, d.label]);
  const set = (axis, other, current) => (value) => {
    if (value === current[other]) view[other] = current[axis];
    view[axis] = value;
    refresh();
  };
  const current = { rows, cols };
  return [choice("Rows", rows, options, set("rows", "cols", current)), choice("Columns", cols, options, set("cols", "rows", current))];
}

function cellsOf(found, rows, cols) {
  const cells = new Map();
  for (const entry of found) {
    const row = rows ? valueOf(entry.job, rows) : "", col = valueOf(entry.job, cols);
    if (!cells.has(row)) cells.set(row, new Map());
    const line = cells.get(row);
    if (!line.has(col)) line.set(col, []);
    line.get(col).push(entry);
  }
  return cells;
}

function matrixOf({ rows, cols }) {
  const found = matches().filter((entry) => valueOf(entry.job, cols) !== MISSING), cells = cellsOf(found, rows, cols);
  const columns = [...new Set(found.map((entry) => valueOf(entry.job, cols)))].sort(naturally).slice(0, COLUMNS_MAX);
  const labels = rows === "prompt" ? [...cells.keys()] : [...cells.keys()].sort(naturally);
  const label = (name) => (dimensions.find((d) => d.name === name) || {}).label || "";
  const body = h("tbody");
  const more = h("button", { class: "button", type: "button" }, "Show more rows");
  const grow = () => {
    const from = body.children.length;
    for (const name of labels.slice(from, from + ROWS_AT_ONCE)) {
      body.append(h("tr", {}, h("th", { scope: "row" }, name), columns.map((col) => h("td", {}, cellOf(cells.get(name).get(col) || [], [rows, cols])))));
    }
    more.hidden = body.children.length >= labels.length;
  };
  more.addEventListener("click", grow);
  grow();
  if (!found.length) return h("div", { class: "empty" }, h("b", {}, "Nothing matches"), "Loosen a filter.");
  const head = h("thead", {}, h("tr", {}, h("th", {}, `${label(rows)} \\ ${label(cols)}`), columns.map((col) => h("th", { scope: "col" }, col))));
  return h("div", {}, h("div", { class: "matrix", tabindex: 0, "aria-label": "Comparison" }, h("table", {}, head, body)), h("div", { class: "bar" }, more));
}

// What tells the outputs of one cell apart: parameters that differ in it, else which sample, which file.
function captionsOf(found, axes) {
  const differing = dimensions.filter((d) => !axes.includes(d.name) && new Set(found.map((entry) => valueOf(entry.job, d.name))).size > 1)
    .sort((a, b) => isLong(a) - isLong(b) || (b.label === "seed") - (a.label === "seed"));
  const samples = [...new Set(found.map((entry) => entry.job))];
  return found.map((entry) => {
    const words = differing.slice(0, 3).map((d) => `${d.label} ${short(valueOf(entry.job, d.name))}`);
    if (!words.length && samples.length > 1) words.push(`sample ${samples.indexOf(entry.job) + 1}`);
    if ((entry.job.files || []).length > 1) words.push(`file ${entry.number + 1}`);
    if (!words.length) words.push(...singleOf(entry));
    if (markOf(entry.job.job)) words.push(MARKS[markOf(entry.job.job)][0]);
    return words.join(" · ");
  });
}

function singleOf({ job, file }) {
  const seed = valueOf(job, "input.seed");
  if (seed !== MISSING) return [`seed ${seed}`];
  return file ? [file.width && `${file.width}×${file.height}`, file.duration_s && `${file.duration_s.toFixed(1)} s`].filter(Boolean) : [job.state];
}

// All tiles have the same area, so that a portrait and a landscape are compared at one scale.
function tileShape(file) {
  const shape = file && file.width && file.height ? file.height / file.width : TILE_SHAPE;
  const width = Math.round(Math.max(TILE_MIN_PX, Math.min(TILE_PX * 1.3, Math.sqrt((TILE_PX * TILE_PX * TILE_SHAPE) / shape))));
  return { width: `min(100%, ${width}px)`, shape: `1 / ${shape}` };
}

function cellOf(found, axes) {
  if (!found.length) return h("div", { class: "hole" }, MISSING);
  const captions = captionsOf(found, axes);
  const shownHere = found.slice(0, PER_CELL).map((entry, at) => {
    const thumb = thumbOf(entry), { width, shape } = tileShape(entry.file);
    thumb.style.aspectRatio = shape;
    const tile = h("button", { class: "tilelet", style: { width }, title: captions[at], type: "button", "data-job": entry.job.job, "aria-label": `${entry.job.prompt || entry.job.job}, ${entry.job.state}`, onclick: () => openDetail(found, at) },
      thumb, h("span", { class: "cap" }, captions[at]));
    playsOn(tile, thumb);
    return tile;
  });
  if (found.length > PER_CELL) shownHere.push(h("button", { class: "button", type: "button", onclick: () => openDetail(found, PER_CELL) }, `${found.length - PER_CELL} more`));
  return h("div", { class: "cell" }, shownHere);
}
