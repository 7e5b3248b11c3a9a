// Prompts with search, and the answers to one: base model against p_lam, or against the trained model.

import { $, el } from "./dom.js";

export function showPrompts({ prompts, count }, chosen, choose) {
  $("found").textContent = count > prompts.length ? `${prompts.length} of ${count} prompts` : `${count} prompts`;
  $("prompts").replaceChildren(
    ...prompts.map(({ id, text }) =>
      el("li", {}, el("button", { type: "button", "aria-pressed": String(id === chosen), onclick: () => choose(id) }, text || `prompt ${id}`)),
    ),
  );
}

export function showAnswers(content, values) {
  const parts = [el("p", { class: "prompt" }, content.prompt)];
  if (content.tuned) {
    parts.push(el("div", { class: "two" }, column("Base model", content.base, values), column("Trained model", content.tuned, values)));
  } else if (content.answers.length) {
    const base = percent(content.base);
    parts.push(
      el(
        "p",
        { class: "quiet" },
        `${content.answers.length} answers of the base model, each with probability ${base} under it (`,
        el("span", { class: "swatch tick" }),
        "). The bar is the probability under the aligned policy p_lambda, among these answers.",
      ),
      el("ol", { class: "answers" }, ...content.answers.map((answer) => weighed(answer, content.base, values))),
    );
  } else {
    parts.push(el("p", { class: "quiet" }, "An infeasible palette has no probabilities."));
  }
  $("answers").replaceChildren(...parts);
}

function weighed({ text, probability, scores }, base, values) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { class: "filled" }), el("span", { class: "tick" }));
  bar.children[0].style.width = `${100 * probability}%`;
  bar.children[1].style.left = `${100 * base}%`;
  const kind = probability > 1.5 * base ? "up" : probability < base / 1.5 ? "down" : "";
  return el("li", { class: kind }, bar, el("strong", {}, percent(probability)), el("div", {}, el("p", {}, text.trimStart()), chips(scores, values)));
}

function column(title, answers, values) {
  const items = answers.map(({ text, scores }) => el("li", {}, el("p", {}, text.trimStart()), chips(scores, values)));
  return el("div", {}, el("h3", {}, title), el("ul", { class: "answers plain" }, ...items));
}

const chips = (scores, values) =>
  el("p", { class: "chips" }, ...scores.map((score, place) => el("span", {}, `${values[place].name} ${score}`)));

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
