// One slider per value; base level, feasible limit, predicted band and measured level are marked on its track.

import { $, el } from "./dom.js";
import { levelText, number, positionOf } from "./scale.js";

const STEPS = 1000;

export class Sliders {
  /** changed(place, position): a position that the user chose, null for a free value. */
  constructor(start, changed) {
    this.start = start;
    this.changed = changed;
    this.parts = start.values.map((value, place) => this.build(value, place));
    $("sliders").replaceChildren(...this.parts.map((part) => part.root));
  }

  build(value, place) {
    const set = (text) => Number.isFinite(parseFloat(text)) && this.changed(place, Number(text));
    const range = el("input", { type: "range", "aria-label": `Target of ${value.name}` });
    range.addEventListener("input", () => set(range.value));
    const box = el("input", { type: "number", step: "any", "aria-label": `Target of ${value.name} as a number` });
    box.addEventListener("change", () => set(box.value));
    const tick = el("input", { type: "checkbox", id: `target-${place}` });
    tick.addEventListener("change", () => this.changed(place, tick.checked ? Number(range.value) : null));
    const mark = (kind, text) => el("div", { class: `mark ${kind}`, hidden: true }, el("span", {}, text));
    const track = {
      beyond: el("div", { class: "beyond", hidden: true }),
      fill: el("div", { class: "fill" }),
      band: el("div", { class: "band", hidden: true }),
      base: mark("base", "base"),
      limit: mark("limit", ""),
      tuned: el("div", { class: "mark tuned", hidden: true }),
    };
    const note = el("p", { class: "note" });
    const root = el(
      "div",
      { class: "slider", id: `level-${place}`, role: "group", "aria-label": value.name },
      el("div", { class: "head" }, el("label", {}, tick, el("span", { class: "name" }, value.name)), box),
      el("div", { class: "track" }, el("div", { class: "marks" }, ...Object.values(track)), range),
      note,
    );
    return { root, range, box, tick, track, note };
  }

  /** Everything on the sliders. model: state, and the answers to `solve`, `limits` and `bands`, or null. */
  show({ state, solution, limits, bands }) {
    this.start.values.forEach((value, place) => {
      const { root, range, box, tick, track, note } = this.parts[place];
      const position = state.positions[place];
      const [low, high] = ends(value, state.unit, position);
      const at = (level) => (positionOf(value, state.unit, level) - low) / (high - low);
      const thumb = position === null ? value.base_at[state.unit] : position;
      Object.assign(range, { min: low, max: high, step: (high - low) / STEPS });
      if (Math.abs(Number(range.value) - thumb) > (high - low) / STEPS / 2) range.value = thumb;
      if (document.activeElement !== box) box.value = number(position); // not while somebody types
      Object.assign(box, { min: low, max: high });
      tick.checked = position !== null;
      root.classList.toggle("free", position === null);
      const base = (value.base_at[state.unit] - low) / (high - low);
      move(track.base, base);
      const limit = limits ? limits[place] : null;
      const end = limit === null ? null : at(limit);
      const reach = (thumb - low) / (high - low);
      span(track.fill, base, end === null ? reach : Math.min(reach, Math.max(end, base)));
      move(track.limit, end !== null && end <= 1.001 ? end : null);
      span(track.beyond, end !== null && end < 1 ? end : null, 1);
      const level = solution && solution.values[place];
      const band = bands ? bands.levels[place] : level && level.interval;
      span(track.band, band ? at(band[0]) : null, band ? at(band[1]) : null);
      const tuned = this.start.tuned && this.start.tuned.levels[place];
      move(track.tuned, tuned ? at(tuned.mean) : null);
      track.limit.firstChild.textContent = end === null ? "" : `limit ${limitText(value, state.unit, limit)}`;
      note.replaceChildren(...this.note(value, level, band), ...realized(tuned));
      const spoken = limit === null ? "" : `, limit ${limitText(value, state.unit, limit)}`;
      range.setAttribute("aria-valuetext", `${number(thumb)}${position === null ? ", free" : ""}${spoken}`);
    });
  }

  note(value, level, band) {
    if (!level || level.predicted === null) return [];
    const half = band ? Math.max(band[1] - level.predicted, level.predicted - band[0]) : null;
    const spread = half === null ? "" : ` ± ${levelText(value, half)}`;
    const price = level.price === null ? "free" : level.price < 0.0005 ? "costs nothing" : "";
    const cost = price || `+0.1 sd costs ${level.price < 0.01 ? level.price.toFixed(3) : level.price.toFixed(2)} nats`;
    return [el("span", {}, `predicted ${levelText(value, level.predicted)}${spread}`), el("span", {}, cost)];
  }
}

/** The realized level of a trained run, and whether it missed the run's own target. */
function realized(tuned) {
  if (!tuned) return [];
  return [el("span", {}, `trained model ${tuned.text}${tuned.met === false ? ", below its target" : ""}`)];
}

/** The ends of a slider, which include its position. */
function ends(value, unit, position) {
  const [low, high] = value.spans[unit];
  const least = position === null ? low : Math.min(low, position);
  return [least, Math.max(high, position === null ? high : position, least + 1e-6)];
}

function limitText(value, unit, level) {
  const position = positionOf(value, unit, level);
  return unit === "absolute" ? levelText(value, position) : position.toFixed(2);
}

const clamp = (share) => Math.min(Math.max(share, 0), 1);

/** Move a mark to a share of the track, or hide it. */
function move(mark, share) {
  mark.hidden = share === null;
  if (share !== null) {
    mark.style.left = `${100 * clamp(share)}%`;
    mark.classList.toggle("late", share > 0.8);
    mark.classList.toggle("early", share < 0.12);
  }
}

/** Stretch a bar between two shares of the track, or hide it. */
function span(bar, from, to) {
  bar.hidden = from === null;
  if (from === null) return;
  const [left, right] = [clamp(Math.min(from, to)), clamp(Math.max(from, to))];
  bar.style.left = `${100 * left}%`;
  bar.style.width = `${100 * (right - left)}%`;
}
