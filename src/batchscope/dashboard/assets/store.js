// What the page knows: cells by their number, and sums over them. A cell holds counts, so sums are exact.

const LONGEST_SPAN = 10;
const DIGIT = /\{(\d+)\}|([0-9a-z])/g;

function unpacked(text) {
  return text.split(",").slice(0, -1).map((row) => {
    if (!row) return null;
    const [first, digits] = row.split(":");
    const counts = [];
    for (const found of digits.matchAll(DIGIT)) counts.push(found[1] ? Number(found[1]) : parseInt(found[2], 36));
    return { first: Number(first), counts };
  });
}

const at = (column, place) => (Array.isArray(column) ? column[place] : column);

export class Store {
  constructor(seconds) {
    this.seconds = seconds;
    this.names = null;
    this.history = "";
    this.cells = new Map();
    this.marks = new Map();
    this.newest = 0;
    this.anew = false;
  }

  // Takes an answer. Cells have the number of their second, so what comes twice is there once.
  take(answer) {
    if (answer.names) this.place = Object.fromEntries(answer.names.columns.map((name, index) => [name, index]));
    if (answer.names) this.names = answer.names;
    this.anew ||= Boolean(this.history) && this.history !== answer.history; // until the first cell of the other one
    this.history = answer.history;
    for (const [number, what] of answer.marks) this.marks.set(number, what);
    const { numbers, counts, slo, gpus, latencies } = answer.cells;
    const tables = latencies.map(unpacked);
    numbers.forEach((number, index) => {
      if (this.anew) this.marks.set(number * this.seconds, "restarted");
      this.anew = false;
      const own = counts.map((column) => at(column, index));
      this.cells.set(number, {
        number,
        span: this.span(own),
        counts: own,
        slo: slo.map((results) => results.map((column) => at(column, index))),
        gpus: gpus.map((column) => at(column, index)),
        latencies: tables.map((rows) => rows[index]),
      });
    });
    this.newest = Math.max(this.newest, answer.newest);
  }

  // How many cells it covers. Who publishes may tell nothing new for some seconds: then what it tells is of all of them.
  // A time in which nobody looked stays a gap.
  span(counts) {
    const covered = Math.round(counts[this.place.wall_seconds] / this.seconds);
    return this.seconds === 1 && covered > 1 && covered <= counts[this.place.samples] + 1 ? covered : 1;
  }

  // The cell that covers the one of this number.
  at(number) {
    for (let later = 0; later < LONGEST_SPAN; later += 1) {
      const cell = this.cells.get(number + later);
      if (cell) return cell.span > later ? cell : undefined;
    }
    return undefined;
  }

  // Forgets what lies before the instant `recent`, but for what `kept` says of an instant.
  trim(recent, kept) {
    const forgotten = (instant) => instant < recent && !kept(instant);
    for (const number of this.cells.keys()) if (forgotten(number * this.seconds)) this.cells.delete(number);
    for (const number of this.marks.keys()) if (forgotten(number)) this.marks.delete(number);
  }

  // The cells of (from, to], instants in seconds, oldest first.
  between(from, to) {
    const found = [];
    const width = this.seconds;
    for (let number = Math.floor(from / width) + 1; number * width <= to; number += 1) {
      const cell = this.cells.get(number);
      if (cell) found.push(cell);
    }
    return found;
  }

  sum(cells) {
    const names = this.names;
    const total = {
      cells: cells.length,
      counts: new Array(names.columns.length).fill(0),
      slo: names.classes.map(() => [0, 0]),
      latencies: Object.keys(names.histograms.first_octave).map(() => new Float64Array(names.histograms.buckets)),
    };
    for (const cell of cells) add(total, cell);
    return total;
  }

  value(total, column) {
    return total.counts[this.place[column]];
  }

  ratio(total, part, whole) {
    const below = this.value(total, whole);
    return below > 0 ? this.value(total, part) / below : NaN;
  }

  latency(name) {
    return Object.keys(this.names.histograms.first_octave).indexOf(name);
  }

  // Lower edge of a bucket of a latency, in seconds.
  edge(name, bucket) {
    const { scale, first_octave: first } = this.names.histograms;
    return 2 ** (first[name] + bucket / 2 ** scale);
  }

  // The nearest-rank quantile, within the histograms' stated error; NaN of nothing.
  quantile(name, buckets, n, q) {
    if (!n) return NaN;
    const rank = Math.ceil(q * n - 1e-9);
    let reached = 0;
    for (let bucket = 0; bucket < buckets.length; bucket += 1) {
      reached += buckets[bucket];
      if (reached >= rank) {
        const low = this.edge(name, bucket), high = this.edge(name, bucket + 1);
        return (2 * low * high) / (low + high);
      }
    }
    return NaN;
  }
}

function add(total, cell) {
  for (let place = 0; place < total.counts.length; place += 1) total.counts[place] += cell.counts[place];
  cell.slo.forEach((results, row) => {
    if (!total.slo[row]) total.slo[row] = [0, 0];
    total.slo[row][0] += results[0];
    total.slo[row][1] += results[1];
  });
  cell.latencies.forEach((row, place) => {
    if (!row) return;
    const into = total.latencies[place];
    for (let index = 0; index < row.counts.length; index += 1) into[row.first + index] += row.counts[index];
  });
}

export const sumOf = (numbers) => {
  let total = 0;
  for (const number of numbers) total += number;
  return total;
};
