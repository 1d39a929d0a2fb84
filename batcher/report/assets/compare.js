// The same thing, made differently: a table of outputs over two chosen parameters.
const ROWS_AT_ONCE = 24, COLUMNS_MAX = 24, PER_CELL = 12, TILE_PX = 220, LARGE_TILE_PX = 360, SMALL_TILE_PX = 150, ROW_TITLE_PX = 220, CELL_PX = 18, GAP_IN_CELL_PX = 8, TILE_MIN_PX = 124, TILE_SHAPE = 9 / 16, VALUE_CHARS = 60;

let rowsShown = 0;

function comparable() {
  return dimensions.filter((d) => d.name === "prompt" || d.values.length <= FILTER_VALUES_MAX);
}

function chosenAxes() {
  const names = comparable();
  const known = (name) => names.some((d) => d.name === name);
  const cols = known(view.cols) ? view.cols : (mostTelling(names) || names[0]).name;
  const others = names.filter((d) => d.name !== cols);
  return { rows: known(view.rows) && view.rows !== cols ? view.rows : usualRows(others, cols), cols };
}

// Beside a variable another one, which together make the prompts; else the prompts.
function usualRows(others, cols) {
  const pair = cols.startsWith("var.") && others.find(isVariable);
  return (pair || others.find((d) => d.name === "prompt") || others[0] || {}).name;
}

// The parameter that varies under the most prompts, else a variable of theirs; among equals the one with the fewest values.
function mostTelling(names) {
  const rank = names.filter((d) => d.name !== "prompt");
  rank.sort((a, b) => b.telling - a.telling || isVariable(b) - isVariable(a) || a.values.length - b.values.length);
  return rank.length ? rank[0] : null;
}

function drawCompare(panel) {
  if (!comparable().length) {
    const why = jobs.length > 1 ? "All jobs have the same inputs. A matrix in the manifest makes variants." : "That takes two jobs that differ. A matrix in the manifest makes variants.";
    panel.replaceChildren(h("div", { class: "empty" }, h("b", {}, "Nothing to compare"), why));
    return;
  }
  const bar = h("div", { class: "bar" }), box = h("div", { class: "compare" });
  const refresh = (from) => {
    writeAddress();
    if (from !== "search") bar.replaceChildren(h("div", { class: "axes" }, axes(refresh)), ...toolbar(refresh));
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
    rowsShown = 0;
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
  const all = matches(), found = all.filter((entry) => [rows, cols].every((name) => !name || valueOf(entry.job, name) !== MISSING)), cells = cellsOf(found, rows, cols);
  const columns = [...new Set(found.map((entry) => valueOf(entry.job, cols)))].sort(naturally).slice(0, COLUMNS_MAX);
  const labels = rows === "prompt" ? [...cells.keys()] : [...cells.keys()].sort(naturally);
  const label = (name) => (dimensions.find((d) => d.name === name) || {}).label || "";
  const long = (value) => cut(value, VALUE_CHARS);
  const most = Math.max(0, ...[...cells.values()].flatMap((line) => [...line.values()].map((found) => found.length)));
  const tilePx = tilePxOf(most, columns.length);
  const body = h("tbody");
  const more = h("button", { class: "button", type: "button" }, "Show more rows");
  const grow = () => {
    const from = body.children.length;
    for (const name of labels.slice(from, Math.max(rowsShown, from + ROWS_AT_ONCE))) {
      body.append(h("tr", {}, h("th", { scope: "row", title: name }, h("div", { class: "clamp" }, name)), columns.map((col) => h("td", {}, cellOf(cells.get(name).get(col) || [], [rows, cols], tilePx)))));
    }
    rowsShown = body.children.length;
    more.hidden = rowsShown >= labels.length;
  };
  more.addEventListener("click", grow);
  grow();
  if (!found.length) return h("div", { class: "empty" }, h("b", {}, all.length ? "No job has both" : "Nothing matches"), all.length ? `Choose another parameter than ${label(rows)} or ${label(cols)}.` : "Loosen a filter.");
  const titles = () => h("tr", {}, h("th", {}, `${label(rows)} \\ ${label(cols)}`), columns.map((col) => h("th", { scope: "col", title: col }, long(col))));
  return h("div", {}, framed(h("table", {}, h("thead", {}, titles()), body), h("table", {}, h("tbody", {}, titles())), { "--columns": columns.length, "--column-max": `${Math.min(most, 2) * (tilePx + GAP_IN_CELL_PX) + CELL_PX}px` }),
    h("div", { class: "bar" }, more, all.length > found.length && h("span", { class: "tally" }, `Not here: ${plural(all.length - found.length, "output")} of jobs without ${[rows, cols].filter((name) => all.some((entry) => valueOf(entry.job, name) === MISSING)).map(label).join(" or ")}.`)));
}

// The page scrolls the rows, so that there is one vertical scrollbar; only wide tables scroll, sideways, in a box of their
// own. What scrolls sideways can't hold a title row at the top of the window: a copy above the box does.
function framed(table, titles, widths) {
  for (const each of [table, titles]) for (const name in widths) each.style.setProperty(name, widths[name]);
  const box = h("div", { class: "matrix", tabindex: 0, role: "region", "aria-label": "Comparison" }, table);
  const head = h("div", { class: "matrix-head", "aria-hidden": "true" }, titles);
  box.addEventListener("scroll", () => { head.scrollLeft = box.scrollLeft; }, { passive: true });
  const frame = h("div", { class: "comparison" }, head, box);
  new ResizeObserver(() => frame.classList.toggle("fits", table.offsetWidth <= frame.clientWidth)).observe(frame);
  return frame;
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

// As wide as the window allows: large if cells hold one output, else so that two stand side by side.
function tilePxOf(most, columns) {
  const room = (byId("panel").clientWidth - ROW_TITLE_PX) / columns - CELL_PX;
  const each = most > 1 ? Math.floor((room - GAP_IN_CELL_PX) / 2) : room;
  return each < SMALL_TILE_PX ? TILE_PX : Math.min(most > 1 ? TILE_PX : LARGE_TILE_PX, each);
}

// All tiles have the same area, so that a portrait and a landscape are compared at one scale.
function tileShape(file, px) {
  const shape = file && file.width && file.height ? file.height / file.width : TILE_SHAPE;
  const width = Math.round(Math.max(TILE_MIN_PX, Math.min(px * 1.3, Math.sqrt((px * px * TILE_SHAPE) / shape))));
  return { width: `min(100%, ${width}px)`, shape: `1 / ${shape}` };
}

function cellOf(found, axes, tilePx) {
  if (!found.length) return h("div", { class: "hole" }, MISSING);
  const captions = captionsOf(found, axes);
  const shownHere = found.slice(0, PER_CELL).map((entry, at) => {
    const thumb = thumbOf(entry), { width, shape } = tileShape(entry.file, tilePx);
    thumb.style.aspectRatio = shape;
    const cap = h("span", { class: "cap" }, captions[at]);
    const tile = h("button", { class: "tilelet", style: { width }, title: captions[at], type: "button", "data-job": entry.job.job, "data-key": entry.key, "aria-label": `${entry.job.prompt || entry.job.job}, ${captions[at]}, ${entry.job.state}`, onclick: () => openDetail(found, at) },
      thumb, cap);
    tile.addEventListener("keydown", (event) => {
      if (!markWithKey(event)) return;
      toggleMark(entry.job.job, markWithKey(event));
      cap.textContent = captionsOf(found, axes)[at];
    });
    playsOn(tile, thumb);
    return tile;
  });
  if (found.length > PER_CELL) shownHere.push(h("button", { class: "button", type: "button", onclick: () => openDetail(found, PER_CELL) }, `${found.length - PER_CELL} more`));
  return h("div", { class: "cell" }, shownHere);
}
