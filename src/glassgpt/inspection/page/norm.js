// The normalizations of a block: a token's vector before, its mean and scale, gain and bias, and the vector after.
import { figure, make, note } from "./dom.js";
import { largestOf, matrix } from "./matrix.js";
import { fetchArray, fetchDetail, unlessLeftOut } from "./source.js";
import { pieceOf, quoted } from "./token.js";

const STRIP = 22; // height of a row, in pixels

export const normPanel = {
  id: "norm",
  needs: ["layer", "position", "channel"],
  figures: ({ state }) => [`blocks.${state.layer}.norm1`, `blocks.${state.layer}.middle`, `blocks.${state.layer}.norm2`, "norms"],
  async draw(view) {
    const { trace, state, words } = view;
    const where = note(`${words.block} ${state.layer} · ${words.token} ${state.position} ${quoted(pieceOf(trace, state.position))}`);
    const { norms } = await fetchDetail(trace, "norms", { layer: state.layer });
    const pictures = await Promise.all(norms.map((norm, at) => picture(view, norm, at).catch(unlessLeftOut(note(words.notSaved)))));
    return [where, make("div", { className: "grid wide" }, ...pictures)];
  },
};

// The name of the residual stream before a block.
export function inputOf(layer) {
  return layer ? `blocks.${layer - 1}.output` : "embedding";
}

async function picture(view, norm, at) {
  const { trace, state, words } = view;
  const { layer, position } = state;
  const [before, after] = await Promise.all([[inputOf(layer), `blocks.${layer}.middle`][at], `blocks.${layer}.norm${at + 1}`].map((name) => fetchArray(trace, name, position)));
  const [mean, scale] = [norm.mean?.[position] ?? null, norm.scale[position]];
  const parts = { [words.norm.before]: before.values, [words.norm.gain]: norm.gain, [words.norm.bias]: norm.bias, [words.norm.after]: after.values };
  const names = Object.keys(parts).filter((name) => parts[name]);
  const id = `norm-${at + 1}`;
  const shown = strips(view, id, words.norm.titles[at], names, names.map((name) => parts[name]));
  const channel = shown.cell[1];
  const centered = mean === null ? figure(before.values[channel]) : `(${figure(before.values[channel])} − ${figure(mean)})`;
  const product = `${centered} / ${figure(scale)}${norm.gain ? ` · ${figure(norm.gain[channel])}` : ""}${norm.bias ? ` + ${figure(norm.bias[channel])}` : ""}`;
  const statistics = `${mean === null ? "" : `${words.norm.mean} ${figure(mean)} · `}${mean === null ? "√(x² + ε)" : "√(var + ε)"} = ${figure(scale)}`;
  const lines = [statistics, product, `= ${figure(after.values[channel])}`].map((textContent) => make("span", { textContent }));
  return make("figure", {}, make("figcaption", {}, make("b", { textContent: words.norm.titles[at] }), make("span", { className: "formula", textContent: formulaOf(norm) })), matrix(shown), make("p", { className: "filled", id: `${id}-line` }, ...lines));
}

function formulaOf({ mean, gain, bias }) {
  return `y = ${mean ? "(x − mean) / √(var + ε)" : "x / √(mean x² + ε)"}${gain ? " · gain" : ""}${bias ? " + bias" : ""}`;
}

// Properties of a picture of vectors below each other, one column per channel.
export function strips({ state, choose, words }, id, label, names, lines) {
  const columns = lines[0].length;
  const values = Float32Array.from(lines.flatMap((line) => [...line]));
  const tell = (at, column) => `${names[at]} · ${words.channel} ${column} = ${figure(values[at * columns + column])}`;
  const cell = [lines.length - 1, Math.min(state.channel, columns - 1)];
  return { id, label, values, rows: lines.length, columns, names, tell, cell, kind: "signed", largest: largestOf(values), height: STRIP * lines.length, choose: (_, channel) => choose({ channel }) };
}
