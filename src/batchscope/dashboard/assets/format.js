// Numbers as people read them: the same rules as batchscope.views.numbers, which the tests compare with.

export const MISSING = "-";
const known = (value) => typeof value === "number" && Number.isFinite(value);
const grouped = (value, digits = 0) =>
  value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits, roundingMode: "halfEven" });

export function count(value) {
  return known(value) ? grouped(value) : MISSING;
}

export function percent(ratio) {
  if (!known(ratio)) return MISSING;
  if (ratio > 0 && ratio < 0.001) return "<0.1 %";
  return ratio > 0.999 && ratio < 1 - 1e-9 ? ">99.9 %" : `${(100 * ratio).toFixed(1)} %`;
}

export function amount(value) {
  if (!known(value)) return MISSING;
  if (value < 0) return `-${amount(-value)}`;
  if (value >= 100) return grouped(value);
  if (value >= 1) return value >= 10 ? value.toFixed(1) : value.toFixed(2);
  return value === 0 ? "0" : value >= 0.001 ? value.toFixed(3) : "<0.001";
}

export function perSecond(value) {
  if (!known(value)) return MISSING;
  if (value > 0 && value < 1e-4) {
    const [digits, power] = value.toExponential(1).split("e-");
    return `${digits.replace(".0", "")}e-${power.padStart(2, "0")}`;
  }
  if (value < 0.1) return String(Number(value.toPrecision(2)));
  return value >= 100 ? grouped(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const threeDigits = (value) =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/\.?0+$/, "");

export function duration(seconds) {
  if (!known(seconds)) return MISSING;
  if (seconds >= 36000) return `${grouped(seconds / 3600, 1)} h`;
  if (seconds >= 600) return seconds >= 3600 ? `${(seconds / 3600).toFixed(2)} h` : `${(seconds / 60).toFixed(1)} min`;
  if (seconds >= 1) return `${threeDigits(seconds)} s`;
  if (seconds >= 1e-3) return `${threeDigits(1e3 * seconds)} ms`;
  return seconds ? `${threeDigits(1e6 * seconds)} us` : "0 s";
}

// Of a value that is known within some per cent: two digits, and said to be no more than that.
export function about(seconds) {
  return known(seconds) ? `≈ ${duration(Number(seconds.toPrecision(2))).replace(/\.0+(?= )/, "")}` : MISSING;
}

const two = (number) => String(number).padStart(2, "0");

// 24 hours, in the reader's own zone.
export function clock(seconds, withSeconds = true) {
  const date = new Date(1000 * seconds);
  return `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ""}`;
}

export function utc(seconds) {
  return `${new Date(1000 * seconds).toISOString().slice(11, 19)} UTC`;
}

// Text that somebody else chose, on one line, with what could turn or hide it spelled out: as batchscope.text.shown.
export function shown(text, longest = 120) {
  const kept = text.length > longest ? `${text.slice(0, longest)}...` : text;
  return kept.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0).toString(16);
    return code.length < 3 ? `\\x${code.padStart(2, "0")}` : code.length < 5 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
  });
}
