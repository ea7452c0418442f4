// The selection, and the address that contains all of it, so that a view can be kept and shared.
import { initialState, readFragment, writeFragment } from "./fragment.js";

const isCount = (value) => Number.isInteger(value) && value >= 0;
const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const orNothing = (fits) => (value) => value === null || fits(value);
const listOf = (fits) => (value) => Array.isArray(value) && value.every(fits);

// By name: initial value, and valid values.
const FIELDS = {
  text: [() => null, orNothing(isText)],
  written: [() => [], listOf(isCount)],
  layer: [() => null, orNothing(isCount)],
  head: [() => null, orNothing(isCount)],
  together: [() => [], listOf(isCount)], // heads whose lines are drawn besides
  position: [() => null, orNothing(isCount)],
  key: [() => null, orNothing(isCount)],
  channel: [() => 0, isCount],
  unit: [() => null, orNothing(isCount)],
  depth: [() => null, orNothing(isCount)],
  seen: [() => "attention", (value) => ["attention", "lens"].includes(value)], // on pictures and sounds
  merges: [() => null, orNothing(isCount)],
  options: [() => ({}), (value) => isObject(value) && Object.values(value).every(Number.isFinite)],
  interventions: [() => [], listOf(isObject)],
  step: [() => null, orNothing(isCount)],
  open: [() => ["next"], listOf(isText)],
  tour: [() => null, orNothing(isCount)],
  compare: [() => false, (value) => typeof value === "boolean"],
  language: [() => navigator.language.startsWith("ko") ? "ko" : "en", (value) => ["en", "ko"].includes(value)],
  theme: [() => "auto", (value) => ["auto", "light", "dark"].includes(value)],
};

// A change of one of these requires a new trace.
export const REQUEST_FIELDS = ["text", "written", "interventions", "step", "compare"];

export const state = initialState(FIELDS);

export const readAddress = () => readFragment(FIELDS, "text");

export const writeAddress = () => writeFragment(FIELDS, state, "text");

// Return to the initial text.
export function clearRequest() {
  for (const name of REQUEST_FIELDS) state[name] = FIELDS[name][0]();
}

// Keep the current address in the browser history.
export function keepEntry() {
  history.pushState(null, "", location.href);
}
