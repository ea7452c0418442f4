// The output projection of attention: what each head adds to the residual stream at a token.
import { barCell, button, figure, note, row, table } from "./dom.js";
import { fetchDetail } from "./source.js";
import { piece, pieceOf, quoted } from "./token.js";

export const projectionPanel = {
  id: "projection",
  needs: ["layer", "head", "position"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.mixed`, `blocks.${state.layer}.attention.output`, "projection"],
  async draw({ trace, state, words, choose }) {
    const { layer, position } = state;
    const where = note(`${words.block} ${layer} · ${words.token} ${position} ${quoted(pieceOf(trace, position))}`);
    const { heads, bias, sum } = await fetchDetail(trace, "projection", { layer, position });
    const largest = Math.max(sum, bias ?? 0, ...heads.map(({ norm }) => norm));
    const bar = (norm) => barCell(figure(norm, 3), norm / largest);
    const lines = heads.map(({ norm, cosine, promotes }, head) => {
      const name = button(`${layer}.${head}`, () => choose({ head }), { className: "link", id: `projected-${head}`, "aria-pressed": head === state.head });
      return [name, bar(norm), barCell(figure(cosine, 2), cosine), row(...promotes.map((token) => piece(token.piece)))];
    });
    if (bias !== null) lines.push([words.projection.bias, bar(bias), "", ""]);
    lines.push([words.projection.sum, bar(sum), "", ""]);
    return [where, table([words.head, words.length, words.projection.cosine, words.promotes], lines, { id: "projected" })];
  },
};
