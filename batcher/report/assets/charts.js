// Plots as SVG, drawn for the width they get, so that text keeps its size on a phone.
const MARGIN = { top: 10, right: 12, bottom: 26, left: 44 }, GAP_PX = 22, TAIL = 0.02;

function drawPlots(panel) {
  const series = data.series;
  if (!series.states) {
    panel.replaceChildren(h("div", { class: "empty" }, h("b", {}, "Nothing to plot yet"), "No job has been submitted."));
    return;
  }
  const held = Object.values(series.incidents.kinds).some((counts) => counts.some(Boolean));
  const plots = [
    plotOf("Jobs over time", "Every job of the batch by its state" + (series.gaps.length ? "; dotted lines mark idle time left out" : ""), drawStates, 270, true, stateLegend()),
    plotOf("Cost so far", "Every attempt that may have been charged, at its reported cost or its price", drawCost, 210, !held),
    held && plotOf("Held up", "Jobs turned away, POSTs without an answer, attempts after the first", drawIncidents, 210, false, incidentLegend()),
    series.generation.length && plotOf("Time from POST to completion", "Queue and generation together, by model; the line marks the median, the band the middle half", drawTimes, 40 + 86 * series.generation.length, true),
  ].filter(Boolean);
  panel.replaceChildren(h("div", { class: "plots" }, plots.map((plot) => plot.element)));
  for (const plot of plots) plot.start();
}

function plotOf(title, words, draw, height, wide, legend) {
  const canvas = h("div", { class: "canvas" });
  const element = h("section", { class: wide ? "plot wide" : "plot" }, h("h3", {}, title), h("p", {}, words), canvas, legend);
  const start = () => new ResizeObserver(() => {
    const width = canvas.clientWidth;
    if (!width || canvas.dataset.width === String(width)) return;
    canvas.dataset.width = width;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${title}. ${words}` });
    const tip = h("div", { class: "tip", hidden: true });
    canvas.replaceChildren(picture, tip);
    draw(picture, { width, height, x0: MARGIN.left, x1: width - MARGIN.right, y0: height - MARGIN.bottom, y1: MARGIN.top }, tip);
  }).observe(canvas);
  return { element, start };
}

const usedStates = () => STATES.filter((state) => data.series.states[state].some((count) => count));
const stateLegend = () => h("div", { class: "legend" }, usedStates().map((state) => h("span", {}, dot(state), state)));

// ---- scales
function niceTicks(high, about) {
  const rough = high / about || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const ticks = [];
  for (let value = 0; value <= high + step * 1e-6; value += step) ticks.push(value);
  return ticks;
}

// Time to pixels, with long idle stretches folded to a narrow band.
function timeScale(box) {
  const { states, gaps } = data.series, start = states.at[0], last = states.at.at(-1);
  const end = Math.max(last + (last - start) * TAIL, start + 1000);
  const idle = gaps.reduce((sum, [from, to]) => sum + to - from, 0);
  const perMs = (box.x1 - box.x0 - gaps.length * GAP_PX) / Math.max(1, end - start - idle);
  const scale = (ms) => {
    let x = box.x0 + (ms - start) * perMs;
    for (const [from, to] of gaps) {
      if (ms >= to) x += GAP_PX - (to - from) * perMs;
      else if (ms > from) x += ((ms - from) / (to - from)) * GAP_PX - (ms - from) * perMs;
    }
    return x;
  };
  return { scale, start, end, gaps };
}

const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

function timeAxis(picture, box, time) {
  const about = Math.max(2, Math.floor((box.x1 - box.x0) / 130)), days = new Date(time.start).toDateString() !== new Date(time.end).toDateString();
  const dayEdge = new Date(time.start).getTimezoneOffset() * 60000;
  const spans = [], edges = [time.start, ...time.gaps.flat(), time.end];
  for (let i = 0; i < edges.length; i += 2) spans.push([edges[i], edges[i + 1]]);
  const all = spans.reduce((sum, [a, b]) => sum + time.scale(b) - time.scale(a), 0);
  let last = -Infinity;
  for (const [from, to] of spans) {
    const share = Math.max(1, Math.round((about * (time.scale(to) - time.scale(from))) / all));
    const step = 1000 * (TIME_STEPS_S.find((s) => (to - from) / (s * 1000) <= share) || TIME_STEPS_S.at(-1));
    const even = Math.ceil((from - dayEdge) / step) * step + dayEdge;
    for (let ms = even <= to ? even : from; ms <= to; ms += step) {
      const x = time.scale(ms);
      if (x - last < (days ? 92 : 66)) continue;
      last = x;
      const anchor = x < box.x0 + 20 ? "start" : x > box.x1 - 30 ? "end" : "middle";
      picture.append(svg("text", { x, y: box.y0 + 18, "text-anchor": anchor }, clock(ms, days)));
    }
  }
  for (const [from, to] of time.gaps) {
    const x = (time.scale(from) + time.scale(to)) / 2;
    picture.append(svg("line", { class: "gap", x1: x, x2: x, y1: box.y1, y2: box.y0 }, svg("title", {}, `${duration((to - from) / 1000)} idle`)));
  }
}

function valueAxis(picture, box, high, words, whole = true) {
  const ticks = niceTicks(high, whole ? Math.min(4, high) : 4).filter((tick) => !whole || Number.isInteger(tick)), top = Math.max(high, ticks.at(-1));
  const scale = (value) => box.y0 - (value / top) * (box.y0 - box.y1);
  for (const tick of ticks) {
    const y = Math.round(scale(tick)) + 0.5;
    picture.append(svg("line", { class: "gridline", x1: box.x0, x2: box.x1, y1: y, y2: y }), svg("text", { x: box.x0 - 8, y: y + 4, "text-anchor": "end" }, words(tick)));
  }
  return scale;
}

const stateColour = (state) => `var(--${state})`;
const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
// Stairs through the points; the last step is as long as the axis, so that how it ended can be seen.
const stairs = (xs, ys, end) => [...steps(xs, ys), [end, ys.at(-1)]];
const steps = (xs, ys) => xs.flatMap((x, i) => (i ? [[x, ys[i - 1]], [x, ys[i]]] : [[x, ys[i]]]));

// ---- the batch as a timeline
function drawStates(picture, box, tip) {
  const { states } = data.series, time = timeScale(box), xs = states.at.map(time.scale);
  const total = Math.max(...states.at.map((_, i) => STATES.reduce((sum, state) => sum + states[state][i], 0)), 1);
  const y = valueAxis(picture, box, total, number);
  let floor = xs.map(() => 0);
  for (const state of usedStates()) {
    const base = floor, top = states[state].map((count, i) => count + base[i]);
    const area = [...stairs(xs, top.map(y), box.x1), ...stairs(xs, base.map(y), box.x1).reverse()];
    picture.append(svg("path", { d: `${line(area)}Z`, style: { fill: stateColour(state), opacity: "0.92" } }));
    floor = top;
  }
  timeAxis(picture, box, time);
  hover(picture, box, xs, tip, (i) => [moment(states.at[i]), usedStates().map((state) => [state, number(states[state][i])]).filter(([, count]) => count !== "0")]);
}

function drawCost(picture, box, tip) {
  const { states } = data.series, time = timeScale(box), xs = states.at.map(time.scale);
  const y = valueAxis(picture, box, Math.max(...states.spent_usd, 0.01), (usd) => `$${usd >= 1000 ? `${usd / 1000}k` : +usd.toFixed(3)}`, false);
  const points = stairs(xs, states.spent_usd.map(y), box.x1);
  picture.append(
    svg("path", { d: `${line(points)}L${box.x1} ${box.y0}L${xs[0]} ${box.y0}Z`, style: { fill: "var(--accent)", opacity: "0.12" } }),
    svg("path", { d: line(points), style: { fill: "none", stroke: "var(--accent)", strokeWidth: "2", strokeLinejoin: "round" } }));
  timeAxis(picture, box, time);
  hover(picture, box, xs, tip, (i) => [moment(states.at[i]), [["spent", money(states.spent_usd[i])], ["done", number(states.done[i])]]]);
}

const INCIDENT_COLOURS = { "turned away": "var(--submitted)", "no answer": "var(--unknown)", "another attempt": "var(--failed)" };
function incidentLegend() {
  const { kinds } = data.series.incidents;
  return h("div", { class: "legend" }, Object.entries(kinds).map(([kind, counts]) =>
    h("span", {}, h("span", { class: "dot", style: { background: INCIDENT_COLOURS[kind] } }), `${kind} `, h("b", {}, number(counts.reduce((a, b) => a + b, 0))))));
}

function drawIncidents(picture, box, tip) {
  const { start_ms, width_ms, kinds } = data.series.incidents, time = timeScale(box), names = Object.keys(kinds);
  const bins = kinds[names[0]].map((_, i) => names.reduce((sum, kind) => sum + kinds[kind][i], 0));
  const y = valueAxis(picture, box, Math.max(...bins, 4), (n) => number(Math.round(n * 10) / 10));
  bins.forEach((_, i) => {
    const left = time.scale(start_ms + i * width_ms), right = Math.min(box.x1, time.scale(start_ms + (i + 1) * width_ms));
    let floor = 0;
    for (const kind of names) {
      const count = kinds[kind][i];
      if (!count) continue;
      picture.append(svg("rect", { x: left + 0.5, width: Math.max(2, right - left - 1), y: y(floor + count), height: y(floor) - y(floor + count), style: { fill: INCIDENT_COLOURS[kind] } }));
      floor += count;
    }
  });
  if (!bins.some(Boolean)) picture.append(svg("text", { class: "strong", x: (box.x0 + box.x1) / 2, y: (box.y0 + box.y1) / 2, "text-anchor": "middle" }, "Nothing held this batch up"));
  timeAxis(picture, box, time);
  const middles = bins.map((_, i) => Math.min(box.x1, time.scale(start_ms + (i + 0.5) * width_ms)));
  hover(picture, box, middles, tip, (i) => [moment(start_ms + i * width_ms), names.map((kind) => [kind, number(kinds[kind][i])])]);
}

function drawTimes(picture, box) {
  const models = data.series.generation, high = Math.max(...models.map((m) => m.high_s), 0.1);
  if (!models.length) return;
  const ticks = niceTicks(high, Math.max(3, Math.floor(box.width / 140))), top = Math.max(high, ticks.at(-1));
  const x0 = 2, scale = (s) => x0 + (s / top) * (box.x1 - x0), band = (box.y0 - box.y1) / models.length;
  for (const tick of ticks) picture.append(svg("line", { class: "gridline", x1: scale(tick), x2: scale(tick), y1: box.y1, y2: box.y0 }), svg("text", { x: scale(tick), y: box.y0 + 18, "text-anchor": tick ? (tick === top ? "end" : "middle") : "start" }, duration(tick)));
  models.forEach((model, at) => {
    const foot = box.y1 + (at + 1) * band - 4, tall = band - 34, most = Math.max(...model.bins);
    const [low, median, upper] = model.quartiles_s;
    picture.append(svg("rect", { x: scale(low), width: Math.max(2, scale(upper) - scale(low)), y: foot - tall, height: tall, style: { fill: "var(--accent)", opacity: "0.13" } }));
    model.bins.forEach((count, i) => {
      if (!count) return;
      const left = scale(model.low_s + i * model.width_s), right = scale(model.low_s + (i + 1) * model.width_s);
      const height = Math.max(2, (count / most) * tall);
      picture.append(svg("rect", { x: left + 0.5, width: Math.max(2, Math.min(right, box.x1) - left - 1), y: foot - height, height, rx: 1, style: { fill: "var(--accent)", opacity: "0.8" } }, svg("title", {}, `${plural(count, "job")} around ${duration(model.low_s + (i + 0.5) * model.width_s)}`)));
    });
    picture.append(
      svg("line", { x1: scale(median), x2: scale(median), y1: foot - tall - 3, y2: foot, style: { stroke: "var(--ink)", strokeWidth: "1.5" } }),
      svg("text", { class: "strong", x: x0, y: foot - tall - 12 }, shortModel(model.model)),
      svg("text", { x: box.x1, y: foot - tall - 12, "text-anchor": "end" }, `${plural(model.count, "job")} · median ${duration(median)} · longest ${duration(model.high_s)}`));
  });
}

// ---- a crosshair with the numbers under it
function hover(picture, box, xs, tip, wordsAt) {
  const cursor = svg("line", { class: "cursor", y1: box.y1, y2: box.y0 });
  picture.append(cursor);
  const show = (event) => {
    const x = event.clientX - picture.getBoundingClientRect().left;
    let best = 0;
    xs.forEach((at, i) => { if (Math.abs(at - x) < Math.abs(xs[best] - x)) best = i; });
    const [title, pairs] = wordsAt(best);
    cursor.setAttribute("x1", xs[best]);
    cursor.setAttribute("x2", xs[best]);
    cursor.style.opacity = 1;
    tip.replaceChildren(h("b", {}, title), ...pairs.map(([name, value]) => h("div", {}, h("span", { class: "soft" }, name), h("span", {}, value))));
    tip.hidden = false;
    const left = xs[best] + 14 + tip.offsetWidth > box.width ? xs[best] - 14 - tip.offsetWidth : xs[best] + 14;
    tip.style.left = `${Math.max(0, left)}px`;
  };
  picture.addEventListener("pointermove", show);
  picture.addEventListener("pointerleave", () => { cursor.style.opacity = 0; tip.hidden = true; });
}
