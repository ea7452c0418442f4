// One head in detail: scores, mask, softmax, mixed values, each with its formula and the values of the selected cell.
import { barCell, figure, make, note, percent, row, table } from "./dom.js";
import { dot } from "./embeddings.js";
import { isSeenBy, largestOf, matrix } from "./matrix.js";
import { fetchArray, unlessLeftOut } from "./source.js";
import { piece, pieceOf, quoted, stepper } from "./token.js";

const TERMS = 3; // terms of a sum that are written out
const MOST_IN_A_ROW = 64; // tokens, for four images side by side
const LOOKS = 6; // keys listed for a query
const SHOWN_TEXT = 24; // characters of the text that a patch comes from

export const headPanel = {
  id: "head",
  needs: ["layer", "head", "position", "key", "channel"],
  figures: ({ state }) => ["q", "k", "scores", "mask", "weights", "v", "mixed"].map((part) => `blocks.${state.layer}.attention.${part}`),
  async draw(view) {
    const { trace, base, state, words } = view;
    const parts = await headOf(trace, state);
    const other = base && base.overview.model.n_head > state.head && base.overview.model.n_layer > state.layer ? await headOf(base, state) : null;
    const before = parts.scores ? [scoresOf(view, parts), maskOf(view, parts)] : [note(words.notSaved)];
    const pictures = [...before, weightsOf(view, parts), mixedOf(view, parts), ...(other ? comparedWith(view, parts, other) : [])];
    const step = (name, id) => stepper(view, id, name, parts.length, `${state[name]} ${quoted(pieceOf(trace, state[name]))}`);
    const cell = row(make("b", { textContent: `${words.head} ${state.layer}.${state.head}` }), step("position", "query"), "→", step("key", "seen"));
    return [cell, note(words.axesHint), make("div", { className: parts.length > MOST_IN_A_ROW ? "grid two" : "grid" }, ...pictures, looks(view, parts))];
  },
};

// The activations of one head; several query heads may share keys and values.
export async function headOf(trace, { layer, head }) {
  const { n_head: heads, kv_heads: shared } = trace.overview.model;
  const at = (part, number) => fetchArray(trace, `blocks.${layer}.attention.${part}`, number);
  const kv = Math.floor(head / (heads / shared));
  const [scores, weights, mixed, q, k, v, mask] = await Promise.all([
    at("scores", head).catch(unlessLeftOut(null)), at("weights", head), at("mixed", head), at("q", head), at("k", kv), at("v", kv), fetchArray(trace, `blocks.${layer}.attention.mask`),
  ]);
  return { scores, weights, mixed, q, k, v, mask, length: weights.shape[0], width: q.shape[1] };
}

export function rowOf({ values, shape: [, width] }, at) {
  return values.subarray(at * width, (at + 1) * width);
}

function picture(title, formula, shown, id, filled) {
  const lines = filled.map((line) => make("span", { textContent: line }));
  return make("figure", {}, make("figcaption", {}, make("b", { textContent: title }), make("span", { className: "formula", textContent: formula })), matrix(shown), make("p", { className: "filled", id }, ...lines));
}

// Properties shared by all query × key images.
export function square({ trace, state, choose }, id, label, values, length) {
  const tell = (query, key) => `${quoted(pieceOf(trace, query))} → ${quoted(pieceOf(trace, key))} ${figure(values[query * length + key])}`;
  const names = trace.overview.tokens.map(({ piece: text }) => text);
  return { id, label, values, rows: length, columns: length, cell: [state.position, state.key], tell, names, columnNames: names, choose: (position, key) => choose({ position, key }) };
}

function cellOf({ values, shape: [, columns] }, { position, key }) {
  return values[position * columns + key];
}

function scoresOf(view, parts) {
  const { state, words } = view;
  const root = Math.sqrt(parts.width);
  const product = dot(rowOf(parts.q, state.position), rowOf(parts.k, state.key));
  const { values } = parts.scores;
  const shown = { ...square(view, "scores", words.scores, values, parts.length), kind: "signed", largest: largestOf(values) };
  return picture(`1 · ${words.scores}`, "sᵢⱼ = qᵢ · kⱼ / √D", shown, "score", [`q${sub(state.position)} · k${sub(state.key)} / √${parts.width}`, `= ${figure(product)} / ${figure(root)}`, `= ${figure(cellOf(parts.scores, state))}`]);
}

function maskOf(view, parts) {
  const { state, words } = view;
  const isSeen = isSeenBy(parts);
  const { values } = parts.scores;
  const shown = { ...square(view, "masked", words.mask, values, parts.length), kind: "signed", largest: largestOf(values), isSeen };
  const seen = isSeen(state.position, state.key);
  const lines = seen ? [`${state.key} ≤ ${state.position}: ${words.seen}`, `s = ${figure(cellOf(parts.scores, state))}`] : [state.key > state.position ? `${state.key} > ${state.position}: ${words.unseen}` : words.outside, "s = −∞"];
  return picture(`2 · ${words.mask}`, maskFormula(parts), shown, "mask", lines);
}

// Includes the size of a sliding window, found from the last query.
export function maskFormula({ mask, length }) {
  const window = rowOf(mask, length - 1).reduce((count, seen) => count + (seen > 0 ? 1 : 0), 0);
  return window < length ? `sᵢⱼ = −∞, j > i, j ≤ i − ${window}` : "sᵢⱼ = −∞, j > i";
}

function weightsOf(view, parts) {
  const { state, words } = view;
  const isSeen = isSeenBy(parts);
  const shown = { ...square(view, "weights", words.weights, parts.weights.values, parts.length), isSeen };
  const lines = parts.scores ? shareOf(parts, state, isSeen) : [];
  return picture(`3 · ${words.weights}`, "aᵢⱼ = exp sᵢⱼ / Σⱼ exp sᵢⱼ", shown, "weight", [...lines, `= ${figure(cellOf(parts.weights, state))}`]);
}

// The exponential of a score, and the sum it is divided by.
function shareOf(parts, state, isSeen) {
  const scores = rowOf(parts.scores, state.position);
  const sum = scores.reduce((total, score, key) => total + (isSeen(state.position, key) ? Math.exp(score) : 0), 0);
  const exponential = isSeen(state.position, state.key) ? Math.exp(scores[state.key]) : 0;
  return [`exp ${exponential ? figure(scores[state.key]) : "−∞"} / Σ`, `= ${short(exponential)} / ${short(sum)}`];
}

function mixedOf({ trace, state, words, choose }, parts) {
  const channel = Math.min(state.channel, parts.width - 1);
  const { values, shape: [rows, columns] } = parts.mixed;
  const tell = (at, column) => `${quoted(pieceOf(trace, at))} · ${words.channel} ${column}: ${figure(values[at * columns + column])}`;
  const shown = {
    id: "mixed", label: words.mixed, values, rows, columns, kind: "signed", largest: largestOf(values), tell, names: [],
    cell: [state.position, channel], choose: (position, column) => choose({ position, channel: column }), height: 240,
  };
  const weights = rowOf(parts.weights, state.position);
  const terms = strongest(weights, TERMS).map((key) => `${figure(weights[key])} · ${figure(parts.v.values[key * columns + channel])}`);
  const sum = `${terms.join(" + ")}${parts.length > TERMS ? " + …" : ""}`;
  const mixed = `z${sub(state.position)}[${channel}]`;
  const lines = [`${mixed} = ${changedMixed(state, sum, mixed)}`, `= ${figure(values[state.position * columns + channel])}`];
  return picture(`4 · ${words.mixed}`, "zᵢ = Σⱼ aᵢⱼ vⱼ", shown, "mix", lines);
}

// The sum after the interventions on this head, in their order: scaled, or replaced by the mixed values of another text.
function changedMixed(state, sum, mixed) {
  let isSum = true;
  return state.interventions.reduce((result, { kind, name, layer, head, positions, scale, text }) => {
    if (kind === "head" && layer === state.layer && head === state.head) {
      const product = `${isSum ? `(${result})` : result} × ${scale ?? 0}`;
      isSum = false;
      return product;
    }
    const isHere = name === `blocks.${state.layer}.attention.mixed` && (head ?? state.head) === state.head && (!positions?.length || positions.includes(state.position));
    if (kind !== "patch" || !isHere) return result;
    isSum = false;
    return `${mixed} ← ${quoted(text.length > SHOWN_TEXT ? `${text.slice(0, SHOWN_TEXT)}…` : text)}`;
  }, sum);
}

function comparedWith(view, parts, other) {
  const { words, baseName } = view;
  const theirs = { ...square(view, "weights-other", baseName, other.weights.values, other.length), isSeen: isSeenBy(other) };
  if (other.length !== parts.length) return [];
  const change = parts.weights.values.map((value, at) => value - other.weights.values[at]);
  const moved = { ...square(view, "weights-change", words.difference, change, parts.length), kind: "signed", largest: largestOf(change), isSeen: isSeenBy(parts) };
  const at = (values) => figure(values[view.state.position * parts.length + view.state.key]);
  return [picture(baseName, words.weights, theirs, "weight-other", [`= ${at(other.weights.values)}`]), picture(words.difference, "a − a′", moved, "weight-change", [`= ${at(change)}`])];
}

function looks({ trace, state, words, choose }, parts) {
  const weights = rowOf(parts.weights, state.position);
  const rows = strongest(weights, LOOKS).filter((key) => weights[key] > 0).map((key) => {
    const name = make("button", { type: "button", className: "link", onclick: () => choose({ key }) }, `${key} `, piece(pieceOf(trace, key)));
    return [name, barCell(percent(weights[key]), weights[key])];
  });
  return make("div", { id: "looks" }, make("h3", { textContent: `${quoted(pieceOf(trace, state.position))} ${words.looksAt}` }), table([words.token, words.weights], rows));
}

export function strongest(values, count) {
  return Array.from(values.keys()).sort((one, other) => values[other] - values[one]).slice(0, count);
}

function short(value) {
  return value >= 1e4 || (value > 0 && value < 1e-3) ? value.toExponential(3) : figure(value, 3);
}

function sub(number) {
  return [...String(number)].map((digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]).join("");
}
