// What is selected on the page. It is kept in the address, so that a view can be shared; the API key never is.
import { initialState, readFragment, writeFragment } from "./fragment.js";

const isText = (value) => typeof value === "string";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isPane = (value) => isObject(value) && (value.model === null || isText(value.model)) && isObject(value.settings);
const oneOf = (...values) => (value) => values.includes(value);

export const FIRST_SETTINGS = { max_tokens: 100, truncate: true };
const firstPane = () => ({ model: null, settings: { ...FIRST_SETTINGS } });

// By name: initial value, and valid values.
const FIELDS = {
  view: [() => "playground", oneOf("playground", "dashboard")],
  mode: [() => "completion", oneOf("completion", "chat")],
  compare: [() => false, oneOf(true, false)],
  seed: [() => "", (value) => isText(value) && /^[0-9]{0,15}$/.test(value)],
  prompt: [() => "", isText],
  panes: [() => [firstPane(), firstPane()], (value) => Array.isArray(value) && value.length === 2 && value.every(isPane)],
  language: [() => (navigator.language.startsWith("ko") ? "ko" : "en"), oneOf("en", "ko")],
  theme: [() => "auto", oneOf("auto", "light", "dark")],
};

export const state = initialState(FIELDS);

// Take over the valid values of the address.
export const readAddress = () => Object.assign(state, readFragment(FIELDS));

export const writeAddress = () => writeFragment(FIELDS, state);
