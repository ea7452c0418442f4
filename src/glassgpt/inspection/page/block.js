// One block, and its heads side by side.
import { choices, make } from "./dom.js";
import { drawMatrix } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";

const NAMED_FROM = 0.3;

export const blockPanel = {
  id: "block",
  needs: ["layer", "head"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`, "heads"],
  async draw({ trace, state, words, choose }) {
    const { n_layer: layers, n_head: heads } = trace.overview.model;
    const kinds = await fetchDetail(trace, "heads");
    const weights = await Promise.all(Array.from({ length: heads }, (_, head) => fetchArray(trace, `blocks.${state.layer}.attention.weights`, head)));
    const mask = await fetchArray(trace, `blocks.${state.layer}.attention.mask`);
    const maps = weights.map(({ values, shape: [rows, columns] }, head) => {
      const canvas = make("canvas");
      drawMatrix(canvas, { values, rows, columns, isSeen: (query, key) => mask.values[query * columns + key] > 0 });
      return make("span", { className: "map" }, canvas, make("b", { textContent: `${state.layer}.${head}` }), make("small", { textContent: kindOf(kinds, words, state.layer, head) }));
    });
    const blocks = Array.from({ length: layers }, (_, layer) => String(layer));
    return [
      make("div", { className: "row" }, make("span", { textContent: words.block }), choices("layer", words.block, blocks, state.layer, (layer) => choose({ layer }))),
      choices("head", words.head, maps, state.head, (head) => choose({ head })),
    ];
  },
};

function kindOf(kinds, words, layer, head) {
  const scores = Object.entries(kinds).map(([kind, all]) => [kind, all[layer][head] ?? 0]);
  const [kind, score] = scores.reduce((best, each) => (each[1] > best[1] ? each : best));
  return score >= NAMED_FROM ? `${words.kinds[kind]} ${score.toFixed(2)}` : "\u00a0";
}
