// The size of the key-value cache, which grows with each token.
import { bytes, make, note } from "./dom.js";
import { fetchDetail } from "./source.js";
import { pieceOf } from "./token.js";

export const cachePanel = {
  id: "cache",
  needs: ["position"],
  figures: () => ["cache"],
  async draw({ trace, state, words, choose }) {
    const { token, held, full, shape: [layers, heads, length, width], number, dtype } = await fetchDetail(trace, "cache");
    const product = `2 × ${layers} × ${heads} × ${width} × ${number} B (${dtype})`;
    const boxes = trace.overview.tokens.map((_, at) => make("span", {
      className: `box${at >= length - trace.overview.written ? " written" : ""}${at === state.position ? " chosen" : ""}`, title: `${at} “${pieceOf(trace, at)}”: ${bytes(token * (at + 1))}`, onclick: () => choose({ position: at }),
    }));
    const gauge = make("div", { className: "gauge", role: "img", "aria-label": `${bytes(held)} / ${bytes(full)}` }, make("span", { style: { width: `${(100 * held) / full}%` } }));
    return [
      make("p", { className: "big", id: "held" }, make("b", { textContent: bytes(held) }), ` = ${length} × ${bytes(token)}`),
      note(`${words.perToken}: ${product} = ${token.toLocaleString("en")} B`), make("div", { className: "boxes" }, ...boxes), gauge, note(`${words.fullCache}: ${bytes(full)}`),
    ];
  },
};
