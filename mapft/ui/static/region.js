// The levels of two values: feasible region, fronts, base samples, and the palette as a point that can be moved.

import { $, el, svg } from "./dom.js";
import { levelText, quantile, shareBelow, ticks } from "./scale.js";

const MARGIN = { left: 52, right: 46, top: 38, bottom: 46 };
const BELOW = 0.4; // of the range above the base level, shown below it
const SHARES = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]; // quantiles on the axes
const STEP = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class Region {
  /** moved(levels): the two levels that the user chose. hovered(levels or null): those under the pointer. */
  constructor(start, moved, hovered) {
    Object.assign(this, { start, moved, hovered, model: null, dragging: false });
    this.plot = svg("svg", { "aria-label": "Levels of two values", role: "group" });
    this.handle = svg("g", { class: "handle", tabindex: 0, role: "slider", "aria-roledescription": "point of two targets" });
    this.handle.append(svg("circle", { r: 22, class: "grip" }), svg("circle", { r: 9, class: "target" }));
    $("plot").replaceChildren(this.plot);
    new ResizeObserver(() => this.draw()).observe($("plot"));
    this.plot.addEventListener("pointerdown", (event) => this.press(event));
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    for (const end of ["pointerup", "pointercancel"]) this.plot.addEventListener(end, () => (this.dragging = false));
    this.plot.addEventListener("pointerleave", () => this.hovered(null));
    this.handle.addEventListener("keydown", (event) => this.key(event));
  }

  show(model) {
    const same = model.around && String(model.around.pair) === String(model.state.pair);
    this.model = same ? model : { ...model, around: null };
    this.draw();
  }

  draw() {
    const { model, plot } = this;
    const width = $("plot").clientWidth;
    if (!model || width === 0) return;
    this.values = model.state.pair.map((place) => this.start.values[place]);
    const single = model.state.pair[0] === model.state.pair[1];
    plot.classList.toggle("gone", single);
    if (single) return;
    const height = Math.round(Math.min(Math.max(0.62 * width, 320), 470));
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("height", height);
    this.size = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
    this.domain = this.ends(model);
    const focused = document.activeElement === this.handle;
    plot.replaceChildren(...this.axes(), this.areas(model), ...this.marks(model));
    if (focused) this.handle.focus({ preventScroll: true });
  }

  /** Lowest and highest level of each axis; they do not depend on the palette, so that nothing moves under a drag. */
  ends(model) {
    const free = model.around ? model.around.free : [];
    return this.values.map((value, axis) => {
      const high = Math.max(value.quantiles.at(-1), ...free.map((corner) => corner[axis]));
      const low = Math.min(...value.quantiles.slice(0, 1), ...free.map((corner) => corner[axis]));
      const room = high - value.base || 1;
      return [Math.max(low, value.base - BELOW * room), high + 0.03 * room];
    });
  }

  x = (level) => MARGIN.left + (this.size[0] * (level - this.domain[0][0])) / (this.domain[0][1] - this.domain[0][0]);
  y = (level) => MARGIN.top + this.size[1] * (1 - (level - this.domain[1][0]) / (this.domain[1][1] - this.domain[1][0]));
  at = ([x, y]) => [this.x(x), this.y(y)];
  inside = ([x, y]) => [
    Math.min(Math.max(x, MARGIN.left), MARGIN.left + this.size[0]),
    Math.min(Math.max(y, MARGIN.top), MARGIN.top + this.size[1]),
  ];
  path = (points) => points.map((point) => this.at(point).map((place) => place.toFixed(1)).join(",")).join(" ");

  axes() {
    const [width, height] = this.size;
    const [right, bottom] = [MARGIN.left + width, MARGIN.top + height];
    const parts = [svg("rect", { x: MARGIN.left, y: MARGIN.top, width, height, class: "frame" })];
    const text = (x, y, label, more = {}) => parts.push(svg("text", { x, y, ...more }, label));
    const [across, up] = this.values;
    for (const [level, label] of ticks(...this.domain[0], width / 80)) {
      parts.push(svg("line", { x1: this.x(level), x2: this.x(level), y1: MARGIN.top, y2: bottom, class: "grid" }));
      text(this.x(level), bottom + 16, label, { "text-anchor": "middle" });
    }
    for (const [level, label] of ticks(...this.domain[1], height / 60)) {
      parts.push(svg("line", { x1: MARGIN.left, x2: right, y1: this.y(level), y2: this.y(level), class: "grid" }));
      text(MARGIN.left - 8, this.y(level) + 4, label, { "text-anchor": "end" });
    }
    for (const [place, label] of this.shares(across, this.x, 38)) {
      text(place, MARGIN.top - 8, label, { class: "share", "text-anchor": "middle" });
    }
    for (const [place, label] of this.shares(up, this.y, 20)) {
      text(right + 6, place + 4, label, { class: "share" });
    }
    const middle = MARGIN.left + width / 2;
    text(middle, bottom + 36, `${short(across.name)}, score`, { "text-anchor": "middle", class: "title" });
    text(middle, 14, "quantile of the base answers", { "text-anchor": "middle", class: "share" });
    const turn = `translate(13 ${MARGIN.top + height / 2}) rotate(-90)`;
    parts.push(svg("text", { transform: turn, "text-anchor": "middle", class: "title" }, `${short(up.name)}, score`));
    return parts;
  }

  /** Quantiles along an axis that are inside and `room` pixels apart. */
  shares(value, scale, room) {
    const [low, high] = this.domain[value === this.values[0] ? 0 : 1];
    const found = [];
    for (const share of [0.5, ...SHARES]) {
      const level = quantile(value, share);
      const free = found.every(([place]) => Math.abs(place - scale(level)) >= room);
      if (level >= low && level <= high && free) found.push([scale(level), `${Math.round(100 * share)} %`]);
    }
    return found;
  }

  areas({ state, around, solution }) {
    const [width, height] = this.size;
    const clip = svg("clipPath", { id: "inside" });
    clip.append(svg("rect", { x: MARGIN.left, y: MARGIN.top, width, height }));
    const area = svg("g", { "clip-path": "url(#inside)" });
    const [first, second] = state.pair;
    const dots = this.start.dots.map((row) => `M${this.at([row[first], row[second]]).map((at) => at.toFixed(1))}h0`);
    area.append(svg("path", { d: dots.join(""), class: "dots" }));
    if (around) {
      area.append(svg("polygon", { points: this.path(around.free), class: "free" }));
      area.append(svg("polygon", { points: this.path(around.region), class: "region" }));
      for (const contour of around.contours) this.line(area, contour.points, `${contour.kl} nats`, "contour");
      if (around.front.length && solution && solution.kl) this.line(area, around.front, "", "front");
    }
    return svg("g", {}, clip, area);
  }

  line(area, points, label, kind) {
    area.append(svg("polyline", { points: this.path(points), class: kind }));
    const [x, y] = this.at(points.at(-1));
    if (label) area.append(svg("text", { x: x - 5, y: y + 4, class: "label", "text-anchor": "end" }, label));
  }

  marks({ state, solution, ghost }) {
    const [first, second] = state.pair;
    const base = this.values.map((value) => value.base);
    const parts = [svg("circle", { cx: this.x(base[0]), cy: this.y(base[1]), r: 5, class: "base" })];
    const label = ([x, y], words, kind, below = false) => {
      const end = x > MARGIN.left + 0.72 * this.size[0];
      const attributes = { x: x + (end ? -14 : 14), y: y + (below ? 20 : -10), class: `label ${kind}` };
      parts.push(svg("text", { ...attributes, "text-anchor": end ? "end" : "start" }, words));
    };
    label(this.at(base), "base model", "base", true);
    const tuned = this.start.tuned && [this.start.tuned.levels[first], this.start.tuned.levels[second]];
    const goal = this.inside(this.at(this.levels()));
    if (tuned && tuned[0] && tuned[1]) {
      const [x, y] = this.inside(this.at(tuned.map((level) => level.mean)));
      const [left, right] = tuned[0].interval.map(this.x);
      const [low, high] = tuned[1].interval.map(this.y);
      parts.push(svg("path", { d: `M${left} ${y}H${right}M${x} ${low}V${high}`, class: "tuned" }));
      parts.push(svg("path", { d: `M${x - 6} ${y}l6 -6l6 6l-6 6z`, class: "tuned" }));
      label([x, y], "trained model", "tuned", y >= goal[1]);
    }
    const rows = solution && [solution.values[first], solution.values[second]];
    if (rows && rows[0].predicted !== null) {
      const [x, y] = this.inside(this.at(rows.map((row) => row.predicted)));
      if (Math.hypot(x - goal[0], y - goal[1]) > 3) {
        parts.push(svg("path", { d: `M${goal}L${x} ${y}`, class: "pull" }));
        parts.push(svg("rect", { x: x - 5, y: y - 5, width: 10, height: 10, class: "predicted" }));
        label([x, y], "predicted", "predicted", y > goal[1]);
      }
    }
    if (ghost) {
      const levels = [first, second].map((place, axis) => ghost[place] ?? base[axis]);
      const [x, y] = this.inside(this.at(levels));
      parts.push(svg("path", { d: `M${goal}L${x} ${y}`, class: "pull" }), svg("circle", { cx: x, cy: y, r: 8, class: "ghost" }));
    }
    const [x, y] = goal;
    parts.push(svg("path", { d: `M${MARGIN.left} ${y}H${x}V${MARGIN.top + this.size[1]}`, class: "cross" }));
    this.handle.setAttribute("transform", `translate(${x} ${y})`);
    this.handle.classList.toggle("no", !!solution && solution.kl === null);
    const names = this.levels().map((level, axis) => `${this.values[axis].name} ${levelText(this.values[axis], level)}`);
    for (const [name, text] of [
      ["aria-label", `Targets of ${this.values[0].name} and ${this.values[1].name}; arrow keys move them`],
      ["aria-valuetext", names.join(", ")],
      ["aria-valuenow", this.levels()[0]],
      ["aria-valuemin", this.domain[0][0]],
      ["aria-valuemax", this.domain[0][1]],
    ]) {
      this.handle.setAttribute(name, name === "aria-valuenow" ? Number(text.toPrecision(5)) : text);
    }
    label(goal, "your palette", "target", y < MARGIN.top + 24);
    parts.push(this.handle);
    return parts;
  }

  /** The two targets; the base level of a free value. */
  levels() {
    return this.model.state.pair.map((place, axis) => this.model.targets[place] ?? this.values[axis].base);
  }

  // ------------------------------------------------------------------ pointer and keyboard

  /** The levels at a pointer, within the axes; null outside the plot. */
  under(event) {
    if (!this.domain) return null;
    const box = this.plot.getBoundingClientRect();
    const across = (event.clientX - box.left - MARGIN.left) / this.size[0];
    const up = 1 - (event.clientY - box.top - MARGIN.top) / this.size[1];
    if (!this.dragging && (Math.min(across, up) < 0 || Math.max(across, up) > 1)) return null;
    return [across, up].map((share, axis) => {
      const [low, high] = this.domain[axis];
      return low + Math.min(Math.max(share, 0), 1) * (high - low);
    });
  }

  press(event) {
    const levels = this.under(event);
    if (!levels || event.button !== 0) return;
    event.preventDefault();
    this.dragging = true;
    this.plot.setPointerCapture(event.pointerId);
    this.handle.focus({ preventScroll: true });
    this.moved(levels);
  }

  point(event) {
    const levels = this.under(event);
    if (this.dragging && levels) this.moved(levels);
    else this.hovered(levels);
  }

  key(event) {
    const step = STEP[event.key];
    if (!step) return;
    event.preventDefault();
    const share = event.shiftKey ? 0.05 : 0.01;
    this.moved(
      this.levels().map((level, axis) => {
        const [low, high] = this.domain[axis];
        return step[axis] === 0 ? level : Math.min(Math.max(level + step[axis] * share * (high - low), low), high);
      }),
      step[0] !== 0 ? 0 : 1,
    );
  }
}

const short = (name) => (name.length <= 24 ? name : `${name.slice(0, 23)}…`);

/** The text below the plot: the levels under the pointer, and what they cost. */
export function hoverText(values, levels, kl) {
  const parts = levels.map((level, axis) => {
    const share = Math.round(100 * shareBelow(values[axis], level));
    return `${values[axis].name} ${levelText(values[axis], level)} (${share} %)`;
  });
  const cost = kl === undefined ? "" : kl === null ? ": infeasible with the other targets" : `: ${kl.toFixed(2)} nats`;
  return el("span", {}, parts.join(", ") + cost);
}
