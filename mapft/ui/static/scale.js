// Positions of sliders (quantile, sd or absolute), levels, and their texts. The server's conversions are the exact ones.

/** The level at a position; quantiles below the base level stand for the base level, as in a palette. */
export function levelAt(value, unit, position) {
  if (unit === "absolute") return position;
  if (unit === "sd") return value.base + position * value.sd;
  return Math.max(value.base, quantile(value, position));
}

export function positionOf(value, unit, level) {
  if (unit === "absolute") return level;
  if (unit === "sd") return value.sd > 0 ? (level - value.base) / value.sd : 0;
  return shareBelow(value, level);
}

export function quantile(value, share) {
  const last = value.quantiles.length - 1;
  const at = Math.min(Math.max(share, 0), 1) * last;
  const low = Math.min(Math.floor(at), last - 1);
  return value.quantiles[low] + (at - low) * (value.quantiles[low + 1] - value.quantiles[low]);
}

export function shareBelow(value, level) {
  const levels = value.quantiles;
  const last = levels.length - 1;
  if (level < levels[0]) return 0;
  if (level >= levels[last]) return 1;
  let low = 0;
  let high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (levels[middle] <= level) low = middle;
    else high = middle;
  }
  return (low + (level - levels[low]) / (levels[high] - levels[low])) / last;
}

/** A position that a pointer chose, without digits that it cannot mean. */
export function rounded(unit, position) {
  if (unit === "absolute") return Number(position.toPrecision(5));
  const thousandths = Math.round(1000 * position) / 1000;
  return unit === "quantile" ? Math.min(Math.max(thousandths, 0), 1) : thousandths;
}

/** A level to a hundredth of the value's sd. */
export function levelText(value, level) {
  const decimals = value.sd > 0 ? 2 - Math.round(Math.log10(value.sd)) : 2;
  return level.toFixed(Math.min(Math.max(decimals, 0), 6));
}

export const number = (position) => (position === null ? "" : String(Number(position.toPrecision(6))));

/** Round numbers between two ends, about `count` of them. */
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high; at++) found.push([at * step, (at * step).toFixed(decimals)]);
  return found;
}
