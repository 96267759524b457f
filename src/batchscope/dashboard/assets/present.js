// The figures of now. Each has the place of its number in /snapshot beside it (a JSON pointer), and the server's own text.

import { element, tableOf } from "./charts.js";
import { shown } from "./format.js";

const escape = (part) => part.replaceAll("~", "~0").replaceAll("/", "~1");
const pointer = (...path) => path.map((part) => `/${escape(part)}`).join("");
const unescape = (part) => part.replaceAll("~1", "/").replaceAll("~0", "~");

export class Present {
  constructor(root) {
    this.root = root;
    this.texts = {};
  }

  field(place, tag = "span") {
    return element(tag, { data: { field: place }, textContent: this.texts[place] ?? "-" });
  }

  tile(name, place, ...more) {
    return element("div", { className: "tile" },
      element("h2", { textContent: name }),
      element("p", { className: "value" }, this.field(place)),
      element("p", { className: "more" }, ...more),
      element("p", { className: "age" }));
  }

  // Builds what is shown, anew where the names have changed.
  build(names) {
    this.names = names;
    const f = (...path) => this.field(pointer(...path));
    const tiles = [
      this.tile("Batch full while busy", pointer("iteration_stats", "time_weighted_utilization"), "busy ", f("iteration_stats", "busy_ratio"), ", since start"),
      this.tile("Running", pointer("gauges", "requests_running"), "of ", f("limits", "max_running_requests"), " places"),
      this.tile("Waiting", pointer("gauges", "requests_waiting"), "oldest ", f("gauges", "oldest_waiting_seconds"), ", deferred ", f("gauges", "requests_deferred")),
      this.tile("KV cache in use", pointer("gauges", "kv_cache_usage"), "preemptions ", f("totals", "preemptions"), ", tokens computed again ", f("totals", "recomputed_tokens")),
      this.tile("Output tokens/s", pointer("request_stats", "tokens_per_second"), f("totals", "generation_tokens"), " since start"),
      this.tile("Requests/s", pointer("request_stats", "requests_per_second"),
        f("totals", "requests_received"), " came, ", f("request_stats", "completed_requests"), " completed, ", f("request_stats", "failed_requests"), " failed"),
    ];
    this.root.replaceChildren(...tiles);
  }

  // Which latencies have which percentiles: where that changes, their table is built anew.
  shape() {
    return Object.entries(this.texts).filter(([place, text]) => place.startsWith("/windowed/") && text && text !== "-").map(([place]) => place).join();
  }

  latencies() {
    const window = this.names.window;
    const rows = Object.entries(this.names.latencies).map(([id, name]) => {
      const place = (field) => pointer("windowed", window, "summaries", id, field);
      // Of too few observations there is no percentile: the largest is shown, and called so.
      const told = ["p50", "p95", "p99"].map((field) => {
        if (this.texts[place(field)]) return this.field(place(field), "td");
        if (this.texts[place("max")] && this.texts[place("max")] !== "-") return element("td", {}, "max ", this.field(place("max")));
        return element("td", { textContent: "-" });
      });
      const firstMax = told.findIndex((cell) => cell.textContent.startsWith("max"));
      const cells = told.map((cell, index) => (firstMax >= 0 && index > firstMax ? element("td", { textContent: "" }) : cell));
      return [name, this.field(place("count"), "td"), ...cells];
    });
    return tableOf(["last minute", "n", "p50", "p95", "p99"], rows, "Latencies of the last minute");
  }

  slo() {
    const rows = Object.keys(this.names.targets).map((name) => {
      const place = (field) => pointer("slo_stats", name, field);
      const range = element("span", { data: { with: place("attainment_low") } }, " [", this.field(place("attainment_low")), " to ", this.field(place("attainment_high")), "]");
      const attained = element("td", {}, this.field(place("attainment")), range);
      return [name, attained, this.field(place("evaluated"), "td"), this.field(place("goodput_per_second"), "td")];
    });
    return rows.length ? tableOf(["since start", "SLO met", "n", "goodput/s"], rows, "SLO attainment by class") : element("p", { className: "note", textContent: "No SLO is set: give MetricsConfiguration(slo=...)." });
  }

  errors() {
    const prefix = "/error_stats/errors_by_type/";
    const found = Object.keys(this.texts).filter((place) => place.startsWith(prefix));
    const number = (place) => Number(this.texts[place].replaceAll(",", ""));
    found.sort((one, other) => number(other) - number(one));
    const rows = found.slice(0, 25).map((place) => {
      const name = shown(unescape(place.slice(prefix.length)));
      return [element("th", { scope: "row", textContent: name, title: name, dir: "auto" }), this.field(place, "td")];
    });
    if (!rows.length) return element("p", { className: "note", textContent: "No error was recorded." });
    const more = found.length > rows.length ? [element("p", { className: "note", textContent: `${rows.length} of ${found.length} shown.` })] : [];
    return element("div", {}, ...more, tableOf(["since start", "count"], rows, "Errors by name"));
  }

  gpus() {
    const prefix = "/resource_stats/";
    const found = new Map();
    for (const place of Object.keys(this.texts)) {
      const name = place.startsWith(prefix) ? unescape(place.slice(prefix.length).replace(/\/last$/, "")) : "";
      const [, gpu, quantity] = name.match(/^(.*)\.([a-z_]+)$/) ?? [];
      if (gpu) (found.get(gpu) ?? found.set(gpu, {}).get(gpu))[quantity] = place;
    }
    const cell = (place) => (place ? this.field(place, "td") : element("td", { textContent: "-" }));
    const rows = [...found].map(([gpu, places]) => [
      gpu, cell(places.utilization_ratio), cell(places.memory_used_bytes), cell(places.memory_total_bytes), cell(places.power_watts), cell(places.temperature_celsius),
    ]);
    return rows.length ? tableOf(["GPU", "busy", "memory", "of", "W", "°C"], rows, "GPUs now") : null;
  }

  take(answer, order) {
    this.texts = Object.fromEntries(order.map((place, index) => [place, answer.texts[index]]));
  }

  // Writes the texts where their places are.
  write(scope = document) {
    for (const one of scope.querySelectorAll("[data-field]")) {
      const text = this.texts[one.dataset.field] ?? "-";
      if (one.textContent !== text) one.textContent = text;
    }
    for (const one of scope.querySelectorAll("[data-with]")) one.hidden = (this.texts[one.dataset.with] ?? "-") === "-"; // a range of nothing
  }
}
