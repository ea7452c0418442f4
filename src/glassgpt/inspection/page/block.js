// The attention maps of all heads of a block.
import { isDark } from "./color.js";
import { choices, make, note, row } from "./dom.js";
import { drawMatrix, isSeenBy } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";

const MIN_SCORE = 0.3; // of a pattern that a head is named after

export const blockPanel = {
  id: "block",
  needs: ["layer", "head"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`, "heads"],
  async draw(view) {
    const { trace, state, words, choose } = view;
    const sides = await Promise.all(comparedTraces(view).map((each) => side(each, words, state.layer)));
    const maps = Array.from({ length: trace.overview.model.n_head }, (_, head) => map(sides, state.layer, head));
    const blocks = Array.from({ length: trace.overview.model.n_layer }, (_, layer) => String(layer));
    return [
      row(make("span", { textContent: words.block }), choices("layer", words.block, blocks, state.layer, (layer) => choose({ layer }))),
      note(words.axesHint, ...(sides.length > 1 ? [make("br"), words.leftAndRight(view.name, view.baseName)] : [])),
      make("div", { className: sides.length > 1 ? "maps two" : "maps" }, choices("head", words.head, maps, state.head, (head) => choose({ head }))),
    ];
  },
};

function comparedTraces({ trace, base, state }) {
  return base && base.overview.model.n_layer > state.layer ? [trace, base] : [trace];
}

async function side(trace, words, layer) {
  const [canvases, kinds] = await Promise.all([attentionMaps(trace, layer), fetchDetail(trace, "heads")]);
  return { canvases, labels: canvases.map((_, head) => kindOf(kinds, words, layer, head)) };
}

// The attention map of a head, and that of the same head in the other run if it exists.
function map(sides, layer, head) {
  const shown = sides.filter(({ canvases }) => canvases[head]);
  return make("span", { className: "map" },
    make("span", { className: "pair" }, ...shown.map(({ canvases }) => canvases[head])), make("b", { textContent: `${layer}.${head}` }),
    ...shown.map(({ labels }) => make("small", { textContent: labels[head] })));
}

const cachedMaps = new Map(); // attention maps of a block, kept while its heads are selected; of at most two runs

async function attentionMaps(trace, layer) {
  const key = [trace.id, layer, isDark()].join("/");
  const found = cachedMaps.get(key) ?? (await drawMaps(trace, layer));
  cachedMaps.delete(key);
  cachedMaps.set(key, found);
  if (cachedMaps.size > 2) cachedMaps.delete(cachedMaps.keys().next().value);
  return found;
}

async function drawMaps(trace, layer) {
  const at = `blocks.${layer}.attention`;
  const heads = Array.from({ length: trace.overview.model.n_head }, (_, head) => fetchArray(trace, `${at}.weights`, head));
  const [mask, ...weights] = await Promise.all([fetchArray(trace, `${at}.mask`), ...heads]);
  return weights.map(({ values, shape: [rows, columns] }) => {
    const canvas = make("canvas");
    drawMatrix(canvas, { values, rows, columns, isSeen: isSeenBy({ mask }) });
    return canvas;
  });
}

function kindOf(kinds, words, layer, head) {
  const scores = Object.entries(kinds).map(([kind, all]) => [kind, all[layer][head] ?? 0]);
  const [kind, score] = scores.reduce((best, each) => (each[1] > best[1] ? each : best));
  return score >= MIN_SCORE ? `${words.kinds[kind]} ${score.toFixed(2)}` : "\u00a0";
}
