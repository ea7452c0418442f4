// The form of a pane's settings, built from the server's own description of its API, openapi.json.
import { make, select } from "./dom.js";

// Fields that the page fills in itself.
const OWN = new Set(["model", "prompt", "media", "suffix", "messages", "stream", "stream_options", "echo", "logprobs", "top_logprobs", "prompt_logprobs", "explain", "n", "seed", "response_format", "max_completion_tokens"]);
export const FIRST_GROUP = "Sampling";

// [name, property] of each setting, by group, the most used group first.
export function settingsByGroup(schema) {
  const groups = new Map([[FIRST_GROUP, []]]);
  for (const [name, property] of Object.entries(schema.properties)) {
    if (OWN.has(name)) continue;
    const group = property["x-group"] ?? "";
    groups.set(group, [...(groups.get(group) ?? []), [name, property]]);
  }
  return groups;
}

// How a value is entered: "choice", "yes or no", "number", "lines", "numbers", "text", or "json" for everything else.
export function kindOf({ anyOf }) {
  const options = anyOf.filter(({ type }) => type !== "null");
  const has = (type) => options.some((option) => option.type === type);
  const items = options.find(({ type }) => type === "array")?.items?.type;
  if (options[0].enum) return "choice";
  if (has("boolean")) return "yes or no";
  if (has("integer") || has("number")) return "number";
  if (has("object")) return "json";
  if (items === "string") return "lines";
  if (items === "integer") return "numbers";
  return has("string") ? "text" : "json";
}

// By kind: text of a value, and value of a text. A text that cannot be read throws.
const KINDS = {
  choice: [String, String],
  number: [String, Number],
  text: [String, String],
  lines: [(value) => [value].flat().join("\n"), (text) => text.split("\n").filter(Boolean)],
  numbers: [(value) => value.join(", "), (text) => text.split(/[\s,]+/).filter(Boolean).map(integer)],
  json: [(value) => (typeof value === "string" ? value : JSON.stringify(value)), JSON.parse],
};

function integer(text) {
  if (!/^-?[0-9]+$/.test(text)) throw new SyntaxError(text);
  return Number(text);
}

// Return the form. `pane.settings` holds what differs from the server's defaults; `pane.invalid` names what cannot be read.
export function settingsForm(id, words, schema, pane, changed) {
  const groups = [...settingsByGroup(schema)].map(([group, fields]) =>
    make("details", { open: group === FIRST_GROUP }, make("summary", { textContent: words.groups[group] ?? group }),
      make("div", { className: "settings" }, ...fields.map(([name, property]) => field(id, name, property, words, pane, changed)))));
  return make("div", {}, ...groups);
}

function field(id, name, property, words, pane, changed) {
  const kind = kindOf(property);
  const [textOf, valueOf] = KINDS[kind] ?? [];
  const help = `${id}-${name}-help`;
  const label = make("label", {}, make("code", { textContent: name }));
  const set = (value) => {
    if (value === undefined) delete pane.settings[name];
    else pane.settings[name] = value;
    mark();
    changed();
  };
  const mark = () => label.classList.toggle("changed", name in pane.settings);
  const read = (input) => {
    pane.invalid.delete(name);
    let value;
    try {
      if (input.validity.badInput) throw new SyntaxError();
      value = input.value === "" ? undefined : valueOf(input.value);
    } catch {
      pane.invalid.add(name);
    }
    input.setAttribute("aria-invalid", String(pane.invalid.has(name)));
    set(value);
  };
  label.append(entry(), make("small", { id: help, textContent: words.settings[name] ?? property.description }));
  mark();
  return label;

  function entry() {
    const common = { id: `${id}-${name}`, "aria-label": name, "aria-describedby": help };
    if (kind === "yes or no") {
      const box = make("input", { type: "checkbox", ...common, checked: pane.settings[name] ?? property.default ?? false });
      box.onchange = () => set(box.checked === (property.default ?? false) ? undefined : box.checked);
      return box;
    }
    const value = name in pane.settings ? textOf(pane.settings[name]) : "";
    const placeholder = property.default === undefined ? "" : textOf(property.default);
    if (kind === "choice") {
      const options = property.anyOf[0].enum.map((each) => [each, each]);
      const choice = select(common.id, name, options, value || placeholder, (chosen) => set(chosen === property.default ? undefined : chosen));
      choice.setAttribute("aria-describedby", help);
      return choice;
    }
    const input = kind === "number" ? numberInput(property, common) : make(kind === "text" ? "input" : "textarea", { ...common, ...(kind === "text" ? { type: "text" } : { rows: 1 }) });
    Object.assign(input, { placeholder: placeholder === "[]" || placeholder === "{}" ? "" : placeholder, value, spellcheck: false });
    input.oninput = () => read(input);
    return input;
  }
}

function numberInput({ anyOf }, common) {
  const { type, minimum, exclusiveMinimum, maximum } = anyOf.find((option) => option.type === "integer" || option.type === "number");
  const input = make("input", { type: "number", step: type === "integer" ? 1 : "any", ...common });
  if (minimum !== undefined || exclusiveMinimum !== undefined) input.min = minimum ?? exclusiveMinimum;
  if (maximum !== undefined) input.max = maximum;
  return input;
}
