// Several engines as a table, worst first; a strip of ten minutes a row. Asked for apart, every three seconds.

import { color, element, tableOf } from "./charts.js";
import { view } from "./view.js";

const EVERY = 3000;
const FIRST = 40;
const COLUMNS = [
  ["engine", "name"], ["state", "state"], ["batch full", "batch"], ["held by", "held"], ["slot-s lost", "lost"],
  ["waiting", "waiting"], ["TTFT p95", "ttft"], ["SLO met", "slo"],
];

const amountIn = (text) => parseFloat(text.replaceAll(",", "").replace(/^max /, "")) || -1;

export class Fleet {
  constructor(panel, link, names) {
    this.panel = panel;
    this.link = link;
    this.names = names;
    this.filter = "";
    this.sort = "";
    this.all = false;
    this.found = null;
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
    this.more = element("button", { type: "button", onclick: () => ((this.all = !this.all), this.draw()) });
    this.one = element("div", { className: "one", hidden: true });
    this.panel.replaceChildren(
      element("header", {}, element("h2", { id: "fleet-title" }, "Engines ", this.shown),
        element("div", { className: "tools" }, element("label", { htmlFor: "fleet-filter", textContent: "Filter" }), input,
          element("label", { htmlFor: "fleet-sort", textContent: "Order" }), sort)),
      this.one, this.table, this.note, this.more,
    );
    this.panel.hidden = false;
    view.addEventListener("change", () => this.chosen());
  }

  async ask() {
    clearTimeout(this.timer);
    if (!document.hidden && view.pausedAt === null) {
      try {
        const { status, text } = await this.link.get("fleet");
        if (status === 200) (this.found = JSON.parse(text)), this.draw();
        if (view.engine) await this.details();
      } catch {
        // The page says already that nobody answers.
      }
    }
    this.timer = setTimeout(() => this.ask(), EVERY);
  }

  rows() {
    const rows = this.found.engines.filter((row) => `${row.name} ${row.state} ${row.held}`.toLowerCase().includes(this.filter));
    if (!this.sort) return rows;
    const texts = ["name", "state", "held"].includes(this.sort);
    return rows.toSorted((one, other) => (texts ? one[this.sort].localeCompare(other[this.sort]) : amountIn(other[this.sort]) - amountIn(one[this.sort])));
  }

  draw() {
    if (!this.found) return;
    const { engines, total, gone } = this.found;
    const rows = this.rows();
    const few = this.all ? rows : rows.slice(0, FIRST);
    this.shown.textContent = `${few.length} of ${total} shown${gone ? `, ${gone} gone` : ""}`;
    this.note.textContent = this.sort ? "" : `Order: ${this.found.rule}. The figures and charts of this page are those of all engines together: counts added, histograms merged.`;
    this.more.hidden = rows.length <= FIRST;
    this.more.textContent = this.all ? `Show the first ${FIRST}` : `Show all ${rows.length}`;
    const focused = document.activeElement?.dataset?.engine;
    const all = { ...this.found.all, id: "" };
    const body = [all, ...few].map((row) => this.row(row));
    this.table.replaceChildren(tableOf([...COLUMNS.map(([name]) => name), "last 10 min"], body, "Engines, worst first"));
    if (focused) this.table.querySelector(`[data-engine="${CSS.escape(focused)}"]`)?.focus();
    this.strips([all, ...few]);
    if (engines.length && view.engine) this.mark();
  }

  row(row) {
    const { states } = this.names();
    const mark = states[row.state];
    const choose = element("button", { type: "button", className: "link", textContent: row.name, dir: "auto", data: { engine: row.id },
      onclick: () => view.set({ engine: view.engine === row.id ? "" : row.id }) });
    const cells = COLUMNS.slice(1).map(([, field]) =>
      field === "state"
        ? element("td", { data: { tone: mark?.tone ?? "calm" } }, element("span", { className: "toned", textContent: `${mark?.sign ?? ""} ${row.state}` }))
        : element("td", { textContent: row[field] }));
    const canvas = element("canvas", { className: "strip", width: 300, height: 28, aria: { role: "img", label: `What held it, letters by ten seconds: ${row.strip.trim() || "nothing yet"}` } });
    return [element("th", { scope: "row" }, row.id ? choose : element("strong", { textContent: row.name })), ...cells, element("td", {}, canvas)];
  }

  strips(rows) {
    const byLetter = Object.fromEntries(this.names().limiters.map(({ id, letter }) => [letter, id]));
    this.table.querySelectorAll("canvas.strip").forEach((canvas, index) => {
      const context = canvas.getContext("2d");
      const { strip } = rows[index];
      const wide = canvas.width / 60;
      context.fillStyle = color("grid");
      context.fillRect(0, 0, canvas.width, canvas.height);
      [...strip.padStart(60)].forEach((letter, place) => {
        if (!(letter in byLetter)) return;
        context.fillStyle = color(`limiter-${byLetter[letter]}`);
        context.fillRect(place * wide, 0, wide + 0.4, canvas.height);
      });
    });
  }

  mark() {
    for (const one of this.table.querySelectorAll("[data-engine]")) one.setAttribute("aria-pressed", String(one.dataset.engine === view.engine));
  }

  chosen() {
    this.mark();
    if (!view.engine) this.one.hidden = true;
    else if (this.one.dataset.of !== view.engine) this.details();
  }

  async details() {
    const { status, text } = await this.link.get(`fleet?engine=${encodeURIComponent(view.engine)}`);
    this.one.hidden = status !== 200;
    if (status !== 200) return;
    const found = JSON.parse(text);
    this.one.dataset.of = found.id;
    const { latencies, window } = this.names();
    const rows = Object.entries(latencies).map(([id, name]) => [name, ...["count", "p50", "p95", "p99", "max"].map((field) => found.texts[`/windowed/${window}/summaries/${id}/${field}`] || "-")]);
    this.one.replaceChildren(
      element("h3", { textContent: found.name, dir: "auto" }),
      element("p", {}, `${found.verdict.state}: ${found.verdict.sentence}`),
      element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label: "Its latencies" } }, tableOf(["last minute", "n", "p50", "p95", "p99", "max"], rows, `Latencies of ${found.name}`)),
      element("button", { type: "button", textContent: "Close", onclick: () => view.set({ engine: "" }) }),
    );
  }
}
