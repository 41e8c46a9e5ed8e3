"use strict";
/* The figures. Numbers and strings come from the JSON in the page; text enters the document only through textContent.
   uPlot draws the lines; everything else is SVG, drawn again at the width that it has. */

const { report, traces, levels, pixelMax, wording } = JSON.parse(document.getElementById("data").textContent);
const LEFT = 52, RIGHT = 50, AXIS = 30; // axis widths, the same in every chart so that their times line up
const SPACE = "http://www.w3.org/2000/svg";
const TONES = {
  started: "good", restored: "good", consolidated: "good", resumed: "good", taught: "good", "class-added": "good",
  drift: "warn", level: "warn", budget: "warn", paused: "warn", thinned: "warn",
  "rolled-back": "bad", "budget-refused": "bad", gap: "bad", stopped: "bad",
};
const CHAPTER_COLOURS = 5;
const ARM_COLOURS = [[/\bfull\b/, "--a"], [/\bwithout\b/, "--c"], [/\bno\b/, "--plain"]], OTHER_COLOURS = ["--b", "--d", "--warn"];

// ------------------------------------------------------------------ small tools

const $ = (id) => document.getElementById(id);
const last = (list) => list[list.length - 1];
const tone = (kind) => TONES[kind] ?? "plain";
const readable = (name) => (Object.hasOwn(wording, name) ? wording[name] : name).replaceAll("_", " ");

function el(tag, look, ...children) {
  const made = document.createElement(tag);
  if (look) made.className = look;
  made.append(...children);
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const label = (x, y, words, look = "") => svg("text", { x, y, class: look }, words);
const swatch = (colour, look = "") => {
  const made = el("i", `swatch ${look}`);
  made.style.color = `var(${colour})`;
  return made;
};

const probe = document.body.appendChild(el("span"));
probe.hidden = true;
/** The colour that a custom property has in the theme of this moment. */
function css(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

function compact(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  return String(size >= 100 ? Math.round(value) : +value.toPrecision(3));
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function scaled(value, steps) {
  const [size, unit] = steps.find(([size]) => Math.abs(value) >= size) ?? last(steps);
  return `${+(value / size).toPrecision(3)} ${unit}`;
}
const joules = (uj) => scaled(uj, [[1e6, "J"], [1e3, "mJ"], [1, "µJ"]]);
const bytes = (count) => scaled(count, [[1048576, "MiB"], [1024, "KiB"], [1, "bytes"]]);

function clock(seconds) {
  const whole = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const minutes = `${Math.floor(whole / 60) % 60}`;
  return whole >= 3600 ? `${Math.floor(whole / 3600)}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const known = new Set(traces.blocks.names.join(" ").split(/\s+/));
const isNew = (name) => !known.has(name);

function armColour(name, index) {
  return ARM_COLOURS.find(([pattern]) => pattern.test(readable(name)))?.[1] ?? OTHER_COLOURS[index % OTHER_COLOURS.length];
}

const ruler = document.createElement("canvas").getContext("2d");
/** The widest of some words in the small type of the figures, px. */
function widest(words, font = "12px") {
  ruler.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  return Math.max(...words.map((word) => ruler.measureText(word).width), 0);
}

/** Draw a figure now and again whenever its width changes. */
function responsive(id, draw) {
  const place = $(id);
  let width = 0;
  new ResizeObserver(() => {
    const style = getComputedStyle(place), inner = Math.floor(place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    if (inner === width || inner <= 0) return;
    width = inner;
    place.replaceChildren(...draw(inner));
  }).observe(place);
}

function heading(title, unit, ...keys) {
  return el("div", "head", el("h3", "", title, " ", el("small", "", unit)), ...keys);
}
const key = (colour, words, look = "dot") => el("span", "key", swatch(colour, look), words);

function canvas(width, height, about, ...children) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about }, ...children);
}

// ------------------------------------------------------------------ tooltip

function showTip(words, x, y) {
  const tip = $("tip");
  tip.textContent = words;
  tip.hidden = false;
  const left = Math.min(x + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const top = y - tip.offsetHeight - 12;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${top < 8 ? y + 18 : top}px)`;
}
const hideTip = () => { $("tip").hidden = true; };

document.addEventListener("pointermove", (event) => {
  const target = event.target.closest?.("[data-tip]");
  if (target) showTip(target.dataset.tip, event.clientX, event.clientY);
  else if (!event.target.closest?.(".u-over")) hideTip();
});
document.addEventListener("pointerdown", (event) => {
  const target = event.target.closest?.("[data-tip]");
  if (target) showTip(target.dataset.tip, event.clientX, event.clientY);
});
document.addEventListener("scroll", hideTip, { passive: true });

// ------------------------------------------------------------------ what the sensor saw

function digits(width) {
  const { clean, drifted } = traces.images, count = clean.length, gap = Math.max(4, width / 90);
  const side = (width - gap * (count - 1)) / count, pixel = side / clean[0].length;
  const picture = (image, i, top, sensor) => {
    const name = traces.confusion.labels[i] ?? String(i), left = i * (side + gap);
    const tip = `“${name}” on the ${sensor} sensor${isNew(name) ? "\na class that the factory never saw" : ""}`;
    const group = svg("g", { "data-tip": tip }, svg("rect", { x: left, y: top, width: side, height: side, rx: side / 9, fill: "var(--wash)" }));
    image.forEach((row, y) => row.forEach((value, x) => {
      if (value) group.append(svg("rect", {
        x: left + x * pixel, y: top + y * pixel, width: pixel + 0.3, height: pixel + 0.3,
        fill: sensor === "factory's" ? "var(--ink)" : "var(--a)", "fill-opacity": (value / pixelMax).toFixed(3),
      }));
    }));
    return group;
  };
  const second = side + 14, height = second + side + 24;
  return [heading("What the sensor saw", `${clean[0].length} × ${clean[0][0].length} pixels, one example of each class`,
    key("--ink", "factory's sensor", "block"), key("--a", "drifted sensor", "block"), key("--b", "class that the factory never saw", "block")),
  canvas(width, height, "Digits as both sensors see them",
    ...clean.map((image, i) => picture(image, i, 0, "factory's")),
    ...drifted.map((image, i) => picture(image, i, second, "drifted")),
    ...clean.map((_, i) => {
      const name = traces.confusion.labels[i] ?? String(i), fresh = isNew(name) && side > 34;
      const words = label(i * (side + gap) + side / 2, height - 5, fresh ? `${name} · new` : name, "mid");
      if (isNew(name)) words.setAttribute("style", "fill:var(--b);font-weight:640");
      return words;
    }))];
}

// ------------------------------------------------------------------ arms

function armChart(id, what, title) {
  const { names, arms } = traces.blocks, entries = Object.entries(arms), length = last(entries)[1][what].length;
  const ticks = length > names.length ? ["before", ...names] : names;
  const values = entries.map(() => el("b"));
  const here = el("span", "here");
  const keys = entries.map(([name], i) => el("span", "key", swatch(armColour(name, i)), readable(name), values[i]));
  const show = (at) => {
    const index = at ?? length - 1;
    entries.forEach(([, lines], i) => { values[i].textContent = percent(lines[what][index]); });
    here.textContent = ticks[index] === "before" ? "before the first block" : `after ${ticks[index]}`;
  };
  const place = $(id), ink = () => css("--faint"), grid = { stroke: () => css("--grid"), width: 1 }, font = `12px ${getComputedStyle(document.body).fontFamily}`;
  place.append(heading(title, "%", ...keys, here));
  const axis = { stroke: ink, font, ticks: { show: false }, grid };
  const plot = new uPlot({
    width: Math.max(place.clientWidth - 36, 200), height: 260, legend: { show: false }, padding: [8, 14, 0, 0],
    scales: { x: { time: false, range: [-0.15, length - 0.85] }, y: { range: [0, 100] } },
    axes: [
      { ...axis, splits: () => ticks.map((_, i) => i), values: () => ticks, size: 24, label: "after the block of", labelSize: 20, labelGap: 0, labelFont: font, gap: 6 },
      { ...axis, size: 40, values: (u, splits) => splits.map((v) => `${v}`) },
    ],
    series: [{}, ...entries.map(([name], i) => ({
      stroke: () => css(armColour(name, i)), width: /full/.test(name) ? 3.2 : 2.2,
      points: { show: true, size: 8, width: 2, fill: () => css("--panel") },
    }))],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 10, width: 2 } },
    hooks: { setCursor: [(u) => show(u.cursor.idx)] },
  }, [ticks.map((_, i) => i), ...entries.map(([, lines]) => lines[what].map((share) => 100 * share))], place);
  show(null);
  plots.push(plot);
  new ResizeObserver(() => plot.setSize({ width: Math.max(plot.root.parentElement.clientWidth - 36, 200), height: 260 })).observe(place);
}

/** Rows of dots on a scale from 0 to 100 %. A row: {name, dots: [{share, colour, hollow, tip}], line}. */
function dotRows(width, rows, about) {
  const room = widest(rows.map(({ name }) => name), "600 12px") + 22, stacked = room > width / 2;
  const left = stacked ? 8 : room, right = width - 14, at = (share) => left + (right - left) * Math.min(Math.max(share, 0), 1);
  const step = stacked ? 44 : 30, height = rows.length * step + 26;
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    svg("line", { x1: at(share), x2: at(share), y1: 0, y2: height - 22, stroke: "var(--grid)" }),
    label(at(share), height - 6, `${100 * share}`, "faint mid")]);
  const marks = rows.flatMap(({ name, strong, dots, from, to }, i) => {
    const y = i * step + (stacked ? 30 : step / 2);
    const bar = from === undefined ? [] : [svg("line", { x1: at(from), x2: at(to), y1: y, y2: y, stroke: "var(--line)", "stroke-width": 4, "stroke-linecap": "round" })];
    return [label(0, stacked ? y - 14 : y + 4, name, strong ? "ink" : ""), ...bar, ...dots.map(({ share, colour, hollow, tip, tick }) => (tick
      ? svg("rect", { x: at(share) - 1.5, y: y - 9, width: 3, height: 18, rx: 1.5, fill: `var(${colour})`, "data-tip": tip })
      : svg("circle", {
        cx: at(share), cy: y, r: 6, "data-tip": tip, "stroke-width": 2.4, stroke: `var(${colour})`, "fill-opacity": hollow ? 1 : 0.85,
        fill: hollow ? "var(--panel)" : `var(${colour})`,
      })))];
  });
  return canvas(width, height, about, ...grid, ...marks);
}

const JUDGED_BY = { none: "drifted_no_adaptation", plain: "drifted_without_consolidation", full: "drifted_full" };

function heads(width) {
  const rows = Object.entries(report.accuracy.by_head).flatMap(([arm, kinds], i) => Object.entries(kinds).map(([head, { drifted, old }]) => ({
    name: `${readable(arm)}, ${readable(head)}`, strong: drifted === report.accuracy[JUDGED_BY[arm]], from: drifted, to: old, dots: [
      { share: old, colour: armColour(arm, i), hollow: true, tip: `${readable(arm)}, decided by ${readable(head)}\nold sensor: ${percent(old)}` },
      { share: drifted, colour: armColour(arm, i), tip: `${readable(arm)}, decided by ${readable(head)}\ndrifted sensor: ${percent(drifted)}` }],
  })));
  return [heading("Who decides", "% right at the end; bold: the head that decides in its arm", key("--soft", "drifted sensor"), key("--soft", "old sensor", "ring")),
    dotRows(width, rows, "Accuracy by arm and by the head that decides")];
}

function seeds(width) {
  const names = Object.keys(traces.seeds[0]).filter((name) => traces.seeds.every((seed) => Number.isFinite(seed[name])));
  const rows = names.map((name) => {
    const shares = traces.seeds.map((seed) => seed[name]), mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    const spread = Math.sqrt(shares.reduce((sum, share) => sum + (share - mean) ** 2, 0) / Math.max(shares.length - 1, 1));
    const colour = armColour(name, 0);
    return { name: readable(name), from: Math.min(...shares), to: Math.max(...shares), dots: [
      ...shares.map((share, i) => ({ share, colour, tip: `${readable(name)}\nrun ${i + 1}: ${percent(share)}` })),
      { share: mean, colour: "--ink", tick: true, tip: `${readable(name)}\nmean ${percent(mean)}, standard deviation ${(100 * spread).toFixed(1)} points` }] };
  });
  return [heading(`The same with ${traces.seeds.length} seeds`, "% right", key("--soft", "a run"), key("--ink", "mean", "block")),
    dotRows(width, rows, "Accuracy over seeds")];
}

// ------------------------------------------------------------------ timeline

const share = (v) => v * 100, same = (v) => v, toJoule = (v) => v / 1e6;
const CHARTS = [
  { title: "Accuracy", unit: "%", height: 150, marks: true, top: 100, series: [
    { metric: "accuracy", label: "prequential", colour: "--a", map: share, unit: "%" },
    { metric: "probe_accuracy", label: "probe", colour: "--b", map: share, unit: "%", stepped: true },
    { metric: "forgetting", label: "forgetting", colour: "--c", map: share, unit: "points", stepped: true }] },
  { title: "Power", unit: "mW", height: 130, governed: ["power_window_mw", "budget_mw"], series: [
    { metric: "power_mw", label: "at the moment", colour: "--plain", map: same, unit: "mW", thin: true },
    { metric: "power_window_mw", label: "mean of the window", colour: "--a", map: same, unit: "mW" },
    { metric: "budget_mw", label: "budget", colour: "--d", map: same, unit: "mW", stepped: true, dashed: true }] },
  { title: "Governor", unit: "level of the shedding ladder", ladder: true, series: [
    { metric: "level", label: "level", colour: "--soft", map: same, stepped: true, hidden: true }] },
  { title: "Drift and learning", unit: "detector's statistic; counts on the right", height: 100, series: [
    { metric: "drift", label: "drift", colour: "--c", map: same },
    { metric: "lessons", label: "lessons", colour: "--a", map: same, side: "right", stepped: true },
    { metric: "updates", label: "updates", colour: "--b", map: same, side: "right", stepped: true }] },
  { title: "Importance of the weights", unit: "quantiles over all that may change", height: 84, series: [
    { metric: "importance_p50", label: "median", colour: "--b", map: same },
    { metric: "importance_p99", label: "99th percentile", colour: "--c", map: same }] },
  { title: "Outbox", unit: "messages that nobody has acknowledged", height: 84, series: [
    { metric: "outbox_depth", label: "waiting", colour: "--d", map: same, stepped: true, fill: true }] },
  { title: "Energy of all acts", unit: "J since the last power-on", height: 84, series: [
    { metric: "energy_uj", label: "spent", colour: "--a", map: toJoule, unit: "J" }] },
];

const plots = [], life = []; // every uPlot of the page; those of the timeline, with their headings
const whole = [traces.t[0] ?? 0, Math.max(last(traces.t) ?? 1, (traces.t[0] ?? 0) + 1)];
let shown = whole, opened = null;
const chapterColour = (i) => `--chapter-${i % CHAPTER_COLOURS}`;

/** The series that this run has. Momentary power stands behind the governed mean, or alone where that was not kept. */
function present(chart) {
  const series = chart.series.filter(({ metric }) => traces.metrics[metric]?.some((value) => value !== null));
  return { ...chart, series: series.map((s) => {
    if (!s.thin) return s;
    const behind = series.some(({ metric }) => metric === "power_window_mw");
    return { ...s, thin: behind, colour: behind ? s.colour : "--a", label: `${s.label} (at most ${compact(peak(s.metric))} ${s.unit})` };
  }) };
}

function drawChapters(u) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  traces.chapters.forEach((chapter, i) => {
    const from = u.valToPos(chapter.from, "x", true), to = u.valToPos(chapter.to, "x", true);
    ctx.fillStyle = css(chapterColour(i));
    ctx.globalAlpha = 0.09;
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    ctx.globalAlpha = 0.5;
    ctx.fillRect(from, bbox.top, devicePixelRatio, bbox.height);
  });
  ctx.restore();
}

const marks = traces.events.filter(({ kind }) => tone(kind) !== "plain");

function drawMarks(u) {
  const { ctx, bbox } = u, px = devicePixelRatio;
  ctx.save();
  for (const mark of marks) {
    const x = u.valToPos(mark.t, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.fillStyle = css(`--${tone(mark.kind)}`);
    ctx.beginPath();
    ctx.arc(x, bbox.top - 6 * px, 3.3 * px, 0, 2 * Math.PI);
    ctx.fill();
  }
  ctx.restore();
}

/** Runs of one level as coloured bars, each on its own rung. */
function drawLadder(u) {
  const { ctx, bbox } = u, [times, level] = u.data;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (let start = 0, i = 0; i < times.length; i = start) {
    while (start < times.length && (level[start] === level[i] || level[start] === null)) start += 1;
    if (level[i] === null) continue;
    const from = u.valToPos(times[i], "x", true), to = u.valToPos(times[Math.min(start, times.length - 1)], "x", true);
    const top = u.valToPos(level[i] - 0.36, "y", true), bottom = u.valToPos(level[i] + 0.36, "y", true);
    ctx.fillStyle = css(`--level-${level[i]}`);
    ctx.beginPath();
    ctx.roundRect(from, Math.min(top, bottom), Math.max(to - from, 1.5 * devicePixelRatio), Math.abs(bottom - top), 2.5 * devicePixelRatio);
    ctx.fill();
  }
  ctx.restore();
}

function yScale(chart, data) {
  if (chart.ladder) return { dir: -1, range: [-0.6, deepest(data) + 0.6] };
  if (chart.top) return { range: [0, chart.top] };
  if (chart.governed?.every((metric) => traces.metrics[metric])) return { range: [0, 1.3 * Math.max(...chart.governed.map(peak), 1e-6)] };
  return { range: (u, low, high) => [Math.min(low ?? 0, 0) * 1.1, Math.max(high ?? 1, 1e-6) * 1.12] };
}
const peak = (metric) => traces.metrics[metric].reduce((most, value) => Math.max(most, value ?? 0), 0);
const deepest = (data) => data[1].reduce((most, value) => Math.max(most, value ?? 0), 0);

function lifeOptions(chart, data, width, bottom, index) {
  const ink = () => css("--faint"), grid = { stroke: () => css("--grid"), width: 1 }, font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: ink, font, ticks: { show: false }, grid, gap: 6 };
  const rungs = chart.ladder ? Array.from({ length: deepest(data) + 1 }, (_, i) => i) : null;
  const numbers = (u, splits) => splits.map(compact);
  const left = rungs
    ? { ...axis, size: LEFT, splits: () => rungs, values: (u, splits) => splits.map((i) => levels[i] ?? i), grid: { show: false } }
    : { ...axis, size: LEFT, space: 28, values: numbers };
  const hasRight = chart.series.some(({ side }) => side);
  const right = { ...axis, scale: "right", side: 1, size: RIGHT, space: 28, grid: { show: false }, values: numbers };
  const times = {
    ...axis, space: 64, size: bottom ? AXIS : 0, values: (u, splits) => splits.map((s) => (bottom ? clock(s) : "")),
    incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400],
  };
  return {
    width, height: heightOf(chart, data, bottom), legend: { show: false },
    padding: [chart.marks ? 14 : 4, hasRight ? 0 : RIGHT, bottom ? 0 : 4, 0],
    scales: {
      x: { time: false, range: () => shown }, y: yScale(chart, data),
      right: { range: (u, low, high) => [0, Math.max(high ?? 1, 1) * 1.12] },
    },
    axes: [times, left, ...(hasRight ? [right] : [])],
    series: [{}, ...chart.series.map((s) => ({
      scale: s.side ?? "y", stroke: s.hidden ? "transparent" : () => css(s.colour), width: s.thin ? 1 : 2, spanGaps: true,
      dash: s.dashed ? [6, 4] : undefined,
      fill: s.fill ? () => css(s.colour).replace(/^rgb\((.*)\)$/, "rgba($1, 0.13)") : undefined,
      paths: s.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: false },
    }))],
    cursor: { sync: { key: "life" }, y: false, points: { size: 8, width: 1.5 }, drag: { x: true, y: false, setScale: false } },
    hooks: {
      drawClear: [drawChapters],
      draw: [...(chart.ladder ? [drawLadder] : []), ...(chart.marks ? [drawMarks] : [])],
      setCursor: [(u) => { values(index, u.cursor.idx); near(u); }],
      setSelect: [(u) => {
        if (u.select.width > 7) zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")], null);
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
    },
  };
}

function heightOf(chart, data, bottom) {
  return (chart.ladder ? 17 * (deepest(data) + 1) + 12 : chart.height) + (bottom ? AXIS : 0);
}

/** The values in a chart's heading: those under the cursor, else the last. */
function values(index, at) {
  const { chart, data, cells, here } = life[index], from = at ?? data[0].length - 1;
  chart.series.forEach((s, i) => {
    let row = from;
    while (row > 0 && data[i + 1][row] === null) row -= 1;
    const value = data[i + 1][row];
    cells[i].textContent = chart.ladder ? levels[value] ?? "–" : `${compact(value)}${s.unit ? ` ${s.unit}` : ""}`;
  });
  if (index === 0) here.textContent = at === null || at === undefined ? `at the end, ${clock(last(data[0]) ?? 0)}` : clock(data[0][at]);
}

function near(u) {
  if (!u.over.matches(":hover")) return;
  const found = marks.filter((mark) => Math.abs(u.valToPos(mark.t, "x") - u.cursor.left) < 5).slice(0, 5);
  if (!found.length) return hideTip();
  const box = u.over.getBoundingClientRect();
  showTip(found.map((mark) => `${clock(mark.t)}  ${mark.text}`).join("\n"), box.left + u.cursor.left, box.top + 4);
}

function zoom(range, chapter) {
  shown = range;
  opened = chapter;
  life.forEach(({ plot }) => plot.setScale("x", { min: range[0], max: range[1] }));
  drawStrip();
  document.querySelectorAll("#chapters button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === opened)));
}

function openChapter(i) {
  const { from, to } = traces.chapters[i], margin = 0.08 * (to - from);
  if (opened === i) zoom(whole, null);
  else zoom([Math.max(whole[0], from - margin), Math.min(whole[1], to + margin)], i);
}

function drawStrip() {
  const place = $("strip"), room = place.clientWidth - LEFT - RIGHT, [from, to] = shown;
  const at = (t) => LEFT + room * (Math.min(Math.max(t, from), to) - from) / (to - from);
  const bands = traces.chapters.map((chapter, i) => {
    const left = at(chapter.from), width = at(chapter.to) - left;
    const band = el("i", width < 60 ? "tight" : "", width < 13 ? "" : width < 60 ? String(i + 1) : `${i + 1} · ${chapter.title}`);
    band.style.cssText = `left:${left}px;width:${Math.max(width - 2, 2)}px;--tone:var(${chapterColour(i)})`;
    band.dataset.tip = `${chapter.title}, ${clock(chapter.from)} to ${clock(chapter.to)}\n${chapter.text}`;
    band.hidden = width <= 0;
    band.addEventListener("click", () => openChapter(i));
    return band;
  });
  const back = el("button", "", "whole life");
  back.type = "button";
  back.hidden = shown === whole;
  back.addEventListener("click", () => zoom(whole, null));
  place.replaceChildren(...bands, back);
}

function chapterCards() {
  $("chapters").append(...traces.chapters.map((chapter, i) => {
    const button = el("button", "", el("time", "", `${clock(chapter.from)} to ${clock(chapter.to)}`),
      el("b", "", el("i", "", String(i + 1)), chapter.title), el("span", "", chapter.text));
    button.type = "button";
    button.style.setProperty("--tone", `var(${chapterColour(i)})`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => openChapter(i));
    return el("li", "", button);
  }));
}

function timeline() {
  const place = $("charts"), charts = CHARTS.map(present).filter(({ series }) => series.length);
  charts.forEach((chart, index) => {
    const data = [traces.t, ...chart.series.map((s) => traces.metrics[s.metric].map((v) => (v === null ? null : s.map(v))))];
    const cells = chart.series.map(() => el("b")), here = el("span", "here");
    const keys = chart.series.map((s, i) => el("span", "key", ...(s.hidden ? [] : [swatch(s.colour, s.dashed ? "dashed" : "")]), s.label, cells[i]));
    const box = el("div", "chart", heading(chart.title, chart.unit, ...keys, here));
    place.append(box);
    life.push({ chart, data, cells, here, bottom: index === charts.length - 1 });
    const plot = new uPlot(lifeOptions(chart, data, place.clientWidth, last(life).bottom, index), data, box);
    plot.over.addEventListener("mouseleave", () => { hideTip(); life.forEach((_, i) => values(i, null)); });
    plot.over.addEventListener("dblclick", () => zoom(whole, null));
    last(life).plot = plot;
    plots.push(plot);
    values(index, null);
  });
  new ResizeObserver(() => {
    const width = place.clientWidth;
    life.forEach(({ plot, chart, data, bottom }) => { if (width && plot.width !== width) plot.setSize({ width, height: heightOf(chart, data, bottom) }); });
    drawStrip();
  }).observe(place);
}

function eventLog() {
  const lines = traces.events.map(({ t, kind, text }) => el("li", tone(kind), el("time", "", clock(t)), el("b", "", kind), el("span", "", text)));
  const [summary, list] = $("log").children;
  summary.textContent = `All ${lines.length.toLocaleString("en")} events of this life`;
  list.append(...lines);
}

// ------------------------------------------------------------------ confusion

function confusionOf(which, title) {
  return (width) => {
    const { labels } = traces.confusion, rows = traces.confusion[which], margin = 34, side = Math.min((width - margin) / labels.length, 48);
    const counted = rows.flat().every(Number.isInteger), total = (row) => row.reduce((sum, value) => sum + value, 0);
    const drawn = rows.flatMap((row, i) => row.map((value, j) => {
      const part = total(row) ? value / total(row) : 0, x = margin + j * side, y = i * side, right = i === j;
      const tip = `shown ${labels[i]}, answered ${labels[j]}\n${percent(part)}${counted ? `, ${value} of ${total(row)}` : ""}`;
      const cell = svg("g", { "data-tip": tip },
        svg("rect", { x: x + 1, y: y + 1, width: side - 2, height: side - 2, rx: side / 8, fill: "var(--wash)" }),
        svg("rect", { x: x + 1, y: y + 1, width: side - 2, height: side - 2, rx: side / 8, fill: `var(${right ? "--a" : "--c"})`, "fill-opacity": part.toFixed(3) }));
      if (part >= 0.005) {
        const words = label(x + side / 2, y + side / 2 + 4, String(Math.round(100 * part)), "mid");
        words.setAttribute("style", `fill:var(${part > 0.62 ? "--on" : "--ink"});font-size:${side < 34 ? 10 : 12.5}px;${right ? "font-weight:640" : ""}`);
        cell.append(words);
      }
      return cell;
    }));
    const end = labels.length * side;
    const names = labels.flatMap((name, i) => [
      label(margin - 8, i * side + side / 2 + 4, name, isNew(name) ? "ink end" : "end"),
      label(margin + i * side + side / 2, end + 17, name, isNew(name) ? "ink mid" : "mid")]);
    const shownLabel = label(0, 0, "shown", "faint mid");
    shownLabel.setAttribute("transform", `translate(9 ${end / 2}) rotate(-90)`);
    const correct = rows.reduce((sum, row, i) => sum + row[i], 0) / Math.max(total(rows.flat()), 1e-9);
    return [heading(title, "% of each row", el("span", "here", `right: ${percent(correct)}`)),
      canvas(width, end + 38, title, ...drawn, ...names, shownLabel, label(margin + end / 2, end + 34, "answered", "faint mid"))];
  };
}

// ------------------------------------------------------------------ cost

function bars(width, rows, about, format) {
  const left = widest(rows.map(({ name }) => name)) + 16, room = width - left - 76, most = Math.max(...rows.map(({ value }) => value), 1e-9), step = 30;
  return canvas(width, rows.length * step, about, ...rows.flatMap(({ name, value, colour, tip }, i) => {
    const length = Math.max(room * value / most, 2), y = i * step;
    return [label(0, y + 19, name),
      svg("rect", { x: left, y: y + 6, width: length, height: step - 12, rx: 5, fill: `var(${colour})`, "data-tip": tip }),
      label(left + length + 8, y + 19, format(value), "ink")];
  }));
}

function memory(width) {
  const { parts, ram_bytes: ram, flash_bytes: flash } = traces.plan, total = Object.values(parts).reduce((sum, count) => sum + count, 0);
  const rows = Object.entries(parts).sort(([, a], [, b]) => b - a).map(([name, value]) => ({
    name: readable(name), value, colour: "--a", tip: `${readable(name)}: ${value.toLocaleString("en")} bytes, ${percent(value / total)} of all parts` }));
  rows.push({ name: "all parts, in RAM", value: total, colour: "--b", tip: `all parts: ${percent(total / ram)} of the board's ${bytes(ram)} RAM` });
  rows.push({ name: "bundle, in flash", value: flash, colour: "--d", tip: `bundle: ${flash.toLocaleString("en")} bytes of flash` });
  return [heading("Memory by part", `planned for a board with ${bytes(ram)} RAM`), bars(width, rows, "Memory by part", bytes)];
}

function energy(width) {
  const { inference_uj: inference, lesson_uj: lessons } = traces.plan, { per_inference_uj: ran, per_update_uj: updated, source } = report.energy;
  const rows = [
    { name: "one inference", value: inference, colour: "--a" },
    ...Object.entries(lessons).map(([level, value]) => ({ name: `lesson, ${level}`, value, colour: levels.includes(level) ? `--level-${levels.indexOf(level)}` : "--b" })),
    { name: "inference, this run", value: ran, colour: "--a", hollow: true }, { name: "update, this run", value: updated, colour: "--b", hollow: true },
  ].filter(({ value }) => value > 0);
  const low = Math.floor(Math.log10(Math.min(...rows.map(({ value }) => value)))), high = Math.max(Math.ceil(Math.log10(Math.max(...rows.map(({ value }) => value)))), low + 1);
  const left = widest(rows.map(({ name }) => name)) + 18, room = width - left - 64, at = (value) => left + room * (Math.log10(value) - low) / (high - low), step = 30, end = rows.length * step;
  const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return [heading("Energy of one act", `${source}; each line is ten times the one before`, key("--soft", "planned"), key("--soft", "mean of this run", "ring")),
    canvas(width, end + 22, "Energy of one act, on a scale of powers of ten",
      ...decades.flatMap((value) => [
        svg("line", { x1: at(value), x2: at(value), y1: 0, y2: end, stroke: "var(--grid)" }), label(at(value), end + 16, joules(value), "faint mid")]),
      ...rows.flatMap(({ name, value, colour, hollow }, i) => {
        const y = i * step + step / 2;
        return [label(0, y + 4, name),
          svg("line", { x1: left, x2: at(value), y1: y, y2: y, stroke: `var(${colour})`, "stroke-opacity": 0.35, "stroke-width": 3 }),
          svg("circle", { cx: at(value), cy: y, r: 6, "stroke-width": 2.4, stroke: `var(${colour})`, fill: hollow ? "var(--panel)" : `var(${colour})`, "data-tip": `${name}: ${joules(value)}, ${source}` }),
          label(at(value) + 12, y + 4, joules(value), "ink")];
      }))];
}

function phases(width) {
  const list = report.governor.phases, most = Math.max(...list.flatMap((phase) => [phase.budget_mw, phase.worst_window_mw]));
  const narrow = width < 620, start = narrow ? 0 : 90, room = width - start - 16, at = (mw) => start + room * mw / (1.04 * most), step = narrow ? 84 : 62;
  return [heading("Every budget phase", "mW", key("--a", "worst window", "block"), key("--d", "budget", "block"), el("span", "", "squares: levels visited")),
    canvas(width, list.length * step, "Worst window of every budget phase", ...list.flatMap((phase, i) => {
      const y = i * step + (narrow ? 22 : 4), over = phase.worst_window_mw > phase.budget_mw;
      let left = start;
      const chips = phase.levels_visited.flatMap((level) => {
        const x = left;
        left += 30 + widest([level]);
        return [svg("rect", { x, y: y + 32, width: 10, height: 10, rx: 3, fill: `var(--level-${levels.indexOf(level)})` }), label(x + 15, y + 41, level)];
      });
      const text = `${compact(phase.worst_window_mw)} of ${compact(phase.budget_mw)} mW`;
      const fits = widest([text], "620 12px") + 20 < at(phase.worst_window_mw) - start;
      return [narrow ? label(0, y - 6, `phase ${i + 1}: ${text}`, "ink") : label(0, y + 17, `phase ${i + 1}`, "ink"),
        svg("rect", { x: start, y, width: at(phase.budget_mw) - start, height: 24, rx: 6, fill: "var(--wash)" }),
        svg("rect", { x: start, y: y + 4, width: Math.max(at(phase.worst_window_mw) - start, 2), height: 16, rx: 5, fill: over ? "var(--bad)" : "var(--a)",
          "data-tip": `phase ${i + 1}: worst window ${text}\nlevels: ${phase.levels_visited.join(", ")}` }),
        svg("rect", { x: at(phase.budget_mw) - 1.5, y: y - 2, width: 3, height: 28, rx: 1.5, fill: "var(--d)", "data-tip": `budget ${compact(phase.budget_mw)} mW` }),
        ...(narrow ? [] : [fits ? label(start + 10, y + 16.5, text, "on") : label(at(phase.budget_mw) + 10, y + 16.5, text, "ink")]), ...chips];
    }))];
}

// ------------------------------------------------------------------ begin

function recolour() {
  plots.forEach((plot) => plot.redraw());
}
$("theme").addEventListener("click", () => {
  const root = document.documentElement, chosen = root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.style.colorScheme = chosen === "dark" ? "light" : "dark";
  recolour();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

responsive("digits", digits);
armChart("drifted", "drifted", "On the drifted sensor");
armChart("old", "old", "On the old sensor");
$("heads").hidden = !Object.keys(report.accuracy.by_head).length;
if (!$("heads").hidden) responsive("heads", heads);
$("seeds").hidden = !traces.seeds.length;
if (!$("seeds").hidden) responsive("seeds", seeds);
chapterCards();
timeline();
eventLog();
responsive("before", confusionOf("before", "Before"));
responsive("after", confusionOf("after", "After"));
responsive("memory", memory);
responsive("energy", energy);
responsive("phases", phases);
document.documentElement.dataset.drawn = "yes";
