// Token and position embeddings as images; the nearest tokens.
import { barCell, figure, lengthsOf, make, note, table } from "./dom.js";
import { largestOf, matrix } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";
import { piece, pieceOf, quoted, stepper } from "./token.js";

const HEIGHT = [120, 12]; // minimum height of an image, and of a row, in pixels

export const embeddingsPanel = {
  id: "embeddings",
  needs: ["position", "key", "channel", "layer"],
  figures: (view) => [...stripes(view.trace), "nearest"],
  async draw(view) {
    const { trace, state, words } = view;
    const sides = otherTrace(view) ? [{ trace, name: view.name, suffix: "" }, { trace: otherTrace(view), name: view.baseName, suffix: "-other" }] : [{ trace, suffix: "" }];
    const strips = await Promise.all(stripes(trace).flatMap((name) => sides.filter((side) => stripes(side.trace).includes(name)).map((side) => strip(view, name, side))));
    const [alike, ...near] = await Promise.all([cosines(view), ...sides.map(async (side) => nearestTokens(view, await fetchDetail(side.trace, "nearest", { position: state.position }), side))]);
    return [make("div", { className: "grid wide" }, ...strips), make("div", { className: "grid" }, ...near, make("div", {}, make("h3", { textContent: words.alike }), note(words.otherHint), stepper(view, "other", "key", trace.overview.tokens.length, `${state.key} ${quoted(pieceOf(trace, state.key))}`), alike))];
  },
};

// The other run, if its tokens are the same; interventions leave embeddings as they are.
function otherTrace({ trace, base, undisturbed }) {
  const isComparable = base && base !== undisturbed && base.overview.tokenizer === trace.overview.tokenizer && base.overview.tokens.length === trace.overview.tokens.length;
  return isComparable ? base : null;
}

function stripes(trace) {
  const names = trace.overview.tensors.map(({ name }) => name);
  return ["embedding.token", "embedding.position", "rotary.cos", "embedding"].filter((name) => names.includes(name));
}

async function strip({ state, words, choose }, name, { trace, name: run, suffix }) {
  const { values, shape: [rows, columns] } = await fetchArray(trace, name);
  const channel = Math.min(state.channel, columns - 1);
  const tell = (at, column) => `${quoted(pieceOf(trace, at))} · ${words.channel} ${column} = ${figure(values[at * columns + column])}`;
  const shown = {
    id: `strip-${name.replace(".", "-")}${suffix}`, label: name, values, rows, columns, kind: "signed", largest: largestOf(values), tell,
    cell: [state.position, channel], choose: (position, column) => choose({ position, channel: column }), height: Math.max(HEIGHT[0], Math.min(240, HEIGHT[1] * rows)),
  };
  return make("figure", {}, make("figcaption", {}, make("b", { textContent: titled(words.strips[name], run) }), make("span", { className: "lengths", textContent: lengthsOf(trace.overview.tensors.find((tensor) => tensor.name === name), words) })), matrix(shown));
}

function titled(title, run) {
  return run ? `${title} · ${run}` : title;
}

function nearestTokens({ trace, state, words }, { tokens }, { name, suffix }) {
  const rows = tokens.map(({ piece: text, id, cosine }) => [piece(text), String(id), barCell(figure(cosine), cosine)]);
  return make("div", { id: `nearest${suffix}` }, make("h3", { textContent: titled(`${words.nearestTo} ${quoted(pieceOf(trace, state.position))}`, name) }), table([words.piece, "id", words.cosine], rows));
}

// Cosine similarity of the two selected tokens: as embeddings, and after the open block.
async function cosines({ trace, state, words }) {
  const known = trace.overview.tensors.map(({ name }) => name);
  const names = ["embedding.token", "embedding", `blocks.${state.layer}.output`].filter((name) => known.includes(name)); // Llama adds no positions
  const rows = await Promise.all(names.map(async (name) => {
    const [one, other] = await Promise.all([state.position, state.key].map((at) => fetchArray(trace, name, at)));
    const value = cosine(one.values, other.values);
    return [make("code", { textContent: name }), barCell(figure(value), value)];
  }));
  const pair = [state.position, state.key].map((at) => quoted(pieceOf(trace, at)));
  return make("div", { id: "alike" }, table([pair.join(" · "), words.cosine], rows));
}

export function dot(one, other) {
  return one.reduce((sum, value, at) => sum + value * other[at], 0);
}

function cosine(one, other) {
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}
