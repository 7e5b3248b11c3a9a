// The state of the page, the requests that follow a change, and what each answer is shown in.

import { $, el, idle, latest, post, radios } from "./dom.js";
import { decode, encode } from "./link.js";
import { showNearest } from "./nearest.js";
import { Region, hoverText } from "./region.js";
import { showAnswers, showPrompts } from "./samples.js";
import { levelAt, positionOf, rounded } from "./scale.js";
import { Sliders } from "./sliders.js";
import { showError, showTable, showVerdict } from "./verdict.js";

const UNITS = [["quantile", "quantile"], ["sd", "sd"], ["absolute", "score"]];
const start = await post("start", {});
const last = start.values.length - 1;
const fresh = () => ({ ...structuredClone(start.initial), pair: [0, last], prompt: null, measured: false });
let state = decode(location.hash, start.values.length) || fresh();
let shown = { solution: null, limits: null, around: null, bands: null, ghost: null };
let version = 0; // of the palette

const palette = () => ({ unit: state.unit, positions: state.positions, pair: state.pair, name: $("name").value });
const targets = () =>
  state.positions.map((at, place) => (at === null ? null : levelAt(start.values[place], state.unit, at)));
const say = (sentence) => ($("message").textContent = sentence);

const sliders = new Sliders(start, (place, position) => change({ positions: state.positions.with(place, position) }));
const region = new Region(start, moveTwo, hover);

// ------------------------------------------------------------------ changes

function change(changes) {
  state = { ...state, ...changes };
  version += 1;
  shown = { ...shown, bands: null, ghost: null };
  draw();
  solve();
}

function moveTwo(levels, only = null) {
  const positions = [...state.positions];
  state.pair.forEach((place, axis) => {
    if (only !== null && only !== axis) return;
    positions[place] = rounded(state.unit, positionOf(start.values[place], state.unit, levels[axis]));
  });
  change({ positions });
}

function draw() {
  const model = { state, targets: targets(), ...shown };
  sliders.show(model);
  region.show(model);
}

function restore() {
  const asked = decode(location.hash, start.values.length);
  if (!asked) return;
  state = { ...asked };
  follow();
  change({});
}

/** Controls other than sliders and plot take their state. */
function follow() {
  for (const [name, value] of [["unit", state.unit], ["measured", String(state.measured)]]) {
    const input = document.querySelector(`input[name=${name}][value=${value}]`);
    if (input) input.checked = true;
  }
  [$("first").value, $("second").value] = state.pair.map(String);
  searching();
}

const remember = idle(() => history.replaceState(null, "", encode(state)), 200); // browsers limit its rate

// ------------------------------------------------------------------ requests

const solve = latest(async () => {
  const of = version;
  try {
    const solution = await post("solve", palette());
    shown = { ...shown, solution };
    showVerdict(solution, shown.bands, start);
    $("command").textContent = solution.command;
    $("copy-command").disabled = solution.kl === null; // a run would not train this palette
    draw();
    if (of === version) follow_up();
  } catch (error) {
    shown = { ...shown, solution: null, limits: null };
    $("copy-command").disabled = true;
    showError(error.message);
    showNearest(null);
  }
  remember();
});

const limits = latest(async () => {
  const of = version;
  const answer = await post("limits", palette()).catch(() => null);
  if (of !== version || !answer) return;
  shown = { ...shown, limits: answer.limits };
  draw();
});

const answer = latest(async () => {
  if (state.prompt === null) return;
  showAnswers(await post("answers", { ...palette(), prompt: state.prompt, measured: state.measured }), start.values);
});

const search = latest(async () => {
  const found = await post("prompts", { query: $("search").value, measured: state.measured });
  if (state.prompt === null && found.prompts.length) state.prompt = found.prompts[0].id;
  showPrompts(found, state.prompt, (prompt) => {
    state = { ...state, prompt };
    remember();
    searching();
  });
  answer();
});

const searching = () => start.texts && search();

function follow_up() {
  showTable(shown.solution, shown.bands, start);
  limits();
  if (start.texts) answer();
  rest();
}

/** What takes longer, when the palette has come to rest. */
const rest = idle(latest(async () => {
  const of = version;
  const { solution } = shown;
  const ask = async (name) => {
    const answer = of === version ? await post(name, palette()).catch(() => null) : null;
    return of === version ? answer : null;
  };
  const [first, second] = state.pair;
  const around = first === second ? null : await ask("around");
  if (around) {
    shown = { ...shown, around };
    draw();
  }
  if (solution.kl === null || solution.few) {
    const found = await ask("nearest");
    if (found) showNearest(found.nearest, take, preview);
  } else if (of === version) showNearest(null);
  const bands = solution.kl === null ? null : await ask("bands");
  if (!bands) return;
  shown = { ...shown, bands };
  showVerdict(solution, bands, start);
  showTable(solution, bands, start);
  draw();
}), 250);

function preview(ghost) {
  shown = { ...shown, ghost };
  draw();
}

let under = null;
function hover(levels) {
  under = levels;
  $("hover").replaceChildren(levels ? hoverText(pair(), levels) : hint());
  if (levels) cost();
}
const pair = () => state.pair.map((place) => start.values[place]);
const hint = () => el("span", {}, "Click or drag to set both targets; arrow keys move the point. Grey dots are single answers of the base model; with the other values free, lines join levels of equal KL, the bold one of your palette's KL, and the dotted line is the limit; the shaded region keeps the other targets.");
const cost = latest(async () => {
  const levels = under;
  if (!levels) return;
  const { kl } = await post("level", { ...palette(), at: levels }).catch(() => ({ kl: undefined }));
  if (under === levels) $("hover").replaceChildren(hoverText(pair(), levels, kl));
});

// ------------------------------------------------------------------ controls

async function convert(unit) {
  change(await post("convert", { ...palette(), to: unit }));
}

/** Take a palette that may come in another unit. */
function take({ unit, positions }) {
  change({ unit, positions });
  follow();
}

async function attempt(work) {
  try {
    await work();
  } catch (error) {
    say(error.message);
  }
}

function listSaved(names, chosen = null) {
  $("saved").replaceChildren(...names.map((name) => el("option", {}, name)));
  $("saved-group").hidden = names.length === 0;
  if (chosen) $("saved").value = chosen;
}

async function copy(text, what) {
  await navigator.clipboard.writeText(text);
  say(`Copied the ${what}.`);
}

radios($("unit"), "unit", UNITS, state.unit, convert);
for (const [id, axis] of [["first", 0], ["second", 1]]) {
  $(id).append(...start.values.map((value, place) => el("option", { value: String(place) }, value.name)));
  $(id).addEventListener("change", () => change({ pair: state.pair.with(axis, Number($(id).value)) }));
}
if (start.tuned) {
  $("measured").hidden = $("tuned-key").hidden = $("trained").hidden = false;
  radios($("measured"), "measured", [["false", "predicted"], ["true", "trained model"]], String(state.measured), (chosen) => {
    state = { ...state, measured: chosen === "true", prompt: null };
    searching();
  });
  $("trained").addEventListener("click", () => take(structuredClone(start.initial)));
}
$("source").textContent = `${start.rows.toLocaleString("en")} answers to ${start.prompts.toLocaleString("en")} prompts in ${start.source}`;
$("trade-off").hidden = start.values.length < 2;
$("samples").hidden = !start.texts;
$("search").addEventListener("input", idle(searching, 150));
$("name").addEventListener("change", () => change({}));
$("copy-command").addEventListener("click", () => attempt(() => copy($("command").textContent, "command")));
$("copy-link").addEventListener("click", () => attempt(() => copy(location.href, "link")));
$("save").addEventListener("click", () =>
  attempt(async () => {
    const { message, saved } = await post("save", palette());
    listSaved(saved, $("name").value);
    say(message);
  }),
);
$("load").addEventListener("click", () =>
  attempt(async () => {
    $("name").value = $("saved").value;
    take(await post("load", { name: $("saved").value }));
  }),
);
listSaved(start.saved);
addEventListener("hashchange", restore);
hover(null);
follow();
change({});
