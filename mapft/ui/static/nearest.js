// Three feasible palettes near an infeasible one, each previewed before it is taken.

import { $, el } from "./dom.js";

const PHRASES = {
  interpolate: ["Lower all equally", "Every target gives up the same share of its rise."],
  priority: ["Keep the first values", "Values keep their targets in the order of the list; the last ones give way."],
  least_change: ["Least change", "The smallest sum of changes, often of one value only."],
};

/** take({ unit, positions }): the user chose a palette. preview(targets or null): the one under pointer or focus. */
export function showNearest(found, take, preview) {
  $("nearest").hidden = !found;
  if (!found) return;
  const cards = found.map(({ method, unit, positions, targets, kl, ess, changes }) => {
    const [title, phrase] = PHRASES[method];
    const button = el("button", { type: "button", id: method, onclick: () => take({ unit, positions }) }, `Use this: ${kl.toFixed(2)} nats`);
    const rows = changes.map(({ name, old, new: level, sd }) =>
      el(
        "tr",
        { class: Math.abs(sd) > 1e-9 ? "" : "same" },
        el("th", { scope: "row" }, name),
        el("td", {}, Math.abs(sd) > 1e-9 ? `${old} → ${level}` : level),
        el("td", {}, Math.abs(sd) > 1e-9 ? `${sd.toFixed(2)} sd` : "kept"),
      ),
    );
    const card = el(
      "article",
      { class: "near" },
      el("h3", {}, title),
      el("p", {}, phrase),
      el("table", {}, el("tbody", {}, ...rows)),
      el("p", { class: "quiet" }, `${Math.round(ess).toLocaleString("en")} effective samples`),
      button,
    );
    for (const event of ["pointerenter", "focusin"]) card.addEventListener(event, () => preview(targets));
    for (const event of ["pointerleave", "focusout"]) card.addEventListener(event, () => preview(null));
    return card;
  });
  $("nearest-list").replaceChildren(...cards);
}
