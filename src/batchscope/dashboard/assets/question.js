// A range that somebody selected, against the rest of the time shown: what differs, the most first.

import { element, tableOf } from "./charts.js";
import { about, amount, clock, count, percent, perSecond } from "./format.js";
import { sumOf } from "./store.js";

const FIRST = 8;
const LEAST = 30; // observations on either side, below which nothing is said

// One line: its name, how to write it, and for a sum: value, n.
function* quantities(store, limiters) {
  const value = (total, column) => store.value(total, column);
  const busy = (total) => sumOf(limiters.map(({ id }) => value(total, `busy.${id}`)));
  const iterations = (total) => value(total, "iterations");
  for (const { id, name } of limiters)
    yield { name: `held by ${name}`, form: percent, ratio: true, value: (total) => value(total, `busy.${id}`) / busy(total), n: iterations, of: "iterations" };
  yield { name: "batch full while busy", form: percent, ratio: true, value: (total) => store.ratio(total, "used_slot_seconds", "slot_seconds"), n: iterations, of: "iterations" };
  yield { name: "busy time", form: percent, ratio: true, value: (total) => Math.min(1, store.ratio(total, "busy_seconds", "rank_seconds")), n: iterations, of: "iterations" };
  yield { name: "running, mean", form: amount, value: (total) => store.ratio(total, "running_request_seconds", "running_reported_seconds"), n: iterations, of: "iterations" };
  yield { name: "waiting, mean", form: amount, value: (total) => store.ratio(total, "waiting_request_seconds", "waiting_reported_seconds"), n: iterations, of: "iterations" };
  yield { name: "preemptions a minute", form: amount, value: (total) => 60 * store.ratio(total, "preemptions", "wall_seconds"), n: (total) => value(total, "preemptions"), of: "preemptions", seldom: true };
  yield { name: "output tokens/s", form: perSecond, value: (total) => store.ratio(total, "generation_tokens", "wall_seconds"), n: iterations, of: "iterations" };
  yield { name: "requests arrived/s", form: perSecond, value: (total) => store.ratio(total, "requests_received", "wall_seconds"), n: (total) => value(total, "requests_received"), of: "requests" };
  for (const [row, name] of store.names.classes.entries()) {
    const n = (total) => sumOf(total.slo[row] ?? [0, 0]);
    if (name in store.names.targets) yield { name: `SLO met, ${name}`, form: percent, ratio: true, value: (total) => total.slo[row][0] / n(total), n, of: "requests" };
  }
  for (const [id, name] of Object.entries(store.names.latencies)) {
    const which = store.latency(id);
    const n = (total) => sumOf(total.latencies[which]);
    const of = id.startsWith("inter") ? "tokens" : "requests";
    for (const [field, q] of [["p50", 0.5], ["p99", 0.99]])
      yield { name: `${name} ${field}`, form: about, value: (total) => store.quantile(id, total.latencies[which], n(total), q), n, of, least: store.names.fewest[field] };
  }
}

// How far apart, 0..1: of ratios the difference, of amounts by how much the larger is larger.
function apart(one, inside, outside) {
  if (!Number.isFinite(inside) || !Number.isFinite(outside)) return -1;
  if (one.ratio) return Math.abs(inside - outside);
  const most = Math.max(Math.abs(inside), Math.abs(outside));
  return most ? Math.abs(inside - outside) / most : 0;
}

const difference = (one, inside, outside) => {
  if (one.ratio) return `${inside >= outside ? "+" : "−"}${(100 * Math.abs(inside - outside)).toFixed(1)} points`;
  if (!(outside > 0)) return inside > 0 ? "from none" : "none";
  const sign = inside >= outside ? "+" : "−", apart = Math.abs(inside / outside - 1);
  if (one.form === about) return inside / outside >= 2 ? `≈ ${Number((inside / outside).toPrecision(2))} times` : `≈ ${sign}${Math.round(100 * apart)} %`;
  return inside / outside >= 2 ? `${amount(inside / outside)} times` : `${sign}${percent(apart)}`;
};

export function compare(store, frame, range, limiters) {
  const within = ({ number }) => number * frame.width > range[0] && number * frame.width <= range[1];
  const inside = store.sum(frame.cells.filter(within));
  const outside = store.sum(frame.cells.filter((cell) => !within(cell)));
  const found = [], few = [];
  for (const one of quantities(store, limiters)) {
    const least = Math.max(LEAST, one.least ?? 0);
    const numbers = [one.n(inside), one.n(outside)];
    const values = [one.value(inside), one.value(outside)];
    if (!values.some(Number.isFinite) || values.every((value) => !value)) continue;
    const enough = one.seldom ? sumOf(numbers) : Math.min(...numbers); // of what may not happen at all on one side
    if (enough < least) few.push(`${one.name} (n ${count(numbers[0])} and ${count(numbers[1])})`);
    else found.push({ ...one, numbers, values, apart: apart(one, ...values) });
  }
  found.sort((one, other) => other.apart - one.apart);
  return { found, few };
}

export function show(panel, store, frame, range, limiters, drop) {
  const { found, few } = compare(store, frame, range, limiters);
  const rows = found.map((one) => [
    one.name, one.form(one.values[0]), one.form(one.values[1]), difference(one, ...one.values),
    `${count(one.numbers[0])} and ${count(one.numbers[1])} ${one.of}`,
  ]);
  const head = ["quantity", "in the range", "rest", "difference", "n"];
  const part = (some, label) => element("div", { className: "scroll", tabIndex: 0, aria: { role: "region", label } }, tableOf(head, some, label));
  const open = panel.querySelector("details")?.open ?? false;
  const more = rows.slice(FIRST);
  panel.replaceChildren(
    element("header", {},
      element("h2", { id: "question-title", textContent: `What differs from ${clock(range[0])} to ${clock(range[1])}?` }),
      element("button", { type: "button", textContent: "Drop the selection", onclick: drop })),
    rows.length ? part(rows.slice(0, FIRST), "The range against the rest of the time shown") : element("p", { className: "note", textContent: `Too little in one of the two: at least ${LEAST} observations on either side.` }),
    ...(more.length ? [element("details", { open }, element("summary", { textContent: `${more.length} that differ less` }), part(more, "What differs less"))] : []),
    ...(few.length ? [element("p", { className: "note", textContent: `Too few to say: ${few.join("; ")}.` })] : []),
  );
  panel.hidden = false;
}
