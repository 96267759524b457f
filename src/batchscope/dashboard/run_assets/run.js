import { amount, count, duration, percent, perSecond } from "./format.js";

// The charts of a run that is over: lines are uPlot's; the band and the heat maps are painted here. All figures share one
// cursor, by the mouse and by the arrow keys, and each reads in a line what it is on.

const data = JSON.parse(document.getElementById("data").textContent);
const LEFT = 58, RIGHT = 12, TOP = 8, BOTTOM = 22, HEIGHT = 170;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const ends = Array.from({ length: data.cells }, (_, cell) => data.from + (cell + 0.5) * data.width);
const to = data.from + data.cells * data.width;
const figures = [];
let cursor = null;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const elapsed = (seconds) => {
  const part = (value) => String(Math.floor(value)).padStart(2, "0");
  const span = to - data.from;
  if (to < 120 || span < 20) return `${seconds.toFixed(span < 2 ? 2 : span < 20 ? 1 : 0)} s`;
  return seconds >= 3600
    ? `${Math.floor(seconds / 3600)}:${part((seconds % 3600) / 60)}:${part(seconds % 60)}`
    : `${Math.floor(seconds / 60)}:${part(seconds % 60)}`;
};

// Each figure: `show(box)` makes it once, `paint()` draws it in the present colours and width, `read(cell)` says it.
function figure(id, make) {
  const node = document.getElementById(id);
  const plot = node.querySelector(".plot"), reading = node.querySelector(".reading");
  const made = make(plot, node);
  const about = reading.textContent;
  if (!made) return;
  node.hidden = false;
  const line = element("div", { className: "line-cursor", hidden: true });
  plot.append(line);
  const known = {
    paint: made.paint,
    move() {
      line.hidden = cursor === null || made.still;
      reading.textContent = cursor === null || made.still ? about : `${elapsed(ends[cursor])}: ${made.read(cursor)}`;
      if (cursor !== null && !made.still) line.style.left = `${LEFT + ((cursor + 0.5) / data.cells) * (plot.clientWidth - LEFT - RIGHT)}px`;
    },
  };
  figures.push(known);
  if (made.still) return;
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const part = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    moveTo(part < 0 || part > 1 ? null : Math.min(data.cells - 1, Math.floor(part * data.cells)));
  });
  plot.addEventListener("pointerleave", () => moveTo(null));
  plot.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -data.cells, End: data.cells };
    if (event.key === "Escape") return moveTo(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    moveTo(Math.max(0, Math.min(data.cells - 1, (cursor ?? (steps[event.key] > 0 ? -1 : data.cells)) + steps[event.key])));
  });
}

function moveTo(cell) {
  cursor = cell;
  for (const each of figures) each.move();
}

// A canvas as wide as its box; gives its context in CSS pixels.
function canvasIn(plot, height) {
  const canvas = element("canvas", {});
  plot.append(canvas);
  return () => {
    const width = plot.clientWidth, scale = Math.max(1, Math.min(3, devicePixelRatio));
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.clearRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    return [context, width];
  };
}

// Instants at round steps below a painted chart.
function timeAxis(context, width, bottom) {
  const inner = width - LEFT - RIGHT, span = to - data.from;
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const step = steps.find((each) => (each / span) * inner >= 70) ?? 86400;
  context.fillStyle = color("quiet");
  context.textAlign = "center";
  context.textBaseline = "top";
  for (let at = Math.ceil(data.from / step) * step; at <= to + 1e-9; at += step)
    context.fillText(elapsed(at), LEFT + ((at - data.from) / span) * inner, bottom + 5);
  return step;
}

function legend(node, entries) {
  const list = element("ul", { className: "legend" });
  for (const [name, mark, shade, more] of entries) {
    const key = element("span", { className: mark });
    key.style.setProperty("--c", shade);
    list.append(element("li", {}, key, `${name}${more ? ` ${more}` : ""}`));
  }
  node.append(list);
}

// What held the batch: of each cell the share of time by limiter, stacked; what is left is idle.
function band(plot, node) {
  const total = (limiter, what) => limiter[what].reduce((sum, value) => sum + value, 0);
  const used = data.limiters.filter((limiter) => total(limiter, "busy") > 0).sort((a, b) => total(b, "busy") - total(a, "busy"));
  if (!used.length) return null;
  const busy = used.reduce((sum, limiter) => sum + total(limiter, "busy"), 0);
  const { ranks } = data;
  const draw = canvasIn(plot, 120);
  legend(node, used.map((each) => [each.name, "swatch", `var(--limiter-${each.id})`,
    `${percent(total(each, "busy") / busy)}${data.places ? `, ${amount(total(each, "lost"))} slot-s lost` : ""}`]));
  return {
    paint() {
      const [context, width] = draw();
      const inner = width - LEFT - RIGHT, height = 120 - BOTTOM - TOP;
      context.fillStyle = color("grid");
      context.fillRect(LEFT, TOP, inner, height);
      for (let cell = 0; cell < data.cells; cell++) {
        const x = Math.round(LEFT + (cell / data.cells) * inner), next = Math.round(LEFT + ((cell + 1) / data.cells) * inner);
        let bottom = TOP + height;
        for (const each of used) {
          const part = (each.busy[cell] / (data.width * ranks)) * height;
          context.fillStyle = color(`limiter-${each.id}`);
          context.fillRect(x, bottom - part, next - x, part);
          bottom -= part;
        }
      }
      context.fillStyle = color("quiet");
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillText("100 %", LEFT - 6, TOP + 5);
      context.fillText("0", LEFT - 6, TOP + height - 4);
      timeAxis(context, width, TOP + height);
    },
    read(cell) {
      const here = used.filter((each) => each.busy[cell] > 0);
      const idle = 1 - here.reduce((sum, each) => sum + each.busy[cell], 0) / (data.width * ranks);
      const parts = here.map((each) => `${each.name} ${percent(each.busy[cell] / (data.width * ranks))}${data.places ? ` (${amount(each.lost[cell])} slot-s lost)` : ""}`);
      return [...parts, ...(idle > 0.001 ? [`idle ${percent(idle)}`] : [])].join(", ") || "nothing ran";
    },
  };
}

// Lines: [name, values, place of the colour]; `levels`: [name, value, tone] across. `form` words a value.
function lines(series, form, { levels = [], log = false, n = null, top = null, together = 1 } = {}) {
  return (plot, node) => {
    const known = series.filter(([, values]) => values.some((value) => value !== null && (!log || value > 0)));
    if (!known.length || !window.uPlot) return null;
    const height = HEIGHT;
    const box = element("div", {});
    plot.append(box);
    const columns = [ends, ...known.map(([, values]) => (log ? values.map((value) => (value > 0 ? value : null)) : values)),
      ...levels.map(([, value]) => ends.map(() => value))];
    const flat = columns.slice(1).flat().filter((value) => value !== null);
    const low = log ? Math.min(...flat) / 1.15 : 0, high = (top ?? Math.max(...flat)) * (log ? 1.15 : 1.05) || 1;
    const axis = { stroke: () => color("quiet"), grid: { stroke: () => color("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const chart = new uPlot({
      width: 300, height, padding: [TOP, RIGHT, 0, 0], legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, range: [data.from, to] }, y: { distr: log ? 3 : 1, range: [low, high] } },
      axes: [
        { ...axis, size: BOTTOM, space: 70, values: (_, at) => at.map(elapsed), incrs: [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400] },
        { ...axis, size: LEFT, space: 28, ...(log ? { splits: () => logSplits(low, high) } : {}), filter: (_, at) => at, values: (_, at) => at.map((value) => (value === null ? "" : form(value))) },
      ],
      series: [{}, ...known.map(([, , place], index) => ({
        stroke: () => color(`series-${place}`), width: 1.6, dash: DASHES[index % DASHES.length], spanGaps: false,
        points: { show: (_, __, first, last) => last - first < 3 || alone(columns[index + 1]), size: 4, fill: () => color(`series-${place}`) },
      })), ...levels.map(([, , tone]) => ({ stroke: () => color(tone), width: 1.4, dash: [3, 3], points: { show: false } }))],
    }, columns, box);
    if (together > 1) node.querySelector(".reading").textContent += `; ${duration(together * data.width)} a step`;
    legend(node, [...known.map(([name, , place], index) => [name, `key d${index % 3}`, `var(--series-${place})`]),
      ...levels.map(([name, , tone]) => [name, "key d2", `var(--${tone})`])]);
    return {
      paint() {
        chart.setSize({ width: plot.clientWidth, height });
        chart.redraw(false, true);
      },
      read: (cell) => known.map(([name, values]) => `${name} ${form(values[cell])}`).join(", ") + (n ? `, n=${count(n[cell])}` : ""),
    };
  };
}

// Whether most values have no neighbour: then a line would show nothing.
function alone(values) {
  const told = values.filter((value) => value !== null).length;
  const lonely = values.filter((value, at) => value !== null && values[at - 1] == null && values[at + 1] == null).length;
  return lonely > told / 4;
}

function logSplits(low, high) {
  const found = [];
  const fine = high / low < 30 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const step of fine) {
      const at = step * 10 ** power;
      if (at >= low && at <= high) found.push(at);
    }
  return found.length > 1 ? found : [low * 1.1, high / 1.1];
}

// Counts by cell and value: the darker, the more, by the logarithm of the count.
function heat(name) {
  return (plot, node) => {
    const map = data.heat[name];
    if (!map.rows.length) return null;
    const height = HEIGHT + 20, draw = canvasIn(plot, height);
    const targets = Object.entries(data.latencies[name].targets);
    const edge = (row) => map.low * (map.high / map.low) ** (row / map.count);
    const byCell = new Map(map.rows.map(([cell, first, ...counts]) => [cell, [first, counts]]));
    const shade = (number) => Math.min(5, Math.floor((Math.log(number) / Math.max(Math.log(map.most), 1e-9)) * 6));
    legend(node, [["1", "swatch", "var(--heat-0)"], [count(map.most), "swatch", "var(--heat-5)"],
      ...targets.map(([group, value]) => [`SLO ${group} ${duration(value)}`, "key d2", "var(--bad)"])]);
    return {
      paint() {
        const [context, width] = draw();
        const inner = width - LEFT - RIGHT, tall = height - BOTTOM - TOP;
        for (const [cell, [first, counts]] of byCell) {
          const x = Math.floor(LEFT + (cell / data.cells) * inner), next = Math.ceil(LEFT + ((cell + 1) / data.cells) * inner);
          counts.forEach((number, place) => {
            if (!number) return;
            const y = TOP + tall * (1 - (first + place + 1) / map.count);
            context.fillStyle = color(`heat-${shade(number)}`);
            context.fillRect(x, Math.floor(y), next - x, Math.ceil(tall / map.count));
          });
        }
        const yOf = (value) => TOP + tall * (1 - Math.log(value / map.low) / Math.log(map.high / map.low));
        context.strokeStyle = color("bad");
        context.setLineDash([3, 3]);
        for (const [, value] of targets) {
          if (value < map.low || value > map.high) continue;
          context.beginPath();
          context.moveTo(LEFT, yOf(value));
          context.lineTo(width - RIGHT, yOf(value));
          context.stroke();
        }
        context.fillStyle = color("quiet");
        context.textAlign = "right";
        context.textBaseline = "middle";
        for (const value of logSplits(map.low, map.high)) context.fillText(duration(value), LEFT - 6, yOf(value));
        timeAxis(context, width, TOP + tall);
      },
      read(cell) {
        const here = byCell.get(cell);
        if (!here) return "none";
        const [first, counts] = here;
        const total = counts.reduce((sum, number) => sum + number, 0);
        return `${count(total)} from ${duration(edge(first))} to ${duration(edge(first + counts.length))}`;
      },
    };
  };
}

// Shares that took at most so long, of each latency; both axes begin where something is.
function distributions(plot, node) {
  const known = Object.values(data.latencies).filter((each) => each.cdf[0].length > 1);
  if (!known.length) return null;
  const height = HEIGHT + 20, draw = canvasIn(plot, height);
  const early = (each) => each.cdf[0].find((value, place) => value > 0 && each.cdf[1][place] >= 0.005) ?? 1; // few are far below
  const low = Math.min(...known.map(early));
  const high = Math.max(...known.map((each) => each.cdf[0].at(-1)));
  legend(node, known.map((each, index) => [each.name, `key d${index % 3}`, `var(--series-${index % 4})`]));
  return {
    still: true,
    paint() {
      const [context, width] = draw();
      const inner = width - LEFT - RIGHT, tall = height - BOTTOM - TOP;
      const x = (value) => LEFT + inner * Math.max(0, Math.log(value / low) / Math.max(Math.log(high / low), 1e-9));
      const y = (share) => TOP + tall * (1 - share);
      context.strokeStyle = color("grid");
      context.fillStyle = color("quiet");
      context.textBaseline = "middle";
      context.textAlign = "right";
      for (const share of [0, 0.25, 0.5, 0.75, 1]) {
        context.beginPath();
        context.moveTo(LEFT, y(share));
        context.lineTo(width - RIGHT, y(share));
        context.stroke();
        context.fillText(`${100 * share} %`, LEFT - 6, y(share));
      }
      context.textBaseline = "top";
      context.textAlign = "center";
      for (const value of logSplits(low, high)) context.fillText(duration(value), x(value), TOP + tall + 5);
      known.forEach((each, index) => {
        context.strokeStyle = color(`series-${index % 4}`);
        context.lineWidth = 1.6;
        context.setLineDash(DASHES[index % 3]);
        context.beginPath();
        let share = 0;
        each.cdf[0].forEach((value, place) => {
          if (place) context.lineTo(x(value), y(share));
          share = each.cdf[1][place];
          place ? context.lineTo(x(value), y(share)) : context.moveTo(x(value), y(share));
        });
        context.stroke();
      });
    },
  };
}

const perCell = (values) => values?.map((value) => value / data.width);
const means = data.means, counts = data.counts;
const level = (name, value) => (value ? [[name, value, "quiet"]] : []);
function latency(id) {
  const found = data.latencies[id];
  const targets = Object.entries(found.targets).map(([group, value]) => [`SLO ${group} ${duration(value)}`, value, "bad"]);
  return lines(Object.entries(found.percentiles).map(([name, values], place) => [name, values, place]), duration, { levels: targets, log: true, n: found.n, together: found.together });
}
const attained = data.attainment;

figure("band", band);
figure("requests", lines([["in the batch", means.batch, 0], ["waiting", means.waiting, 1], ["deferred", means.deferred.some((value) => value) ? means.deferred : [null], 2]], amount, { levels: level("places", data.places) }));
figure("room", lines([["token budget used", means.token_budget, 0], ["KV cache used", means.kv_cache, 1]], percent, { top: 1 }));
figure("arrivals", lines([["arrived", perCell(counts.arrived), 0], ["completed", perCell(counts.completed), 1], ["failed", counts.failed.some(Boolean) ? perCell(counts.failed) : [null], 2], ["cancelled", counts.cancelled.some(Boolean) ? perCell(counts.cancelled) : [null], 3]], perSecond));
figure("preemptions", counts.preemptions.some(Boolean) ? lines([["preempted", perCell(counts.preemptions), 0]], perSecond) : () => null);
for (const id of ["time_to_first_token", "time_per_output_token", "inter_token_latency", "total_time"]) figure(id, latency(id));
figure("attainment", attained ? lines([["met", attained.met, 0]], percent, { top: 1, n: attained.n, together: attained.together }) : () => null);
for (const name of ["time_to_first_token", "inter_token_latency"]) figure(`heat_${name}`, heat(name));
figure("cdf", distributions);

const paint = () => {
  for (const each of figures) each.paint();
  moveTo(cursor);
};
paint();
let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(paint);
});
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", paint);
addEventListener("beforeprint", paint);
addEventListener("afterprint", paint);
document.documentElement.dataset.drawn = "true";
