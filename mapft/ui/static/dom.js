// Elements and requests. Texts become text nodes only, so nothing in a file can become markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

/** The answer of the server to one request; an Error with its sentence where it refuses. */
export async function post(name, content) {
  const response = await fetch(`/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  if (!(response.headers.get("Content-Type") || "").startsWith("application/json")) {
    throw new Error(await response.text());
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** `work` as a function that never runs twice at a time; calls meanwhile lead to one more run, after it. */
export function latest(work) {
  let running = false;
  let again = false;
  return async function run() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      do {
        again = false;
        await work();
      } while (again);
    } finally {
      running = false;
    }
  };
}

/** `work`, `wait` milliseconds after the last call. */
export function idle(work, wait) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, wait);
  };
}

/** Radio buttons in a fieldset. */
export function radios(fieldset, name, choices, chosen, changed) {
  for (const [value, label] of choices) {
    const input = el("input", { type: "radio", name, value, onchange: () => changed(value) });
    input.checked = value === chosen;
    fieldset.append(el("label", {}, input, el("span", {}, label)));
  }
}
