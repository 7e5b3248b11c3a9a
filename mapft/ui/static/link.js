// The state of the page in its address, after the #, which a browser does not send to the server.

const UNITS = ["quantile", "sd", "absolute"];

export function encode(state) {
  const query = new URLSearchParams({ unit: state.unit });
  for (const position of state.positions) query.append("t", position === null ? "" : String(position));
  query.set("pair", state.pair.join("-"));
  if (state.prompt !== null) query.set("prompt", String(state.prompt));
  if (state.measured) query.set("answers", "measured");
  return `#${query}`;
}

/** Changes of the state that an address asks for; null where it is not one of a palette of these values. */
export function decode(hash, values) {
  const query = new URLSearchParams(hash.slice(1));
  const positions = query.getAll("t").map((text) => (text === "" ? null : Number(text)));
  const pair = (query.get("pair") || "").split("-").map(Number);
  const valid =
    UNITS.includes(query.get("unit")) &&
    positions.length === values &&
    positions.every((position) => position === null || Number.isFinite(position)) &&
    pair.length === 2 &&
    pair.every((place) => Number.isInteger(place) && place >= 0 && place < values);
  if (!valid) return null;
  const prompt = query.has("prompt") ? Number(query.get("prompt")) : null;
  const measured = query.get("answers") === "measured";
  return { unit: query.get("unit"), positions, pair, prompt: Number.isInteger(prompt) ? prompt : null, measured };
}
