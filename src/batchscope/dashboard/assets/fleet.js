// Several engines as a table, worst first; a strip of ten minutes a row, and all of them as one heat map. Asked for
// apart, every three seconds. Who is chosen has the rest of the page; the table then shows it beside all together.

import { color, element, HEATS, tableOf } from "./charts.js";
import { view } from "./view.js";

const EVERY = 3000;
const FIRST = 40;
const LOOKS = 60;
const TENTHS = 10;
const FEWEST = 8; // engines from which on a heat map says more than their strips
const TEXTS = new Set(["name", "state", "held"]);
const COLUMNS = [
  ["engine", "name"], ["state", "state"], ["batch full", "batch"], ["held by", "held"], ["slot-s lost", "lost"],
  ["waiting", "waiting"], ["TTFT p95", "ttft"], ["SLO met", "slo"],
];

const UNITS = { us: 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600 };

// What a text says first: of "max 1.2 s, n=3" the seconds, of "<0.1 %" the 0.1; -1 of none.
function amountIn(text) {
  const [, number, unit] = text.match(/([\d.,]*\d)(?: (us|ms|s|min|h)\b)?/) ?? [];
  return number ? Number(number.replaceAll(",", "")) * (UNITS[unit] ?? 1) : -1;
}

export class Fleet {
  constructor(panel, link, names) {
    this.panel = panel;
    this.link = link;
    this.names = names;
    this.filter = "";
    this.sort = "";
    this.everybody = false;
    this.cursor = "";
    this.ids = [];
    this.fields = [];
    this.rows = null;
    this.strips = new Map();
    this.frame();
    this.ask();
  }

  frame() {
    const input = element("input", { type: "search", id: "fleet-filter", placeholder: "part of a name or state" });
    input.addEventListener("input", () => ((this.filter = input.value.trim().toLowerCase()), this.draw()));
    const sort = element("select", { id: "fleet-sort" }, element("option", { value: "", textContent: "worst first" }),
      ...COLUMNS.map(([name, field]) => element("option", { value: field, textContent: name })));
    sort.addEventListener("change", () => ((this.sort = sort.value), this.draw()));
    this.note = element("p", { className: "note" });
    this.shown = element("strong", {});
    this.table = element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: "Engines" } });
    this.more = element("button", { type: "button", onclick: () => ((this.everybody = !this.everybody), this.draw()) });
    this.canvas = element("canvas", { className: "spread", width: 20 * LOOKS, height: 10 * TENTHS, aria: { role: "img" } });
    this.words = element("p", { className: "note" });
    this.spread = element("div", { hidden: true }, element("h3", { textContent: "How full they were" }), this.canvas, this.words);
    this.tools = element("div", { className: "tools" }, element("label", { htmlFor: "fleet-filter", textContent: "Filter" }), input,
      element("label", { htmlFor: "fleet-sort", textContent: "Order" }), sort);
    this.panel.replaceChildren(
      element("header", {}, element("h2", { id: "fleet-title" }, "Engines ", this.shown), this.tools),
      this.spread, this.table, this.note, this.more,
    );
    this.panel.hidden = false;
    view.addEventListener("change", () => this.draw());
  }

  async ask() {
    clearTimeout(this.timer);
    if (!document.hidden && view.pausedAt === null) {
      try {
        const { status, text } = await this.link.get(this.cursor ? `fleet?since=${this.cursor}` : "fleet");
        if (status === 404) return void (this.panel.hidden = true); // a merge whose source tells of no engine
        if (status === 200) this.take(JSON.parse(text));
      } catch {
        // The page says already that nobody answers.
      }
    }
    this.timer = setTimeout(() => this.ask(), EVERY);
  }

  // Names come where they are new, with whole strips; else of the strips what is new.
  take(said) {
    if (said.names) [this.ids, this.fields, this.strips] = [said.names, said.fields, new Map()];
    this.said = said;
    this.cursor = said.cursor;
    const ids = ["", ...this.ids.map(([id]) => id)];
    said.strips.forEach(([letters, levels], place) => {
      const known = this.strips.get(ids[place]) ?? ["", ""];
      this.strips.set(ids[place], [(known[0] + letters).slice(-LOOKS), (known[1] + levels).slice(-LOOKS)]);
    });
    const row = (place) => Object.fromEntries(this.fields.map((field, index) => [field, said.texts[index][place]]));
    this.rows = said.order.map((place) => ({ id: this.ids[place][0], name: this.ids[place][1], ...row(place) }));
    this.draw();
  }

  // Who is shown: the one that was chosen, or those that the filter leaves, in order.
  wanted() {
    if (view.engine) return this.rows.filter(({ id }) => id === view.engine);
    const rows = this.rows.filter((row) => `${row.name} ${row.state} ${row.held}`.toLowerCase().includes(this.filter));
    if (!this.sort) return rows;
    if (TEXTS.has(this.sort)) return rows.toSorted((one, other) => one[this.sort].localeCompare(other[this.sort], "en", { numeric: true }));
    const size = (row) => (this.sort === "slo" && amountIn(row.slo) >= 0 ? 1 / (1 + amountIn(row.slo)) : amountIn(row[this.sort]));
    return rows.toSorted((one, other) => size(other) - size(one));
  }

  // By what they are in order, in words.
  order() {
    if (!this.sort) return this.said.rule;
    const [name] = COLUMNS.find(([, field]) => field === this.sort);
    return `by ${name}${TEXTS.has(this.sort) ? "" : this.sort === "slo" ? ", the least first" : ", the largest first"}`;
  }

  draw() {
    if (!this.rows) return;
    const { living, gone } = this.said;
    const rows = this.wanted();
    const few = this.everybody ? rows : rows.slice(0, FIRST);
    const archived = living + gone - this.rows.length;
    this.shown.textContent = `${few.length} of ${living + gone} shown${gone ? `, ${gone} gone` : ""}${archived > 0 ? ` (${archived} of them more than ten minutes ago, in the sum only)` : ""}`;
    this.note.textContent = view.engine ? "" : `Order: ${this.order()}. The figures and charts of this page are those of all engines together: counts added, histograms merged. Choose one to see its own.`;
    this.tools.hidden = Boolean(view.engine);
    this.more.hidden = rows.length <= FIRST;
    this.more.textContent = this.everybody ? `Show the first ${FIRST}` : `Show all ${rows.length}`;
    const focused = document.activeElement?.dataset?.engine;
    const body = [{ ...this.said.all, id: "", name: "all together" }, ...few];
    this.table.replaceChildren(tableOf([...COLUMNS.map(([name]) => name), "last 10 min"], body.map((row) => this.row(row)), `Engines, ${this.order()}`));
    if (focused !== undefined) this.table.querySelector(`[data-engine="${CSS.escape(focused)}"]`)?.focus();
    this.table.querySelectorAll("canvas.strip").forEach((canvas, index) => this.paintStrip(canvas, body[index].id));
    this.paintSpread();
  }

  row(row) {
    const { states } = this.names();
    const mark = states[row.state];
    const choose = element("button", { type: "button", className: "link", textContent: row.name, dir: "auto", data: { engine: row.id },
      aria: { pressed: String(view.engine === row.id) }, onclick: () => view.set({ engine: row.id, range: null }) });
    const cells = COLUMNS.slice(1).map(([, field]) =>
      field === "state"
        ? element("td", { data: { tone: mark?.tone ?? "calm" } }, element("span", { className: "toned", textContent: `${mark?.sign ?? ""} ${row.state}` }))
        : element("td", { textContent: row[field] }));
    const [letters] = this.strips.get(row.id) ?? [""];
    const canvas = element("canvas", { className: "strip", width: 300, height: 40, aria: { role: "img", label: `What held it, letters by ten seconds: ${letters.trim() || "nothing yet"}` } });
    return [element("th", { scope: "row" }, choose), ...cells, element("td", {}, canvas)];
  }

  // Colour: what held it longest in those ten seconds. Height: how many of its places were in use.
  paintStrip(canvas, id) {
    const byLetter = Object.fromEntries(this.names().limiters.map(({ id: limiter, letter }) => [letter, limiter]));
    const [letters, levels] = (this.strips.get(id) ?? ["", ""]).map((text) => text.padStart(LOOKS));
    const context = canvas.getContext("2d");
    const wide = canvas.width / LOOKS;
    context.fillStyle = color("grid");
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (let place = 0; place < LOOKS; place += 1) {
      if (!(letters[place] in byLetter)) continue;
      const tall = levels[place] === " " ? canvas.height : ((Number(levels[place]) + 1) / TENTHS) * canvas.height;
      context.fillStyle = color(`limiter-${byLetter[letters[place]]}`);
      context.fillRect(place * wide, canvas.height - tall, wide + 0.4, tall);
    }
  }

  // All engines over time: a column ten seconds, a row a tenth of their places; deeper: more engines.
  paintSpread() {
    this.spread.hidden = Boolean(view.engine) || this.rows.length < FEWEST;
    if (this.spread.hidden) return;
    const levels = this.rows.map(({ id }) => (this.strips.get(id)?.[1] ?? "").padStart(LOOKS));
    const counts = Array.from({ length: LOOKS }, () => new Array(TENTHS).fill(0));
    for (const text of levels) for (let at = 0; at < LOOKS; at += 1) if (text[at] !== " ") counts[at][Number(text[at])] += 1;
    const context = this.canvas.getContext("2d");
    const wide = this.canvas.width / LOOKS, tall = this.canvas.height / TENTHS;
    context.fillStyle = color("grid");
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    counts.forEach((column, at) =>
      column.forEach((number, tenth) => {
        if (!number) return;
        const shade = Math.min(HEATS - 1, 1 + Math.floor((number / levels.length) ** 0.5 * (HEATS - 1)));
        context.fillStyle = color(`heat-${shade}`);
        context.fillRect(at * wide, this.canvas.height - (tenth + 1) * tall, wide + 0.4, tall + 0.4);
      }));
    const last = counts.at(-1);
    const known = last.reduce((sum, number) => sum + number, 0);
    this.words.textContent = `Ten minutes, a column ten seconds; from bottom to top tenths of the places in use; deeper: more engines. Last: ${last.at(-1)} of ${known} at 90 % or more, ${last[0]} below 10 %.`;
    this.canvas.setAttribute("aria-label", `How full the engines were. ${this.words.textContent}`);
  }
}
