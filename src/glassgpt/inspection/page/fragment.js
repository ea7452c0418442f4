// The state of a page in the fragment of its address, so that a view can be kept and shared.
// A state's fields, by name: a function that returns the initial value, and one that says whether a value is valid.

export const initialState = (fields) => Object.fromEntries(Object.entries(fields).map(([name, [first]]) => [name, first()]));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// Return the valid values in the address; everything else gets its initial value. The field `plain` is text without quotes.
export function readFragment(fields, plain = null) {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(fields).map(([name, [first, fits]]) => {
    const value = name === plain ? given.get(name) : parsed(given.get(name) ?? "");
    return [name, value !== null && fits(value) ? value : first()];
  }));
}

// Write the values that differ from the initial ones.
export function writeFragment(fields, values, plain = null) {
  const given = new URLSearchParams();
  for (const [name, [first]] of Object.entries(fields)) {
    const value = JSON.stringify(values[name]);
    if (value !== JSON.stringify(first())) given.set(name, name === plain ? values[name] : value);
  }
  history.replaceState(null, "", `${location.pathname}${location.search}#${given}`);
}
