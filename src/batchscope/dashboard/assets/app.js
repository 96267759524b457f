// The page: asks once a second, keeps what it is told, draws what is looked at.

import { Band, Heat, Lines, Percentiles, element, frameOf, readColors } from "./charts.js";
import { amount, clock, count, duration, percent, perSecond, utc } from "./format.js";
import { Link } from "./link.js";
import { Present } from "./present.js";
import { show as showQuestion } from "./question.js";
import { Store } from "./store.js";
import { FINE, WINDOWS, view } from "./view.js";
import { Fleet } from "./fleet.js";

const $ = (id) => document.getElementById(id);
let stores, asked, cursors, of; // of the engine `of`, or of all together
const present = new Present($("present"));
let names = null, place = {}, answer = null, answeredAt = 0, state = "starting", link = null, figures = [], tables = [], fleet = null;
let scripting = 0, built = false, shape = "", drawn = "", figuresAt = 0;

// Nothing is known yet of what is looked at: what stands there is of something else, until it answers.
function begin() {
  stores = { 1: new Store(1), 10: new Store(10) };
  asked = { 1: 0, 10: 0 }; // for how many seconds each store was asked
  cursors = { 1: "", 10: "" };
  clear();
  [answer, built, figuresAt, of] = [null, false, 0, view.engine];
}

function clear() {
  for (const figure of figures) figure.end();
  $("question").hidden = true;
  [figures, tables] = [[], []];
}
begin();

const store = () => stores[view.seconds];
// The server's time in seconds, by its last word and our monotonic clock.
const now = () => (answer ? answer.newest + (performance.now() - answeredAt) / 1000 : 0);
const behind = () => (performance.now() - answeredAt) / 1000;

function query() {
  const width = view.seconds;
  const past = view.pausedAt === null ? 0 : Math.max(0, Math.ceil(now() - view.pausedAt));
  const wanted = Math.min(width === 1 ? FINE : 7200, view.window + 60 + (answer ? past : FINE));
  if (wanted > asked[width]) (asked[width] = wanted), (cursors[width] = "");
  const said = new URLSearchParams({ seconds: width, last: asked[width] });
  if (cursors[width]) said.set("since", cursors[width]);
  if (of) said.set("engine", of);
  return said.toString();
}

function told(said, query) {
  if ((new URLSearchParams(query).get("engine") ?? "") !== of) return; // another one was chosen meanwhile
  const began = performance.now();
  answer = said;
  answeredAt = began;
  const into = stores[said.seconds];
  into.take(said);
  cursors[said.seconds] = said.cursor;
  const before = view.window + 60, { pausedAt } = view;
  into.trim(said.newest - (said.seconds === 1 ? FINE : 7200) - before, (instant) => pausedAt !== null && instant > pausedAt - before && instant <= pausedAt);
  if (said.names) {
    names = said.names;
    place = into.place;
    built = false;
  }
  const oldest = into.cells.keys().next().value;
  if (oldest !== undefined) view.fit(said.newest - (oldest - 1) * said.seconds);
  show();
  chosenBanner();
  draw();
  scripting = performance.now() - began;
  cost();
}

// The figures of now; while paused those that were there.
function show() {
  if (view.pausedAt !== null && figuresAt) return;
  figuresAt = answer.newest;
  present.take(answer, names.figures);
  if (!built || shape !== present.shape()) build();
  [built, shape] = [true, present.shape()];
  present.write();
}

function limiters() {
  return names.limiters;
}

// Everything that depends on names: the tiles, the tables, and the figures where there are none yet.
function build() {
  $("whose").textContent = [names.engine, ...Object.entries(names.labels).map(([name, value]) => `${name}=${value}`), names.processes > 1 ? `${names.processes} processes` : ""].filter(Boolean).join(", ");
  $("version").textContent = `batchscope ${names.version}`;
  present.build(names);
  const classes = JSON.stringify(Object.keys(names.targets)); // a process that joins may bring some
  if (classes !== drawn) clear();
  drawn = classes;
  if (!figures.length) makeFigures();
  for (const fill of tables) fill();
  if ((names.merged || of) && !fleet) fleet = new Fleet($("fleet"), link, () => names);
}

const targetsOf = (quantity) =>
  Object.entries(names.targets).flatMap(([name, targets]) => {
    const own = quantity === "total_time" ? "e2e_latency" : quantity === "inter_token_latency" ? "" : quantity;
    return targets[own] ? [[`SLO of ${name}`, targets[own]]] : [];
  });

function makeFigures() {
  const ratio = (part, whole) => (cell) => (cell.counts[place[whole]] > 0 ? cell.counts[place[part]] / cell.counts[place[whole]] : NaN);
  const rate = (column) => (cell) => cell.counts[place[column]] / covered(cell);
  // While an iteration goes on, and none has ended, nobody knows how many tokens it brings: that is not 0.
  const tokens = (column) => {
    const found = rate(column);
    return (cell) => (cell.counts[place.iterations] || !cell.counts[place["running.sum"]] ? found(cell) : NaN);
  };
  const or = (first, other) => (cell) => (Number.isNaN(first(cell)) ? other(cell) : first(cell));
  // Of several engines together no iteration has a budget, and who runs is counted by their gauges.
  const budget = () => (names.merged ? null : names.limits.max_scheduled_tokens);
  const held = (name) => {
    const mean = ratio(`${name}_request_seconds`, `${name}_reported_seconds`);
    const gauge = ratio(`${name}.sum`, `${name}.count`);
    return names.merged ? gauge : or(mean, gauge);
  };
  const gpu = (column) => (cell) => cell.gpus[column] ?? NaN;
  const scheduled = (column) => (cell) => {
    const iterations = cell.counts[place.iterations];
    return iterations > 0 ? cell.counts[place[column]] / iterations : NaN;
  };
  const percentiles = new Percentiles(names, targetsOf);
  const latencies = element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: "Latencies of the last minute" } });
  const beside = element("div", { className: "beside" });
  percentiles.body.replaceWith(beside);
  beside.append(percentiles.body, latencies);
  tables.push(() => latencies.replaceChildren(present.latencies()));
  figures = [
    new Band(limiters()),
    percentiles,
    new Heat("time_to_first_token", "TTFT", () => targetsOf("time_to_first_token")),
    new Heat("inter_token_latency", "ITL", () => targetsOf("time_per_output_token")),
    new Lines({ id: "requests", title: "Running and waiting requests", form: amount, top: () => names.limits.max_running_requests,
      lines: [["running", held("running")], ["waiting", held("waiting")]],
      targets: () => (names.limits.max_running_requests ? [["max_running_requests", names.limits.max_running_requests]] : []) }),
    new Lines({ id: "tokens", title: "Scheduled tokens an iteration", form: amount, top: budget,
      lines: [["prefill", scheduled("scheduled_prefill_tokens")], ["decode", scheduled("scheduled_decode_tokens")]],
      targets: () => (budget() ? [["max_scheduled_tokens", budget()]] : []) }),
    new Lines({ id: "kv", title: "KV cache in use", form: percent, top: () => 1,
      lines: [["KV cache", ratio("kv_cache_usage.sum", "kv_cache_usage.count")]] }),
    new Lines({ id: "throughput", title: "Tokens a second", form: perSecond,
      lines: [["output", tokens("generation_tokens")], ["computed prompt", tokens("prompt_tokens_computed")], ["cached prompt", tokens("prompt_tokens_cached")]] }),
    new Lines({ id: "slo", title: "SLO met, last minute", form: percent, top: () => 1, lines: sloLines(), before: attain,
      note: "All targets by the same request; below: since start, with the 95 % interval." }),
    new Lines({ id: "ends", title: "Failed, cancelled, errors, preemptions a second", form: perSecond,
      lines: [["failed", rate("failed")], ["cancelled", rate("cancelled")], ["errors", rate("errors")], ["preemptions", rate("preemptions")]] }),
    new Lines({ id: "gpus", title: "GPUs", wide: true, form: percent, top: () => 1,
      lines: [["busy, lowest", gpu(0)], ["busy, mean", gpu(1)], ["busy, highest", gpu(2)], ["memory, fullest", gpu(3)]],
      note: "Over all GPUs; below: each of them now." }),
  ];
  withTable("gpus", () => present.gpus() ?? "");
  withTable("slo", () => present.slo());
  withTable("ends", () => present.errors());
  $("present").after($("question")); // it may stand among the charts that were
  $("charts").replaceChildren(...figures.map(({ root }) => root));
  // Only where there is one: GPUs came with the first reading of one.
  const { root } = figures.find((one) => one.id === "gpus");
  tables.push(() => (root.hidden = !present.gpus()));
}

// Seconds of which a cell's counts are. Of several processes by their own clocks: of one that tells once a second a
// second of ours may have none or two; how many they are is the mean of the last cells.
function covered(cell) {
  const { cells, seconds } = store();
  if (!names.merged || seconds !== 1) return cell.counts[place.wall_seconds];
  if (!cell.ranks) {
    let ranks = 0, wall = 0;
    for (let back = 0; back < 10; back += 1) {
      const one = cells.get(cell.number - back);
      if (one) (ranks += one.counts[place.rank_seconds]), (wall += one.counts[place.wall_seconds]);
    }
    cell.ranks = ranks / wall;
  }
  return cell.counts[place.rank_seconds] / cell.ranks;
}

function withTable(id, make) {
  const { body, root } = figures.find((one) => one.id === id);
  const place = element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: root.querySelector("h2").textContent } });
  body.after(place);
  tables.push(() => place.replaceChildren(make()));
}

// Attainment of the minute before each cell, from exact sums; nothing where nobody was judged.
let attained = new Map();
function attain({ store, from, to, width }) {
  const cells = store.between(from - 60, to);
  const sums = names.classes.map(() => [0, 0]);
  const change = (cell, sign) => cell.slo.forEach(([met, missed], row) => ((sums[row][0] += sign * met), (sums[row][1] += sign * missed)));
  attained = new Map();
  let oldest = 0;
  for (const cell of cells) {
    change(cell, 1);
    while (cells[oldest].number * width <= cell.number * width - 60) change(cells[oldest++], -1);
    attained.set(cell.number, sums.map(([met, missed]) => met / (met + missed)));
  }
}

function sloLines() {
  return Object.keys(names.targets).slice(0, 4).map((name) => [name, (cell) => attained.get(cell.number)?.[names.classes.indexOf(name)] ?? NaN]);
}

function draw() {
  if (!built || !answer || !store().names) return;
  const live = Math.max(answer.newest, Math.floor(now() - (behind() > 1.5 ? 0 : 1)));
  const to = view.pausedAt ?? Math.ceil(live / view.seconds) * view.seconds;
  const frame = frameOf(store(), to);
  for (const figure of figures) figure.draw(frame);
  const { range } = view;
  if (range && range[1] > frame.from && range[0] < to) showQuestion($("question"), store(), frame, range, limiters(), () => view.set({ range: null }));
  else $("question").hidden = true;
}

// Live only if the last answer is younger than two intervals; else how old everything is.
function judge() {
  const silent = answer && behind() > names.stale_intervals * names.interval;
  const gone = state === "gone" || state === "closed";
  const shown = state === "locked" ? "locked" : silent || (gone && answer) ? (gone ? "gone" : "stale") : answer ? answer.verdict.state : state === "gone" ? "gone" : "starting";
  const old = !answer || shown === "stale" || shown === "gone" || shown === "locked";
  document.body.classList.toggle("stale", old);
  const mark = names?.states[shown];
  $("verdict").dataset.state = shown;
  $("verdict").dataset.tone = mark?.tone ?? "warning";
  $("sign").textContent = mark?.sign ?? "◌";
  $("state").textContent = shown === "locked" ? "token needed" : answer || shown === "gone" ? shown : "connecting";
  $("locked").hidden = state !== "locked";
  const ago = duration(Math.round(behind()));
  const age = answer ? duration(Math.round(behind() + answer.silent)) : ""; // who ended has been silent before, too
  if (answer) {
    const { sentence } = answer.verdict;
    const about = shown === answer.verdict.state ? "" : names.silence[shown]?.replace("{age}", age); // else it says so itself
    write($("sentence"), about ? `${about} ${sentence}` : sentence);
    const when = answer.newest ? `${clock(now())} (${utc(now())})` : "";
    write($("asof"), old ? `Last answer at ${clock(now() - behind())}, ${ago} ago; asking on.` : when);
  } else if (state === "gone") {
    write($("sentence"), "Nobody answers here; asking on.");
  } else if (state === "closed") {
    write($("sentence"), "There are no figures: the collector was closed, or nothing can be read yet. Asking on.");
  } else if (state === "locked") {
    write($("sentence"), "This endpoint shows its figures to who knows its token.");
  } else {
    write($("sentence"), `Asking for the first figures${of ? " of this engine" : ""}.`);
    write($("asof"), "");
  }
  for (const one of document.querySelectorAll(".tile .age")) write(one, answer && old ? `${age} old` : old ? "of what was shown before" : "");
  document.title = `${shown === "live" ? "" : `${shown}: `}batchscope${names?.engine ? ` ${names.engine}` : ""}`;
  pausedBanner();
}

function write(one, text) {
  if (one.textContent !== text) one.textContent = text;
}

function pausedBanner() {
  const paused = view.pausedAt !== null;
  $("paused").hidden = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  write($("pause"), paused ? "Resume" : "Pause");
  if (paused && answer) write($("paused-text"), `Paused at ${clock(view.pausedAt)}, ${duration(Math.max(0, Math.round(now() - view.pausedAt)))} behind. ${figuresAt > view.pausedAt + 1 ? `Figures in tiles and tables are of ${clock(figuresAt)}. ` : ""}The verdict above is of now.`);
}

function chosenBanner() {
  $("chosen").hidden = !view.engine;
  if (view.engine) write($("chosen-text"), `Verdict, figures and charts are of one engine: ${built ? $("whose").textContent : view.engine}. Its history is of ten minutes, a cell ten seconds.`);
}

function cost() {
  write($("cost"), `What looking costs: the server ${(100 * answer.cost).toFixed(2)} % of a core for history and viewers; this page ${scripting.toFixed(0)} ms and ${count(link.bytes)} bytes an answer.${answer.cut_off ? ` ${count(answer.cut_off)} requests found no room in the buckets of their second.` : ""}`);
}

function pause() {
  if (!answer?.newest) return;
  view.set({ pausedAt: view.pausedAt === null ? Math.floor(answer.newest) : null });
}

function theme() {
  const next = { system: "light", light: "dark", dark: "system" };
  view.set({ theme: next[view.theme] });
}

function themed() {
  if (view.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = view.theme;
  write($("theme"), `Theme: ${view.theme}`);
  readColors();
}

let shownWindow = 0;
function viewed() {
  themed();
  if (of !== view.engine) {
    begin();
    judge();
    link.ask();
  }
  chosenBanner();
  for (const one of $("windows").children) one.setAttribute("aria-pressed", String(Number(one.dataset.window) === view.window));
  if (answer) show();
  if (shownWindow && shownWindow !== view.window) link.ask();
  shownWindow = view.window;
  draw();
  pausedBanner();
}

let speaking = 0;
// Once the keys rest, so at most once a second.
function speak(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => write($("spoken"), text()), 1000);
}

function keys(event) {
  const field = event.target.closest?.("input, textarea, select, dialog");
  if (field || event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = Object.keys(WINDOWS).map(Number);
  const acts = {
    p: pause,
    t: theme,
    w: () => view.set({ window: steps[(steps.indexOf(view.window) + 1) % steps.length] }),
    "?": () => $("keys").showModal(),
    Escape: () => (view.point(null), view.set(view.range ? { range: null } : { engine: "" })),
  };
  if (event.key in acts) acts[event.key](), event.preventDefault();
}

for (const [window, text] of Object.entries(WINDOWS))
  $("windows").append(element("button", { type: "button", textContent: text, data: { window }, onclick: () => view.set({ window: Number(window) }) }));
$("pause").onclick = $("resume").onclick = pause;
$("theme").onclick = theme;
$("everybody").onclick = () => view.set({ engine: "", range: null });
$("help").onclick = () => $("keys").showModal();
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  if (token) link.use(token);
};
document.addEventListener("keydown", keys);
document.addEventListener("spoken", (event) => speak(event.detail));
// Its answer appears below the figure that was asked, so that nothing moves under the hand.
document.addEventListener("asked", (event) => event.target.after($("question")));
document.addEventListener("selecting", (event) => figures.forEach((figure) => figure.place(event.detail)));
view.addEventListener("change", viewed);
view.addEventListener("cursor", () => requestAnimationFrame(() => figures.forEach((figure) => figure.pointed())));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", viewed);
link = new Link(query, told, (found) => {
  state = found;
  if (found === "unknown" && of) view.set({ engine: "" }); // it was forgotten: it ended more than ten minutes ago
  judge();
});
new ResizeObserver(() => draw()).observe($("charts"));
setInterval(() => {
  if (document.hidden) return;
  judge();
  if (answer && behind() > 1.5) draw();
}, 500);
// Printed on white, and out of sight or not.
matchMedia("print").addEventListener("change", () => {
  readColors();
  for (const figure of figures) if (figure.frame) figure.paintLate();
});
viewed();
link.ask();
