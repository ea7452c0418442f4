// Norms of the residual stream, and of what each part of each block adds to it.
import { figure, make, note, table } from "./dom.js";
import { largestOf, matrix } from "./matrix.js";
import { fetchDetail } from "./source.js";
import { pieceOf, quoted } from "./token.js";

export const streamPanel = {
  id: "stream",
  needs: ["position", "layer"],
  figures: ({ state }) => ["stream", `blocks.${state.layer}.middle`, `blocks.${state.layer}.output`],
  async draw(view) {
    const { trace, base, baseName, state, words, choose } = view;
    const { norms, attention, mlp } = await fetchDetail(trace, "stream");
    const other = isComparable(view) ? { name: baseName, norms: (await fetchDetail(base, "stream")).norms } : null;
    const values = norms.flat();
    const [rows, columns] = [norms.length, norms[0].length];
    const tell = (depth, at) => `${after(words, depth)} · ${quoted(pieceOf(trace, at))}: ${figure(norms[depth][at], 3)}`;
    const choosing = (depth, position) => choose({ position, ...(depth ? { layer: depth - 1 } : {}) });
    const shown = { id: "norms", label: words.norms, values, rows, columns, largest: largestOf(values), tell, cell: [state.layer + 1, state.position], choose: choosing, height: Math.max(80, 18 * rows), names: norms.map((_, depth) => after(words, depth)) };
    return [matrix(shown), note(`${words.token} ${state.position} ${quoted(pieceOf(trace, state.position))}`), lengths({ norms, attention, mlp, other }, state, words)];
  },
};

// Whether the other trace has the same tokens and blocks, so that values can be compared one by one.
export function isComparable({ trace, base }) {
  return base && base.overview.tokens.length === trace.overview.tokens.length && base.overview.model.n_layer === trace.overview.model.n_layer;
}

export function after(words, depth) {
  return depth ? `${words.block} ${depth - 1}` : words.embedding;
}

// Bars for one token, from the embedding to the last block.
function lengths({ norms, attention, mlp, other }, { position }, words) {
  const largest = Math.max(...[...norms, ...attention, ...mlp, ...(other?.norms ?? [])].map((each) => each[position]));
  const bar = (value, kind) => make("td", { className: `bar ${kind}`, style: { "--share": `${(100 * value) / largest}%` }, textContent: figure(value, 2) });
  const rows = norms.map((each, depth) => [
    after(words, depth), ...(depth ? [bar(attention[depth - 1][position], "attention"), bar(mlp[depth - 1][position], "mlp")] : ["", ""]), bar(each[position], "norm"),
    ...(other ? [bar(other.norms[depth][position], "norm")] : []),
  ]);
  const heading = [words.after, words.attentionAdds, words.mlpAdds, words.length, ...(other ? [`${words.length}: ${other.name}`] : [])];
  return make("div", { id: "lengths" }, table(heading, rows));
}
