// What is selected on the page. It is kept in the address, so that a view can be shared; the API key never is.
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

export const state = Object.fromEntries(Object.entries(FIELDS).map(([name, [first]]) => [name, first()]));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// Take over the valid values of the address.
export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, [first, fits]] of Object.entries(FIELDS)) {
    const value = parsed(given.get(name) ?? "");
    state[name] = value !== undefined && fits(value) ? value : first();
  }
}

export function writeAddress() {
  const given = new URLSearchParams();
  for (const [name, [first]] of Object.entries(FIELDS)) {
    const value = JSON.stringify(state[name]);
    if (value !== JSON.stringify(first())) given.set(name, value);
  }
  history.replaceState(null, "", `${location.pathname}${location.search}#${given}`);
}
