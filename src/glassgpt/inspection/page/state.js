// The selection, and the address that contains all of it, so that a view can be kept and shared.
const isCount = (value) => Number.isInteger(value) && value >= 0;
const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const orNothing = (fits) => (value) => value === null || fits(value);
const listOf = (fits) => (value) => Array.isArray(value) && value.every(fits);

// By name: initial value, and valid values.
const FIELDS = {
  text: [null, orNothing(isText)],
  written: [[], listOf(isCount)],
  layer: [0, isCount],
  head: [0, isCount],
  position: [null, orNothing(isCount)],
  key: [0, isCount],
  channel: [0, isCount],
  unit: [null, orNothing(isCount)],
  depth: [null, orNothing(isCount)],
  merges: [null, orNothing(isCount)],
  options: [{}, (value) => isObject(value) && Object.values(value).every(Number.isFinite)],
  interventions: [[], listOf(isObject)],
  step: [null, orNothing(isCount)],
  compare: [false, (value) => typeof value === "boolean"],
  language: [navigator.language.startsWith("ko") ? "ko" : "en", (value) => ["en", "ko"].includes(value)],
  theme: ["auto", (value) => ["auto", "light", "dark"].includes(value)],
};

// A change of one of these requires a new trace.
export const REQUEST_FIELDS = ["text", "written", "interventions", "step", "compare"];

export const state = Object.fromEntries(Object.entries(FIELDS).map(([name, [first]]) => [name, first]));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Read the valid values of the address; everything else gets its initial value.
export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(FIELDS).map(([name, [first, fits]]) => {
    const value = name === "text" ? given.get(name) : parsed(given.get(name) ?? "");
    return [name, value !== undefined && value !== null && fits(value) ? value : first];
  }));
}

// Return to the initial text.
export function clearRequest() {
  for (const name of REQUEST_FIELDS) state[name] = FIELDS[name][0];
}

// Keep the current address in the browser history.
export function keepEntry() {
  history.pushState(null, "", location.href);
}

export function writeAddress() {
  const given = new URLSearchParams();
  for (const [name, [first]] of Object.entries(FIELDS)) {
    const value = state[name];
    if (JSON.stringify(value) !== JSON.stringify(first)) given.set(name, name === "text" ? value : JSON.stringify(value));
  }
  history.replaceState(null, "", `${location.pathname}${location.search}#${given}`);
}
