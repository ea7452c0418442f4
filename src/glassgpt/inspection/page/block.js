// One block, and its heads side by side.
import { isDark } from "./colour.js";
import { choices, make, note, row } from "./dom.js";
import { drawMatrix, isSeenBy } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";

const NAMED_FROM = 0.3;

export const blockPanel = {
  id: "block",
  needs: ["layer", "head"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`, "heads"],
  async draw(view) {
    const { trace, state, words, choose } = view;
    const sides = await Promise.all(besideEachOther(view).map((each) => side(each, words, state.layer)));
    const maps = Array.from({ length: trace.overview.model.n_head }, (_, head) => map(sides, state.layer, head));
    const blocks = Array.from({ length: trace.overview.model.n_layer }, (_, layer) => String(layer));
    return [
      row(make("span", { textContent: words.block }), choices("layer", words.block, blocks, state.layer, (layer) => choose({ layer }))),
      note(words.axesHint, ...(sides.length > 1 ? [make("br"), words.leftAndRight(view.name, view.baseName)] : [])),
      make("div", { className: sides.length > 1 ? "maps two" : "maps" }, choices("head", words.head, maps, state.head, (head) => choose({ head }))),
    ];
  },
};

function besideEachOther({ trace, base, state }) {
  return base && base.overview.model.n_layer > state.layer ? [trace, base] : [trace];
}

async function side(trace, words, layer) {
  const [canvases, kinds] = await Promise.all([pictures(trace, layer), fetchDetail(trace, "heads")]);
  return { canvases, told: canvases.map((_, head) => kindOf(kinds, words, layer, head)) };
}

// A head's picture, with the other run's where that has such a head.
function map(sides, layer, head) {
  const those = sides.filter(({ canvases }) => canvases[head]);
  return make("span", { className: "map" },
    make("span", { className: "pair" }, ...those.map(({ canvases }) => canvases[head])), make("b", { textContent: `${layer}.${head}` }),
    ...those.map(({ told }) => make("small", { textContent: told[head] })));
}

const last = new Map(); // the pictures of a block, which stay when another of its heads is chosen; of two runs at most

async function pictures(trace, layer) {
  const key = [trace.id, layer, isDark()].join("/");
  const found = last.get(key) ?? (await drawn(trace, layer));
  last.delete(key);
  last.set(key, found);
  if (last.size > 2) last.delete(last.keys().next().value);
  return found;
}

async function drawn(trace, layer) {
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
  return score >= NAMED_FROM ? `${words.kinds[kind]} ${score.toFixed(2)}` : "\u00a0";
}
