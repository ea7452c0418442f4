// One block, and its heads side by side.
import { isDark } from "./colour.js";
import { choices, make, row } from "./dom.js";
import { drawMatrix } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";

const NAMED_FROM = 0.3;

export const blockPanel = {
  id: "block",
  needs: ["layer", "head"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`, "heads"],
  async draw({ trace, state, words, choose }) {
    const kinds = await fetchDetail(trace, "heads");
    const maps = (await pictures(trace, state.layer)).map((canvas, head) =>
      make("span", { className: "map" }, canvas, make("b", { textContent: `${state.layer}.${head}` }), make("small", { textContent: kindOf(kinds, words, state.layer, head) })));
    const blocks = Array.from({ length: trace.overview.model.n_layer }, (_, layer) => String(layer));
    return [
      row(make("span", { textContent: words.block }), choices("layer", words.block, blocks, state.layer, (layer) => choose({ layer }))),
      choices("head", words.head, maps, state.head, (head) => choose({ head })),
    ];
  },
};

const last = { key: "", canvases: [] }; // the pictures of one block, which stay when another of its heads is chosen

async function pictures(trace, layer) {
  const key = [trace.id, layer, isDark()].join("/");
  if (last.key !== key) Object.assign(last, { key, canvases: await drawn(trace, layer) });
  return last.canvases;
}

async function drawn(trace, layer) {
  const at = `blocks.${layer}.attention`;
  const heads = Array.from({ length: trace.overview.model.n_head }, (_, head) => fetchArray(trace, `${at}.weights`, head));
  const [mask, ...weights] = await Promise.all([fetchArray(trace, `${at}.mask`), ...heads]);
  return weights.map(({ values, shape: [rows, columns] }) => {
    const canvas = make("canvas");
    drawMatrix(canvas, { values, rows, columns, isSeen: (query, key) => mask.values[query * columns + key] > 0 });
    return canvas;
  });
}

function kindOf(kinds, words, layer, head) {
  const scores = Object.entries(kinds).map(([kind, all]) => [kind, all[layer][head] ?? 0]);
  const [kind, score] = scores.reduce((best, each) => (each[1] > best[1] ? each : best));
  return score >= NAMED_FROM ? `${words.kinds[kind]} ${score.toFixed(2)}` : "\u00a0";
}
