// The figures over time. Each has a name, a plot that the keyboard reaches, one line that reads what the cursor is on,
// and its data as a table. Lines are uPlot's; the band, the heat maps and the strips are painted here.

import { about, amount, clock, count, duration, percent } from "./format.js";
import { sumOf } from "./store.js";
import { view } from "./view.js";

export const LEFT = 58, RIGHT = 12, BOTTOM = 22;
const ROWS = 25;
let colors = {};

export function element(tag, properties = {}, ...children) {
  const { data, style, aria, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(data ?? {})) made.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) made.setAttribute(name === "role" ? "role" : `aria-${name}`, value);
  for (const [name, value] of Object.entries(style ?? {})) made.style.setProperty(name, value);
  made.append(...children);
  return made;
}

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  colors = new Proxy({}, { get: (known, name) => (known[name] ??= style.getPropertyValue(`--${name}`).trim()) });
}

export const color = (name) => colors[name];

// A frame: what all figures draw in one go. `from` and `to` are instants.
export function frameOf(store, to) {
  const from = to - view.window;
  return { store, from, to, cells: store.between(from, to), width: store.seconds };
}

const hatched = new Map();
function hatch(context, ground) {
  const key = `${ground}`;
  if (!hatched.has(key)) {
    const tile = element("canvas", { width: 8, height: 8 });
    const draw = tile.getContext("2d");
    draw.strokeStyle = ground;
    draw.lineWidth = 1.2;
    draw.beginPath();
    for (const start of [-4, 0, 4, 8]) draw.moveTo(start - 2, 10), draw.lineTo(start + 10, -2);
    draw.stroke();
    hatched.set(key, tile);
  }
  return context.createPattern(hatched.get(key), "repeat");
}

// The stretches of the frame that nobody measured, as [from, to].
export function gaps(frame) {
  const found = [];
  let end = frame.from;
  for (const cell of frame.cells) {
    const begin = Math.max(frame.from, (cell.number - cell.span) * frame.width);
    if (begin - end > 0.6 * frame.width) found.push([end, begin]);
    end = cell.number * frame.width;
  }
  if (frame.to - end > 1.6 * frame.width) found.push([end, frame.to]);
  return found;
}

function paintGaps(context, frame, x, top, height) {
  context.save();
  context.fillStyle = hatch(context, color("quiet"));
  for (const [from, to] of gaps(frame)) {
    context.globalAlpha = from === frame.from ? 0.12 : 0.5; // before the history began, or a time that nobody measured
    context.fillRect(x(from), top, Math.max(1, x(to) - x(from)), height);
  }
  context.restore();
}

function paintMarks(context, frame, x, top, height) {
  context.save();
  context.strokeStyle = context.fillStyle = color("warning");
  context.setLineDash([4, 3]);
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  for (const [instant, what] of frame.store.marks) {
    if (instant <= frame.from || instant > frame.to) continue;
    const at = Math.round(x(instant - frame.width)) + 0.5;
    context.beginPath();
    context.moveTo(at, top);
    context.lineTo(at, top + height);
    context.stroke();
    context.fillText(what, Math.min(at + 4, x(frame.to) - 54), top + 10);
  }
  context.restore();
}

const STEPS = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
export function instants(frame, room) {
  const step = STEPS.find((one) => (room * one) / (frame.to - frame.from) >= 74) ?? 3600;
  const zone = 60 * new Date(1000 * frame.to).getTimezoneOffset();
  const found = [];
  for (let at = Math.ceil((frame.from - zone) / step) * step + zone; at <= frame.to; at += step) found.push(at);
  return { step, found };
}

class Figure {
  constructor({ id, title, note = "", height = 168, wide = false }) {
    this.id = id;
    this.title = title;
    this.height = height;
    this.reading = element("span", { className: "reading" });
    this.plot = element("div", {
      className: "plot", tabIndex: 0, id: `plot-${id}`,
      aria: { role: "group", label: `${title}: arrow keys move the cursor, with Shift they select`, describedby: `note-${id}` },
    });
    this.line = element("div", { className: "line-cursor", hidden: true });
    this.range = element("div", { className: "range", hidden: true });
    this.table = element("div", { className: "scroll" });
    this.details = element("details", {}, element("summary", { textContent: "Data" }), this.table);
    this.details.addEventListener("toggle", () => this.details.open && this.frame && this.fill());
    this.page = 0;
    this.body = element("div", {}, this.plot);
    this.root = element(
      "figure",
      { className: wide ? "wide" : "", aria: { role: "figure", labelledby: `title-${id}` } },
      element("figcaption", {}, element("h2", { id: `title-${id}`, textContent: title }), this.reading),
      this.body,
      element("p", { className: "note", id: `note-${id}`, textContent: note }),
      this.details,
    );
    this.makePlot();
    this.plot.append(this.range, this.line);
    this.listen();
    // What is out of sight is painted when it comes into sight.
    this.seen = true;
    new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
      if (this.seen && this.late) this.paintLate();
    }, { rootMargin: "200px" }).observe(this.plot);
  }

  paintLate() {
    this.late = false;
    this.paintAll();
  }

  makePlot() {
    this.canvas = element("canvas", { aria: { hidden: "true" } });
    this.plot.append(this.canvas);
  }

  get room() {
    return Math.max(40, this.plot.clientWidth - LEFT - RIGHT);
  }

  x(instant) {
    return LEFT + ((instant - this.frame.from) / (this.frame.to - this.frame.from)) * this.room;
  }

  instant(x) {
    const { from, to, width } = this.frame;
    const at = from + ((x - LEFT) / this.room) * (to - from);
    return Math.min(to, Math.max(from + width, Math.ceil(at / width) * width));
  }

  listen() {
    let began = null;
    const where = (event) => this.instant(event.clientX - this.plot.getBoundingClientRect().left);
    this.plot.addEventListener("pointerdown", (event) => {
      if (!this.frame || event.button) return;
      began = { x: event.clientX, at: where(event) };
      view.point(began.at); // a finger moves no pointer before it touches
      this.plot.setPointerCapture(event.pointerId);
    });
    this.plot.addEventListener("pointermove", (event) => {
      if (!this.frame) return;
      view.point(where(event));
      if (began && Math.abs(event.clientX - began.x) > 4) this.select(began.at, where(event), false);
    });
    const end = (event) => {
      if (began && Math.abs(event.clientX - began.x) > 4) this.select(began.at, where(event), true);
      began = null;
    };
    this.plot.addEventListener("pointerup", end);
    this.plot.addEventListener("pointercancel", () => (began = null));
    this.plot.addEventListener("pointerleave", (event) => {
      if (!began && event.pointerType !== "touch" && document.activeElement !== this.plot) view.point(null);
    });
    this.plot.addEventListener("blur", () => view.point(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
  }

  select(one, other, finished) {
    const { from, width } = this.frame;
    const range = [Math.max(from, Math.min(one, other) - width), Math.max(one, other)];
    if (finished) this.ask(range);
    else this.root.dispatchEvent(new CustomEvent("selecting", { bubbles: true, detail: range }));
  }

  ask(range) {
    this.root.dispatchEvent(new CustomEvent("asked", { bubbles: true }));
    view.set({ range });
  }

  key(event) {
    if (!this.frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const { from, to, width } = this.frame;
    const far = 10 * width;
    const moves = { ArrowLeft: -width, ArrowRight: width, PageUp: -far, PageDown: far, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const last = Math.floor(to / width) * width;
    const before = view.cursor ?? last;
    const at = Math.min(last, Math.max(from + width, before + moves[event.key]));
    if (event.shiftKey) {
      const anchor = (this.anchor ??= before);
      this.ask([Math.min(anchor, at) - width, Math.max(anchor, at)]);
    } else {
      this.anchor = null;
    }
    view.point(at);
    this.root.dispatchEvent(new CustomEvent("spoken", { bubbles: true, detail: () => `${this.title}. ${this.read(at)}` }));
  }

  draw(frame) {
    this.frame = frame;
    if (!this.plot.clientWidth) return;
    this.prepare();
    if (this.seen) this.paintLate();
    else this.late = true;
    this.place(view.range);
    this.pointed();
    if (this.details.open && !this.details.contains(document.activeElement)) this.fill();
  }

  place(range) {
    const seen = range && range[1] > this.frame.from && range[0] < this.frame.to;
    this.range.hidden = !seen;
    if (!seen) return;
    const left = this.x(Math.max(range[0], this.frame.from));
    this.range.style.left = `${left}px`;
    this.range.style.width = `${Math.max(1, this.x(Math.min(range[1], this.frame.to)) - left)}px`;
  }

  pointed() {
    if (!this.frame) return;
    const at = view.cursor;
    const inside = at !== null && at > this.frame.from && at <= this.frame.to;
    this.line.hidden = !inside;
    if (inside) this.line.style.left = `${this.x(at - this.frame.width / 2)}px`;
    this.reading.textContent = inside ? this.read(at) : this.summary();
  }

  read(at) {
    const cell = this.frame.store.at(Math.round(at / this.frame.width));
    const time = clock(at);
    return cell ? `${time}: ${this.say(cell)}` : `${time}: not measured`;
  }

  summary() {
    return "";
  }

  prepare() {}

  // It is shown no more.
  end() {}

  paintAll() {
    const ratio = devicePixelRatio || 1;
    const width = this.plot.clientWidth;
    const { canvas, height } = this;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (instant) => this.x(instant);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = color("quiet");
    context.textAlign = "center";
    const { step, found } = instants(this.frame, this.room);
    for (const at of found) {
      const left = x(at);
      if (left > LEFT + 16 && left < width - 22) context.fillText(clock(at, step < 60), left, height - 5);
    }
    context.textAlign = "left";
    this.paint(context, x, height - BOTTOM);
    paintGaps(context, this.frame, x, 0, height - BOTTOM);
    paintMarks(context, this.frame, x, 0, height - BOTTOM);
  }

  fill() {
    const cells = [...this.frame.cells].reverse();
    const pages = Math.max(1, Math.ceil(cells.length / ROWS));
    this.page = Math.min(this.page, pages - 1);
    const head = ["time", ...this.columns()];
    const shown = cells.slice(this.page * ROWS, (this.page + 1) * ROWS);
    const rows = shown.map((cell) => [clock(cell.number * this.frame.width), ...this.row(cell)]);
    const turn = (by) => () => ((this.page += by), this.fill());
    const pager = element(
      "div", { className: "pager" },
      element("button", { type: "button", textContent: "Later", disabled: this.page === 0, onclick: turn(-1) }),
      element("span", { textContent: `page ${this.page + 1} of ${pages}` }),
      element("button", { type: "button", textContent: "Earlier", disabled: this.page >= pages - 1, onclick: turn(1) }),
    );
    this.table.replaceChildren(tableOf(head, rows, this.title), pager);
    this.table.tabIndex = 0;
    this.table.setAttribute("role", "region");
    this.table.setAttribute("aria-label", `${this.title}: data`);
  }
}

export function tableOf(head, rows, caption) {
  const table = element("table", {}, element("caption", { className: "unseen", textContent: caption }));
  const headings = head.map((text) => element("th", { scope: "col", textContent: text }));
  table.append(element("thead", {}, element("tr", {}, ...headings)));
  const body = rows.map(([first, ...rest]) =>
    element("tr", {}, first instanceof Node ? first : element("th", { scope: "row", textContent: first }),
      ...rest.map((cell) => (cell instanceof Node ? cell : element("td", { textContent: cell })))));
  table.append(element("tbody", {}, ...body));
  return table;
}

// A capital where the scheduler said it for most of the time, as in the terminal.
const lettered = (letter, reported) => (reported >= 0.5 ? letter.toUpperCase() : letter);

// What held the batch: shares of busy time a cell, as high as the engine was busy.
export class Band extends Figure {
  constructor(limiters) {
    super({
      id: "limiter", title: "What held the batch", height: 150, wide: true,
      note: "Height: busy time. Colours: share of each limiter; striped where inferred. Below: the letter of the largest, a capital where the scheduler itself said so.",
    });
    this.limiters = limiters;
    this.legend = element("div", { className: "scroll", aria: { label: "Of the time shown", role: "region" }, tabIndex: 0 });
    this.body.className = "beside";
    this.body.append(this.legend);
  }

  shares(cell) {
    const { place } = this.frame.store;
    return this.limiters.map(({ id }) => cell.counts[place[`busy.${id}`]]);
  }

  paint(context, x, height) {
    const { store, cells, width } = this.frame;
    const { place } = store;
    const band = height - 18;
    context.fillStyle = color("quiet");
    context.textAlign = "right";
    context.fillText("100 %", LEFT - 6, 10);
    context.fillText("0", LEFT - 6, band);
    context.textAlign = "left";
    context.fillStyle = color("grid");
    context.fillRect(LEFT, 0, this.room, band);
    for (const cell of cells) {
      const busy = cell.counts[place.busy_seconds], ranks = cell.counts[place.rank_seconds];
      const shares = this.shares(cell);
      const whole = sumOf(shares);
      if (!whole) continue;
      const full = Math.min(1, ranks > 0 ? busy / ranks : 1) * band;
      const left = x(Math.max(this.frame.from, (cell.number - cell.span) * width)), right = x(cell.number * width);
      let top = band;
      shares.forEach((share, index) => {
        if (!share) return;
        const part = (share / whole) * full;
        context.fillStyle = color(`limiter-${this.limiters[index].id}`);
        context.fillRect(left, top - part, right - left + 0.4, part);
        top -= part;
      });
      const inferred = 1 - cell.counts[place.busy_seconds_reported] / busy;
      if (inferred > 0.5) {
        context.fillStyle = hatch(context, color("panel"));
        context.fillRect(left, band - full, right - left + 0.4, full);
      }
    }
    this.letters(context, x, band + 13);
  }

  letters(context, x, base) {
    const { from, to, cells, width, store } = this.frame;
    const told = new Map();
    const step = Math.max(width, Math.ceil(((to - from) * 9) / this.room));
    const sums = new Map();
    for (const cell of cells) {
      const slot = Math.ceil((cell.number * width) / step);
      const sum = sums.get(slot) ?? sums.set(slot, this.limiters.map(() => 0)).get(slot);
      this.shares(cell).forEach((share, index) => (sum[index] += share));
      told.set(slot, (told.get(slot) ?? 0) + cell.counts[store.place.busy_seconds_reported]);
    }
    context.font = "10px ui-monospace, Menlo, Consolas, monospace";
    context.fillStyle = color("text");
    context.textAlign = "center";
    for (const [slot, sum] of sums) {
      const most = sum.indexOf(Math.max(...sum));
      const at = x((slot - 0.5) * step);
      const letter = lettered(this.limiters[most].letter, told.get(slot) / sumOf(sum));
      if (sum[most] > 0 && at > LEFT + 3 && at < LEFT + this.room) context.fillText(letter, at, base);
    }
    context.textAlign = "left";
  }

  prepare() {
    const { store, cells } = this.frame;
    const total = store.sum(cells);
    const value = (column) => store.value(total, column);
    const busy = sumOf(this.limiters.map(({ id }) => value(`busy.${id}`)));
    const slots = value("slot_seconds") > 0;
    const reported = store.ratio(total, "busy_seconds_reported", "busy_seconds");
    const rows = this.limiters
      .map((one) => ({ ...one, busy: value(`busy.${one.id}`), lost: value(`lost.${one.id}`) }))
      .filter((one) => one.busy > 0)
      .sort((one, other) => other.busy - one.busy)
      .map((one) => [
        element("th", { scope: "row", title: one.what },
          element("span", { className: "swatch", style: { "--c": `var(--limiter-${one.id})` } }),
          element("span", { className: "letter", textContent: lettered(one.letter, reported) }), one.name),
        element("td", { className: "figure", textContent: percent(one.busy / busy), data: { window: `limited_by/${one.id}` } }),
        element("td", { textContent: slots ? amount(one.lost) : "-", data: { window: `lost_slot_seconds/${one.id}` } }),
      ]);
    const measured = duration(Math.round(value("wall_seconds")));
    const origin = Number.isNaN(reported) ? "Nothing ran in the time shown." : `${measured} were measured; of its busy time the scheduler itself told ${percent(reported)}.`;
    this.legend.replaceChildren(
      tableOf(["time shown", "share", "slot-s lost"], rows, "What held the batch in the time shown"),
      element("p", { className: "note", textContent: origin }),
    );
  }

  say(cell) {
    const shares = this.shares(cell);
    const whole = sumOf(shares);
    if (!whole) return "idle";
    const parts = shares.map((share, index) => [share / whole, this.limiters[index].name]).filter(([share]) => share >= 0.005);
    return parts.sort((one, other) => other[0] - one[0]).map(([share, name]) => `${name} ${percent(share)}`).join(", ");
  }

  columns() {
    return ["busy", ...this.limiters.map(({ name }) => name)];
  }

  row(cell) {
    const { place } = this.frame.store;
    const shares = this.shares(cell);
    const whole = sumOf(shares);
    const ranks = cell.counts[place.rank_seconds];
    return [percent(Math.min(1, cell.counts[place.busy_seconds] / ranks)), ...shares.map((share) => percent(share / whole))];
  }
}

export const HEATS = 6;
// A latency over time: a column a cell, exact counts; few to many in one hue.
export class Heat extends Figure {
  constructor(quantity, name, targets) {
    super({
      id: `heat-${quantity}`, title: `${name}, every ${quantity.startsWith("inter") ? "token" : "request"}`,
      note: "A column is a cell of time, a row a range of latency; deeper: more of them. Dashed: SLO.",
    });
    this.quantity = quantity;
    this.targets = targets;
  }

  span() {
    const { store, cells } = this.frame;
    const which = store.latency(this.quantity);
    let low = Infinity, high = -Infinity, most = 1;
    for (const { latencies } of cells) {
      const row = latencies[which];
      if (!row) continue;
      low = Math.min(low, row.first);
      high = Math.max(high, row.first + row.counts.length);
      for (const number of row.counts) most = Math.max(most, number);
    }
    if (low > high) return null;
    return { which, low: Math.floor(low / 2) * 2, high: Math.ceil(high / 2) * 2, most };
  }

  paint(context, x, height) {
    const span = this.span();
    context.fillStyle = color("grid");
    context.fillRect(LEFT, 0, this.room, height);
    if (!span) return;
    const { store, cells, width, from } = this.frame;
    const y = (bucket) => height - ((bucket - span.low) / (span.high - span.low)) * height;
    const tall = height / (span.high - span.low);
    for (const cell of cells) {
      const row = cell.latencies[span.which];
      if (!row) continue;
      const left = x(Math.max(from, (cell.number - cell.span) * width));
      const wide = x(cell.number * width) - left + 0.4;
      row.counts.forEach((number, index) => {
        if (!number) return;
        const shade = Math.min(HEATS - 1, 1 + Math.floor((Math.log1p(number - 1) / Math.log1p(span.most)) * (HEATS - 1)));
        context.fillStyle = color(`heat-${shade}`);
        context.fillRect(left, y(row.first + index + 1), wide, tall + 0.4);
      });
    }
    this.scale(context, store, span, y);
  }

  scale(context, store, span, y) {
    const { scale, first_octave: first } = store.names.histograms;
    const bucket = (seconds) => (Math.log2(seconds) - first[this.quantity]) * 2 ** scale;
    context.textAlign = "right";
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = color("quiet");
    let last = Infinity;
    for (let power = -4; power <= 3; power += 1) {
      for (const digit of [1, 2, 5]) {
        const seconds = digit * 10 ** power;
        const at = y(bucket(seconds));
        if (at < 8 || at > y(span.low) - 2 || last - at < 22) continue;
        last = at;
        context.fillText(duration(seconds), LEFT - 6, at + 4);
      }
    }
    context.textAlign = "left";
    context.strokeStyle = color("text");
    context.setLineDash([5, 4]);
    for (const seconds of new Set(this.targets().map(([, value]) => value))) {
      const at = y(bucket(seconds));
      if (at < 0 || at > y(span.low)) continue;
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(LEFT + this.room, at);
      context.stroke();
    }
    context.setLineDash([]);
  }

  told(cell) {
    const { store } = this.frame;
    const row = cell.latencies[store.latency(this.quantity)];
    if (!row) return { n: 0 };
    const buckets = new Float64Array(store.names.histograms.buckets);
    row.counts.forEach((number, index) => (buckets[row.first + index] += number));
    const n = sumOf(row.counts);
    return { n, middle: store.quantile(this.quantity, buckets, n, 0.5), top: store.edge(this.quantity, row.first + row.counts.length) };
  }

  say(cell) {
    const { n, middle, top } = this.told(cell);
    return n ? `${count(n)}, p50 ${about(middle)}, none above ${duration(top)}` : "none";
  }

  columns() {
    return ["n", "p50", "none above"];
  }

  row(cell) {
    const { n, middle, top } = this.told(cell);
    return [count(n), n ? about(middle) : "-", n ? duration(top) : "-"];
  }
}

// Lines over time. `lines` are [name, cell => value]; `form` writes a value.
export class Lines extends Figure {
  constructor({ lines, form, axisForm = form, targets = () => [], logarithmic = false, top = null, before = null, ...rest }) {
    super(rest);
    Object.assign(this, { lines, form, axisForm, targets, logarithmic, top, before });
    this.legend = element("ul", { className: "legend" });
    this.body.append(this.legend);
    this.legends();
  }

  legends() {
    this.legend.replaceChildren(
      ...this.lines.map(([name], place) =>
        element("li", {}, element("span", { className: `key d${place}`, style: { "--c": `var(--series-${place})` } }), name)),
    );
  }

  makePlot() {
    this.mount = element("div", { aria: { hidden: "true" } });
    this.plot.append(this.mount);
  }

  options() {
    const scale = { range: (_, low, high) => this.scale(low, high), ...(this.logarithmic ? { distr: 3 } : {}) };
    const x = (plot) => (instant) => plot.bbox.left / devicePixelRatio + ((instant - this.frame.from) / (this.frame.to - this.frame.from)) * this.room;
    const inside = (paint) => (plot) => {
      const { ctx } = plot;
      ctx.save();
      ctx.scale(devicePixelRatio, devicePixelRatio);
      paint(ctx, x(plot), plot.bbox.top / devicePixelRatio, plot.bbox.height / devicePixelRatio, plot);
      ctx.restore();
    };
    return {
      width: this.plot.clientWidth, height: this.height, padding: [8, RIGHT, 0, 0],
      cursor: { show: false }, legend: { show: false },
      scales: { x: { time: false, range: () => [this.frame.from, this.frame.to] }, y: scale },
      axes: [
        {
          size: BOTTOM, gap: 6, stroke: () => color("quiet"), font: "11px system-ui, sans-serif", ticks: { show: false },
          grid: { stroke: () => color("grid"), width: 1 },
          splits: () => instants(this.frame, this.room).found,
          values: (_, found) => found.map((at) => (this.x(at) < LEFT + 16 || this.x(at) > LEFT + this.room - 10 ? "" : clock(at, view.window < 600 && at % 60 !== 0))),
        },
        {
          size: LEFT, gap: 6, stroke: () => color("quiet"), font: "11px system-ui, sans-serif", ticks: { show: false },
          grid: { stroke: () => color("grid"), width: 1 }, space: 28,
          values: (_, found) => found.map((value) => (value === null ? "" : this.axis(value))),
        },
      ],
      series: [{}, ...this.lines.map((_, place) => ({
        stroke: () => color(`series-${place}`), width: 1.75, points: { show: false }, spanGaps: false,
        dash: [[], [7, 4], [2, 3], [9, 3, 2, 3]][place],
      }))],
      hooks: {
        drawClear: [inside((context, at, top, height) => paintGaps(context, this.frame, at, top, height))],
        draw: [inside((context, at, top, height, plot) => {
          paintMarks(context, this.frame, at, top, height);
          this.lineTargets(context, at, plot);
        })],
      },
    };
  }

  axis(value) {
    const digit = value / 10 ** Math.floor(Math.log10(value) + 1e-9);
    if (this.logarithmic && ![1, 2, 5].some((one) => Math.abs(digit - one) < 1e-6)) return "";
    return this.axisForm(value).replace(/\.0+(?= |$)/, "").replace(/(\.\d*?)0+(?= |$)/, "$1");
  }

  scale(low, high) {
    const targets = this.targets().map(([, value]) => value);
    if (this.logarithmic) {
      const least = low > 0 ? low : 0.01, most = high > 0 ? high : 1;
      return [least / 1.5, Math.max(most, ...targets.filter((value) => value < 20 * most)) * 1.5];
    }
    const limit = this.top?.();
    const most = Math.max(high || 0, limit ?? 0) || 1;
    return [0, limit && !(high > limit) ? most : 1.1 * most];
  }

  lineTargets(context, x, plot) {
    context.strokeStyle = context.fillStyle = color("text");
    context.setLineDash([5, 4]);
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    const ratio = devicePixelRatio;
    for (const [name, value] of this.targets()) {
      const at = plot.valToPos(value, "y", true) / ratio;
      if (!(at >= plot.bbox.top / ratio && at <= (plot.bbox.top + plot.bbox.height) / ratio)) continue;
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(LEFT + this.room, at);
      context.stroke();
      context.save();
      context.setLineDash([]);
      context.strokeStyle = color("panel");
      context.lineWidth = 4;
      const base = at < 24 ? at + 13 : at - 4;
      context.strokeText(name, LEFT + 5, base);
      context.fillText(name, LEFT + 5, base);
      context.restore();
    }
    context.setLineDash([]);
  }

  prepare() {
    this.before?.(this.frame);
  }

  paintAll() {
    const { from, to, width, store } = this.frame;
    const x = [];
    const columns = this.lines.map(() => []);
    for (let number = Math.floor(from / width) + 1; number * width <= to; number += 1) {
      const cell = store.at(number);
      x.push(number * width);
      this.lines.forEach(([, value], place) => {
        const found = cell ? value(cell) : null;
        columns[place].push(Number.isFinite(found) && (!this.logarithmic || found > 0) ? found : null);
      });
    }
    if (!globalThis.uPlot) return this.missing();
    const wide = this.plot.clientWidth;
    if (!this.chart) this.chart = new uPlot(this.options(), [x, ...columns], this.mount);
    else {
      if (this.chart.width !== wide) this.chart.setSize({ width: wide, height: this.height });
      this.chart.setData([x, ...columns]);
    }
  }

  end() {
    this.chart?.destroy();
  }

  missing() {
    this.mount.replaceChildren(
      element("p", { className: "note", textContent: "Line charts are missing: this installation was built without npm. The data are below." }),
    );
  }

  say(cell) {
    return this.lines.map(([name, value]) => `${name} ${this.form(value(cell))}`).join(", ");
  }

  summary() {
    const last = this.frame.cells.at(-1);
    if (!last) return "";
    const known = (cell) => this.lines.some(([, value]) => Number.isFinite(value(cell)));
    return known(last) || this.frame.cells.some(known) ? this.say(last) : "not measured";
  }

  columns() {
    return this.lines.map(([name]) => name);
  }

  row(cell) {
    return this.lines.map(([, value]) => this.form(value(cell)));
  }
}

const OVER = 60; // seconds whose observations a percentile is of
// Percentiles of the last minute, at each instant; none of too few.
export class Percentiles extends Lines {
  constructor({ latencies: names, fewest, histograms, table_error: tables }, targets) {
    const at = (field) => (cell) => this.found.get(cell.number)?.[field] ?? NaN;
    super({
      id: "percentiles", title: "Latency of the last minute", height: 190, wide: true, logarithmic: true, form: about, axisForm: duration,
      lines: [["p50", at("p50")], ["p95", at("p95")], ["p99", at("p99")]],
      targets: () => targets(this.quantity),
      note: `Each point: all observations of the ${OVER} s before it, from buckets, so within ${percent(histograms.relative_error)}${tables ? `; the table is within ${percent(tables)}` : ""}. p95 from ${fewest.p95} observations on, p99 from ${fewest.p99}. TTFT and queue are of every request, e2e and TPOT of those that completed.`,
    });
    this.fewest = fewest;
    this.quantity = "time_to_first_token";
    this.found = new Map();
    const tabs = Object.entries(names).map(([id, name]) =>
      element("button", { type: "button", textContent: name, aria: { pressed: String(id === this.quantity) }, onclick: (event) => this.choose(id, event.currentTarget) }));
    this.root.querySelector("figcaption h2").after(element("span", { className: "tabs", aria: { role: "group", label: "Latency shown" } }, ...tabs));
  }

  choose(quantity, button) {
    this.quantity = quantity;
    for (const one of button.parentElement.children) one.setAttribute("aria-pressed", String(one === button));
    if (this.frame) this.draw(this.frame);
  }

  prepare() {
    const { store, from, to, width } = this.frame;
    const which = store.latency(this.quantity);
    const cells = store.between(from - OVER, to);
    const buckets = new Float64Array(store.names.histograms.buckets);
    let n = 0, oldest = 0;
    const change = (cell, sign) => {
      const row = cell.latencies[which];
      row?.counts.forEach((number, index) => ((buckets[row.first + index] += sign * number), (n += sign * number)));
    };
    this.found = new Map();
    for (const cell of cells) {
      change(cell, 1);
      while (cells[oldest].number * width <= cell.number * width - OVER) change(cells[oldest++], -1);
      const one = { n };
      for (const [field, q] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]])
        one[field] = n >= this.fewest[field] ? store.quantile(this.quantity, buckets, n, q) : NaN;
      this.found.set(cell.number, one);
    }
  }

  say(cell) {
    return `${super.say(cell)}, n=${count(this.found.get(cell.number)?.n)}`;
  }

  // The table beside it says how the last minute is, and finer.
  summary() {
    return "";
  }

  columns() {
    return [...super.columns(), "n"];
  }

  row(cell) {
    return [...super.row(cell), count(this.found.get(cell.number)?.n)];
  }
}
