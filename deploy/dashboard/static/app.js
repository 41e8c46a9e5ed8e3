"use strict";
/* The page: fleet cards, one node's charts on a shared time axis, its events. Everything shown came from the network,
   so text enters the document only through textContent. No framework; uPlot draws the charts. */

const WINDOWS = [["5 min", 300e3], ["1 h", 3600e3], ["24 h", 86400e3], ["7 d", 7 * 86400e3], ["all", Infinity]];
const LEFT = 48, RIGHT = 46, AXIS = 34; // axis widths, the same in every chart so that their times line up
const POINTS = 320, EVENTS = 300, PAUSE_MS = 400, IDLE_MS = 5000;

const percent = (v) => v * 100, same = (v) => v, kibToMb = (v) => v / 1024;
const CHARTS = [
  { title: "Accuracy", height: 116, marks: true, range: (low) => [low < 50 ? 0 : 50, 100], series: [
    { metric: "accuracy", label: "prequential", colour: "--a", unit: "%", map: percent, fill: true },
    { metric: "probe_accuracy", label: "probe", colour: "--b", unit: "%", map: percent, points: true }] },
  { title: "Forgetting", height: 66, floor: 5, series: [
    { metric: "forgetting", label: "below the best probe", colour: "--c", unit: "points", map: percent, fill: true }] },
  { title: "Power", height: 114, floor: 1, bands: true, series: [
    { metric: "power_mw", label: "mean of a minute", colour: "--a", unit: "mW", map: same },
    { metric: "budget_mw", label: "budget", colour: "--d", unit: "mW", map: same, stepped: true, part: "min" }] },
  { title: "Drift and learning", right: true, height: 86, floor: 1, series: [
    { metric: "drift", label: "drift", colour: "--c", map: same },
    { metric: "lessons", label: "lessons", colour: "--a", map: same, side: "right", stepped: true, part: "max" },
    { metric: "updates", label: "updates", colour: "--b", map: same, side: "right", stepped: true, part: "max" }] },
  { title: "Memory and storage", right: true, height: 86, floor: 1, axis: true, series: [
    { metric: "ram_kb", label: "memory", colour: "--a", map: kibToMb, unit: "MB" },
    { metric: "flash_mb_today", label: "flash today", colour: "--b", map: same, unit: "MB" },
    { metric: "outbox_depth", label: "outbox", colour: "--d", map: same, side: "right", stepped: true, part: "max" }] },
];
const METRICS = [...new Set(CHARTS.flatMap((c) => c.series.map((s) => s.metric))), "level"];
const VITALS = [
  ["inferences", "inferences"], ["lessons", "lessons"], ["energy_inference_uj", "per inference"],
  ["energy_update_uj", "per lesson"], ["tokens_mj", "energy saved up"], ["consolidated_share", "consolidated"],
  ["spike_rate", "spike rate"], ["temperature_c", "hottest"], ["saturations", "saturations"],
];
const TONES = {
  started: "good", restored: "good", consolidated: "good", resumed: "good", taught: "good", "class-added": "good",
  drift: "warn", level: "warn", budget: "warn", paused: "warn", thinned: "warn", flood: "warn",
  "rolled-back": "bad", "budget-refused": "bad", gap: "bad", stopped: "bad",
};
const tone = (kind) => TONES[kind] ?? "plain";

const state = {
  fleet: null, node: null, window: "1 h", zoom: null, events: [], lastEvent: 0,
  series: null, x: [], level: [], marks: [], plots: [], link: "waiting", busy: false, dirty: true, skew: 0, lastSeen: Infinity, cards: new Map(), shown: null,
};

// ------------------------------------------------------------------ small tools

const $ = (id) => document.getElementById(id);

function el(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== ""));
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const last = (values) => values[values.length - 1];

function compact(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3)} k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toPrecision(size >= 10 ? 3 : 2);
}

function withUnit(metric, value) {
  const unit = state.fleet.metrics[metric]?.unit ?? "";
  if (unit === "share") return `${(value * 100).toFixed(1)} %`;
  const shown = { 1: "", index: "", uJ: "µJ", degC: "°C" }[unit] ?? unit;
  return `${compact(value)}${shown && ` ${shown}`}`;
}

const two = (n) => String(n).padStart(2, "0");
const dayOf = (d) => `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
const timeOf = (d) => `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;

function moment(ms) {
  const at = new Date(ms);
  return `${dayOf(at)} ${timeOf(at)}`;
}

function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 2) return "now";
  if (s < 120) return `${s} s ago`;
  if (s < 7200) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} d ago`;
}

async function get(path, query) {
  const answer = await fetch(`${path}?${new URLSearchParams(query ?? {})}`);
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}`);
  return answer.json();
}

// ------------------------------------------------------------------ fleet

function sparkline(values) {
  const drawing = svg("svg", { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" });
  if (values.length < 2) return drawing;
  const low = Math.min(...values, 0.5), x = (i) => (100 * i) / (values.length - 1), y = (v) => 26 - (24 * (v - low)) / (1 - low || 1);
  const line = values.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  drawing.append(svg("path", { d: `${line}L100 28L0 28Z`, class: "area" }), svg("path", { d: line, class: "line" }));
  return drawing;
}

function ladder(level) {
  const names = state.fleet.levels, steps = el("span", "ladder");
  names.forEach((name, i) => {
    const step = el("i", i >= level ? "on" : "");
    if (i >= level) step.style.background = css(`--level-${level}`);
    steps.append(step);
  });
  return el("span", "level", steps, el("b", "", names[level] ?? "?"));
}

function meter(power, budget) {
  const bar = el("span", "bar"), fill = el("i", power > budget ? "over" : "");
  fill.style.width = `${Math.min(100, (100 * power) / budget)}%`;
  bar.append(fill);
  return el("span", "meter", bar, el("span", "", `${compact(power)} / ${compact(budget)} mW`));
}

function cardContent(node) {
  const { values, birth } = node, [group, name] = node.node.split("/");
  return [
    el("span", "top", el("i", "dot"), el("span", "who", el("b", "", name), el("small", "", group)),
      el("span", `mode ${node.mode}`, node.status === "online" ? node.mode || "unknown" : node.status)),
    el("span", "middle", el("strong", "", values.accuracy === undefined ? "–" : (values.accuracy * 100).toFixed(1), el("small", "", " %")),
      sparkline(node.spark)),
    el("span", "bottom", values.level === undefined ? "" : ladder(Math.round(values.level)),
      values.power_mw === undefined || !values.budget_mw ? "" : meter(values.power_mw, values.budget_mw)),
    el("span", "bundle", el("span", "", birth ? birth.bundle_name : "no birth message yet"), birth ? el("code", "", birth.bundle.slice(0, 8)) : ""),
    birth?.allow_unsigned ? el("span", "badge", "unsigned commands allowed") : "",
  ].filter((part) => part !== "");
}

/** Buttons stay the same elements from one refresh to the next, so that no click is lost between two. */
function card(node) {
  let made = state.cards.get(node.node);
  if (!made) {
    made = el("button", "");
    made.type = "button";
    made.addEventListener("click", () => choose(node.node));
    state.cards.set(node.node, made);
  }
  made.className = `card ${node.status}`;
  made.setAttribute("aria-pressed", String(node.node === state.node));
  made.replaceChildren(...cardContent(node));
  return made;
}

function renderFleet() {
  const { nodes, collector } = state.fleet, counts = { online: 0, stale: 0, offline: 0 };
  for (const node of nodes) counts[node.status] += 1;
  $("summary").textContent = Object.entries(counts).filter(([, n]) => n).map(([status, n]) => `${n} ${status}`).join(" · ");
  const cards = nodes.map(card), place = $("fleet");
  if (cards.length !== place.children.length || cards.some((one, i) => one !== place.children[i])) place.replaceChildren(...cards);
  if (state.shown !== state.node) state.cards.get(state.node)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  state.shown = state.node;
  $("empty").hidden = nodes.length > 0;
  $("view").hidden = !nodes.length;
  $("trouble").hidden = !collector.problem;
  $("trouble").textContent = collector.problem;
}

// ------------------------------------------------------------------ one node

const current = () => state.fleet?.nodes.find((node) => node.node === state.node);

function renderNode(node) {
  const { birth, stats } = node, [group, name] = node.node.split("/");
  $("name").replaceChildren(el("small", "", `${group} / `), name);
  document.title = `${name} · edgerun`;
  const facts = birth ? [birth.board, birth.bundle_name, `runtime ${birth.runtime}`, `session ${node.sid}`] : ["no birth message yet"];
  if (node.status !== "online") facts.push(node.reason ? `${node.status}: ${node.reason}` : node.status);
  facts.push(node.seen_ms ? `heard ${ago(Date.now() + state.skew - node.seen_ms)}` : "not heard since this page's collector runs");
  $("facts").replaceChildren(...facts.map((fact) => el("span", "", fact)),
    ...VITALS.filter(([metric]) => node.values[metric] !== undefined).map(([metric, label]) => {
      const vital = el("span", "vital", el("b", "", withUnit(metric, node.values[metric])), ` ${label}`);
      vital.title = state.fleet.metrics[metric]?.help ?? "";
      return vital;
    }));
  const classes = birth?.classes ?? [];
  $("classes").replaceChildren(el("span", "hint", birth ? `knows ${classes.length} of ${birth.capacity} classes` : ""),
    ...classes.slice(0, 40).map((label) => el("span", "chip", label)), classes.length > 40 ? "…" : "");
  renderRecord(stats);
}

function renderRecord(stats) {
  const ignored = Object.entries(state.fleet.collector.ignored), count = (n, what) => `${n.toLocaleString("en")} ${what}`;
  const missing = el("span", stats.missing ? "bad" : "", count(stats.missing, "missing"));
  const parts = [el("span", "", count(stats.received, "messages safe here")), missing,
    el("span", "", count(stats.duplicates, "duplicates dropped")), el("span", "", count(stats.gaps, "gaps announced")),
    el("span", "", `acknowledged up to ${stats.upto.toLocaleString("en")}`)];
  if (ignored.length) {
    const refused = el("span", "warn", count(ignored.reduce((sum, [, n]) => sum + n, 0), "hostile or malformed messages ignored"));
    refused.title = ignored.map(([reason, n]) => `${reason}: ${n}`).join("\n");
    parts.push(refused);
  }
  $("record").replaceChildren(...parts);
}

function renderWindows() {
  const buttons = WINDOWS.map(([label]) => {
    const button = el("button", "", label);
    button.type = "button";
    button.setAttribute("aria-pressed", String(!state.zoom && label === state.window));
    button.addEventListener("click", () => { state.window = label; state.zoom = null; remember(); renderWindows(); wake(); });
    return button;
  });
  $("windows").replaceChildren(state.zoom ? el("span", "hint", "zoomed in, double click to leave") : "", ...buttons);
}

// ------------------------------------------------------------------ charts

function axisTimes(u, splits, axis, space, step) {
  return splits.map((ms, i) => {
    const at = new Date(ms), before = i ? new Date(splits[i - 1]) : null;
    if (step >= 86400e3) return dayOf(at).slice(5);
    const clock = step >= 60e3 ? timeOf(at).slice(0, 5) : timeOf(at);
    return before && dayOf(before) !== dayOf(at) ? `${clock}\n${dayOf(at).slice(5)}` : clock;
  });
}

function drawBands(u) {
  const { ctx, bbox } = u, { x, level } = state;
  if (!x.length) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (let start = 0, i = 0; i < x.length; i = start) {
    while (start < x.length && (level[start] === level[i] || level[start] === null)) start += 1;
    if (level[i] === null) continue;
    const from = u.valToPos(x[i], "x", true), to = u.valToPos(x[Math.min(start, x.length - 1)], "x", true);
    ctx.fillStyle = css(`--level-${level[i]}`);
    ctx.globalAlpha = 0.2;
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    ctx.globalAlpha = 0.9;
    ctx.fillRect(from, bbox.top, to - from, 3 * devicePixelRatio);
  }
  ctx.restore();
}

function drawMarks(u, heads) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  for (const mark of state.marks) {
    const x = Math.round(u.valToPos(mark.ts, "x", true)) + 0.5;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = css(`--${tone(mark.kind)}`);
    ctx.globalAlpha = 0.45;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    if (heads) {
      ctx.globalAlpha = 1;
      ctx.beginPath();
      ctx.arc(x, bbox.top - 6 * devicePixelRatio, 3.2 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.restore();
}

function yRange(chart, low, high) {
  if (chart.range) return chart.range(low ?? 100);
  const top = Math.max(high ?? 0, chart.floor ?? 1), bottom = Math.min(low ?? 0, 0);
  return [bottom * 1.1, top * 1.12];
}

function options(chart, index, width) {
  const ink = () => css("--faint"), grid = { stroke: () => css("--grid"), width: 1 }, font = `11px ${css("--sans")}`;
  const axis = { stroke: ink, font, ticks: { show: false }, grid, gap: 6 };
  const times = { ...axis, space: 70, size: chart.axis ? AXIS : 0, values: chart.axis ? axisTimes : (u, splits) => splits.map(() => "") };
  const left = { ...axis, scale: "y", size: LEFT, space: 26, values: (u, splits) => splits.map(compact) };
  const right = { ...axis, scale: "right", side: 1, size: RIGHT, space: 26, grid: { show: false }, values: (u, splits) => splits.map(compact) };
  return {
    width, height: chart.height + (chart.axis ? AXIS : 0), ms: 1, legend: { show: false },
    padding: [chart.marks ? 13 : 6, chart.right ? 0 : RIGHT, chart.axis ? 0 : 4, 0],
    scales: {
      x: { time: true, range: () => [state.series?.from ?? 0, Math.max(state.series?.to ?? 1, (state.series?.from ?? 0) + 1000)] },
      y: { range: (u, low, high) => yRange(chart, low, high) },
      right: { range: (u, low, high) => [0, Math.max(high ?? 1, 1) * 1.12] },
    },
    axes: [times, left, ...(chart.right ? [right] : [])],
    series: [{}, ...chart.series.map((s) => ({
      scale: s.side ?? "y", stroke: () => css(s.colour), width: 1.6, spanGaps: true,
      dash: s.metric === "budget_mw" ? [6, 4] : undefined,
      fill: s.fill ? () => `${css(s.colour)}1c` : undefined,
      paths: s.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: Boolean(s.points), size: 4, fill: () => css(s.colour), width: 0 },
    }))],
    cursor: {
      sync: { key: "edgerun" }, y: false, points: { size: 7, width: 1.5 },
      drag: { x: true, y: false, setScale: false },
    },
    hooks: {
      drawClear: chart.bands ? [drawBands] : [],
      draw: [(u) => drawMarks(u, chart.marks)],
      setCursor: [(u) => { keys(index, u.cursor.idx); point(u); }],
      setSelect: [zoom],
    },
  };
}

function zoom(u) {
  if (u.select.width < 8) return;
  const at = (px) => Math.round(u.posToVal(px, "x"));
  state.zoom = [at(u.select.left), at(u.select.left + u.select.width)];
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  renderWindows();
  wake();
}

/** The values in a chart's heading: those under the cursor, else the newest. */
function keys(index, at) {
  const chart = CHARTS[index], plot = state.plots[index];
  if (!plot) return;
  chart.series.forEach((s, i) => {
    const column = plot.data[i + 1] ?? [];
    const value = at === null || at === undefined ? column.findLast((v) => v !== null) : nearest(column, at);
    plot.keys[i].textContent = `${compact(value ?? null)}${s.unit ? ` ${s.unit}` : ""}`;
  });
  if (chart.bands) renderLevels(plot.side, at);
  if (chart.marks) plot.side.textContent = at === null || at === undefined ? "" : moment(plot.data[0][at]);
}

function nearest(column, at) {
  for (let i = at; i >= 0; i -= 1) if (column[i] !== null) return column[i];
  return null;
}

function renderLevels(place, at) {
  const names = state.fleet?.levels ?? [], seen = new Set(state.level.filter((v) => v !== null));
  const here = at === null || at === undefined ? state.level.findLast((v) => v !== null) : nearest(state.level, at);
  place.replaceChildren(...names.map((name, i) => [name, i]).filter(([, i]) => seen.has(i)).map(([name, i]) => {
    const swatch = el("i", "swatch");
    swatch.style.background = css(`--level-${i}`);
    return el("span", i === here ? "key here" : "key", swatch, name);
  }));
}

/** The tooltip of an event mark near the pointer. */
function point(u) {
  const tip = $("tip"), { left } = u.cursor;
  if (!u.over.matches(":hover")) { if (!document.querySelector(".u-over:hover")) tip.hidden = true; return; }
  const near = state.marks.filter((mark) => Math.abs(u.valToPos(mark.ts, "x") - left) < 6).slice(0, 5);
  tip.hidden = !near.length;
  if (!near.length) return;
  tip.replaceChildren(...near.map((mark) => el("p", tone(mark.kind), el("time", "", timeOf(new Date(mark.ts))), mark.text)));
  const box = u.over.getBoundingClientRect();
  const x = Math.min(box.left + left + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.transform = `translate(${Math.max(8, x)}px, ${Math.max(8, box.top - tip.offsetHeight - 6)}px)`;
}

function buildCharts() {
  const place = $("charts"), width = place.clientWidth;
  place.replaceChildren();
  state.plots = CHARTS.map((chart, index) => {
    const values = chart.series.map(() => el("b", "", "–"));
    const legend = chart.series.map((s, i) => {
      const swatch = el("i", `swatch${s.metric === "budget_mw" ? " dashed" : ""}`);
      swatch.style.color = `var(${s.colour})`;
      return el("span", "key", swatch, s.label, values[i]);
    });
    const side = el("span", "levels");
    const box = el("div", "chart", el("div", "head", el("h3", "", chart.title), ...legend, side));
    place.append(box);
    const u = new uPlot(options(chart, index, width), [[], ...chart.series.map(() => [])], box);
    u.over.addEventListener("mouseleave", () => { $("tip").hidden = true; keys(index, null); });
    u.over.addEventListener("dblclick", () => { state.zoom = null; renderWindows(); wake(); });
    return { u, keys: values, side, data: [[]] };
  });
}

function renderCharts() {
  const { series } = state.series;
  const x = [...new Set(METRICS.flatMap((metric) => series[metric].t))].sort((a, b) => a - b);
  const row = new Map(x.map((t, i) => [t, i]));
  const column = (metric, part, map) => {
    const made = new Array(x.length).fill(null);
    series[metric].t.forEach((t, i) => { made[row.get(t)] = map(series[metric][part][i]); });
    return made;
  };
  state.x = x;
  state.level = column("level", "max", Math.round);
  CHARTS.forEach((chart, index) => {
    const plot = state.plots[index];
    plot.data = [x, ...chart.series.map((s) => column(s.metric, s.part ?? "mean", s.map))];
    plot.u.setData(plot.data);
    keys(index, plot.u.cursor.idx);
  });
  $("charts").dataset.points = String(x.length);
}

// ------------------------------------------------------------------ events

/** Runs of lessons and checkpoints become one line; the list stays readable while the device is busy. */
function grouped(events) {
  const lines = [];
  for (const event of events) {
    const before = last(lines), quiet = event.kind === "lesson" || event.kind === "checkpoint";
    if (quiet && before?.kind === event.kind) before.count += 1;
    else lines.push({ ...event, count: 1 });
  }
  return lines;
}

function renderEvents() {
  const lines = grouped(state.events).slice(0, 120), newest = lines[0]?.id;
  $("quiet").hidden = lines.length > 0;
  $("events").dataset.count = String(state.events.length);
  $("events").replaceChildren(...lines.map((line) => {
    const at = new Date(line.ts), time = el("time", "", timeOf(at));
    time.dateTime = at.toISOString();
    time.title = `${dayOf(at)} ${timeOf(at)}, message ${line.seq}`;
    const text = line.count > 1 ? `${line.count} ${line.kind}s, the newest: ${line.text}` : line.text;
    const item = el("li", `${tone(line.kind)}${line.id === newest && line.id > state.lastSeen ? " new" : ""}`,
      el("span", "what", el("b", "", line.kind), time, line.hist ? el("em", "", "late") : ""), el("span", "text", text));
    return item;
  }));
  state.lastSeen = newest ?? 0;
  state.marks = state.events.filter((event) => tone(event.kind) !== "plain");
}

// ------------------------------------------------------------------ keeping up

function choose(name) {
  if (name === state.node) return;
  Object.assign(state, { node: name, zoom: null, events: [], lastEvent: 0, lastSeen: Infinity, series: null, marks: [] });
  remember();
  renderWindows();
  wake();
}

function remember() {
  history.replaceState(null, "", `#${new URLSearchParams({ node: state.node ?? "", window: state.window })}`);
}

function recall() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (WINDOWS.some(([label]) => label === wanted.get("window"))) state.window = wanted.get("window");
  state.node = wanted.get("node") || null;
}

function span(node) {
  if (state.zoom) return state.zoom;
  const length = WINDOWS.find(([label]) => label === state.window)[1];
  return [Math.max(node.first_ts, node.last_ts - length), node.last_ts];
}

async function refresh() {
  state.fleet = await get("/api/nodes");
  state.skew = state.fleet.now_ms - Date.now();
  if (!current() && state.fleet.nodes.length) choose(state.fleet.nodes[0].node);
  renderFleet();
  renderLink();
  const node = current();
  if (!node) return;
  const [from, to] = span(node).map(Math.floor);
  const [series, events] = await Promise.all([
    get("/api/series", { node: node.node, metrics: METRICS.join(","), from, to, points: POINTS }),
    get("/api/events", { node: node.node, after: state.lastEvent, limit: EVENTS }),
  ]);
  if (node.node !== state.node) return; // another one was chosen meanwhile
  state.series = series;
  state.events = [...events, ...state.events].slice(0, EVENTS);
  state.lastEvent = state.events[0]?.id ?? 0;
  renderNode(node);
  renderEvents();
  if (!state.plots.length) buildCharts();
  renderCharts();
}

const rest = (ms) => new Promise((done) => setTimeout(done, ms));

/** One refresh at a time, never more than a fifth of the time; what comes meanwhile is one more refresh. */
async function wake() {
  state.dirty = true;
  if (state.busy) return;
  state.busy = true;
  while (state.dirty && !document.hidden) {
    state.dirty = false;
    const begun = performance.now();
    try {
      await refresh();
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error);
      setLink("lost");
    }
    await rest(Math.max(PAUSE_MS, 4 * (performance.now() - begun)));
  }
  state.busy = false;
}

function setLink(how) {
  state.link = how;
  renderLink();
}

function renderLink() {
  const problem = state.fleet?.collector.problem;
  const [look, text] = state.link !== "live" ? ["lost", state.link === "lost" ? "reconnecting …" : "connecting …"]
    : problem ? ["lost", problem] : ["live", "live"];
  $("link").className = `link ${look}`;
  $("link").lastElementChild.textContent = text;
}

function listen() {
  const source = new EventSource("/events");
  source.onopen = () => { setLink("live"); wake(); };
  source.onerror = () => {
    setLink("lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
  source.addEventListener("change", wake);
  source.addEventListener("resync", () => { Object.assign(state, { events: [], lastEvent: 0 }); wake(); });
}

recall();
renderWindows();
listen();
wake();
setInterval(wake, IDLE_MS);
document.addEventListener("visibilitychange", wake);
addEventListener("hashchange", () => { const { node } = state; recall(); if (state.node !== node) { const next = state.node; state.node = null; choose(next); } renderWindows(); wake(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { state.plots.forEach(({ u }) => u.redraw()); renderFleet(); });
new ResizeObserver(() => {
  const width = $("charts").clientWidth;
  state.plots.forEach(({ u }, i) => { if (width && u.width !== width) u.setSize({ width, height: CHARTS[i].height + (CHARTS[i].axis ? AXIS : 0) }); });
}).observe($("charts"));
