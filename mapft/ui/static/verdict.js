// The verdict, its three figures, and the table of every value.

import { $, el } from "./dom.js";
import { levelText } from "./scale.js";

const SIGNS = { feasible: "✓", boundary: "✗", infeasible: "✗" };

export function showVerdict(solution, bands, start) {
  const state = solution.few ? "few" : solution.state;
  $("verdict").replaceChildren(
    el(
      "p",
      { class: `verdict ${state}`, role: "status" },
      el("span", { class: "sign", "aria-hidden": "true" }, solution.few ? "!" : SIGNS[solution.state]),
      el("span", {}, solution.verdict),
    ),
  );
  $("figures").replaceChildren(figures(solution, bands, start));
  $("proof").textContent = solution.proof;
  const warnings = [...solution.warnings, bands ? bands.caution : ""].filter(Boolean);
  $("warnings").replaceChildren(...warnings.map((sentence) => el("p", { class: "warning" }, sentence)));
}

export function showError(sentence) {
  $("verdict").replaceChildren(el("p", { class: "verdict infeasible", role: "status" }, sentence));
  for (const part of ["figures", "warnings"]) $(part).replaceChildren();
}

/** Always the same number of figures, so that nothing below them moves. */
function figures({ kl, ess, rows, ess_per_prompt, margin, few, values }, bands, start) {
  const none = kl === null;
  const interval = bands ? range(bands.kl) : "interval: being computed";
  const samples = none ? "none" : Math.round(ess).toLocaleString("en");
  const typical = none ? "no policy" : `${ess_per_prompt.toFixed(1)} for the median prompt`;
  const room = margin === null ? "-" : `${margin < 0 ? "−" : "+"}${Math.abs(margin).toFixed(2)}`;
  const reach = margin < 0 ? "too high, all targets together" : "until the palette is infeasible";
  const list = [
    figure("kl", "KL to the base model", none ? "none" : nats(kl), none ? "" : "nats", none ? "no policy" : interval),
    figure(few ? "ess few" : "ess", "Effective samples", samples, `of ${rows.toLocaleString("en")}`, typical, none ? 0 : ess / rows),
    figure("margin", "Room for all targets", room, "sd", reach),
  ];
  if (start.tuned) {
    const [mean, ...measured] = start.tuned.kl;
    const here = values.every(({ target }, place) => sameTarget(target, start.tuned.targets[place], start.values[place].sd));
    const more = `${measured.map((kl) => kl.toFixed(2)).join(" to ")}, ${here ? "measured" : "for its own targets"}`;
    list.push(figure("tuned", "KL of the trained model", nats(mean), "nats", more));
  }
  return el("dl", { class: "figures" }, ...list);
}

/** Whether two targets, null for a free value, differ by less than a slider shows. */
function sameTarget(one, other, sd) {
  return one === null || other === null ? one === other : Math.abs(one - other) < 0.005 * sd;
}

const nats = (kl) => kl.toFixed(kl < 10 ? 3 : 2);
const range = ([low, high]) => `${low.toFixed(2)} to ${high.toFixed(2)}, 95 %`;

function figure(kind, title, number, unit, more, share = null) {
  const bar = share === null ? null : el("span", { class: "share-bar" }, el("span", {}));
  if (bar) bar.firstChild.style.width = `${100 * share}%`;
  return el(
    "div",
    { class: `figure ${kind}` },
    el("dt", {}, title),
    el("dd", {}, el("strong", {}, number), ` ${unit}`, bar, el("small", {}, more)),
  );
}

export function showTable(solution, bands, start) {
  const { tuned } = start;
  const head = ["value", "base", "target", "predicted", "95 %", "quantile", "lambda", "+0.1 sd costs", "+1 sd moves others, sd"];
  if (tuned) head.splice(5, 0, "trained model");
  const rows = start.values.map((value, place) => {
    const { text, interval } = solution.values[place];
    const band = bands ? bands.levels[place] : interval;
    const around = band ? band.map((level) => levelText(value, level)).join(" to ") : "";
    const cells = [text.base, text.target, text.predicted, around, text.quantile, text.lam, text.price, text.effects];
    const level = tuned && tuned.levels[place];
    if (tuned) cells.splice(4, 0, level ? level.text : "-");
    return el("tr", {}, el("th", { scope: "row" }, value.name), ...cells.map((cell) => el("td", {}, cell)));
  });
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...rows),
  );
  const note = tuned && trainedNote(start);
  $("levels").querySelector(".scroll").replaceChildren(table, ...(note ? [el("p", { class: "quiet" }, note)] : []));
}

function trainedNote({ tuned, values }) {
  const targets = tuned.targets.map((target, place) => [values[place], target]).filter(([, target]) => target !== null);
  const listed = targets.map(([value, target]) => `${value.name} ${levelText(value, target)}`).join(", ");
  return `Trained model: measured on ${tuned.prompts} held-out prompts, for the targets ${listed}.`;
}
