// The residual sum of a block at one token: what comes in, what attention and MLP add, what goes out.
import { barCell, figure, make, note, table } from "./dom.js";
import { matrix } from "./matrix.js";
import { inputOf, strips } from "./norm.js";
import { fetchArray, fetchDetail, unlessLeftOut } from "./source.js";
import { pieceOf, quoted } from "./token.js";

export const sumPanel = {
  id: "sum",
  needs: ["layer", "position", "channel"],
  figures: ({ state }) => ["attention.output", "middle", "mlp.output", "output"].map((part) => `blocks.${state.layer}.${part}`).concat("sums"),
  async draw(view) {
    const { trace, state, words } = view;
    const { layer, position } = state;
    const where = note(`${words.block} ${layer} · ${words.token} ${position} ${quoted(pieceOf(trace, position))}`);
    const found = await fetchDetail(trace, "sums", { layer });
    const norms = found.norms.map((each) => each[position]);
    const [attention, middle, mlp, output] = found.cosines.map((each) => each[position]);
    const largest = Math.max(...norms);
    const cosines = [null, attention, middle, mlp, output];
    const rows = words.sum.parts.map((name, at) => [name, barCell(figure(norms[at], 3), norms[at] / largest), cosines[at] === null ? "" : barCell(figure(cosines[at], 3), cosines[at])]);
    const picture = await channels(view).catch(unlessLeftOut(note(words.notSaved)));
    return [where, make("div", { className: "grid wide" }, make("div", {}, table([words.sum.vector, words.length, words.sum.cosine], rows, { id: "sums" }), note(words.sum.hint)), picture)];
  },
};

async function channels(view) {
  const { trace, state, words } = view;
  const { layer, position } = state;
  const names = [inputOf(layer), ...["attention.output", "middle", "mlp.output", "output"].map((part) => `blocks.${layer}.${part}`)];
  const lines = (await Promise.all(names.map((name) => fetchArray(trace, name, position)))).map(({ values }) => values);
  const shown = strips(view, "sum-strips", words.sum.strips, words.sum.parts, lines);
  const [before, attention, middle, mlp, output] = lines.map((line) => figure(line[shown.cell[1]]));
  const sums = [`${before} + ${attention} = ${middle}`, `${middle} + ${mlp} = ${output}`].map((textContent) => make("span", { textContent }));
  return make("figure", {}, make("figcaption", {}, make("b", { textContent: words.sum.strips }), make("span", { className: "formula", textContent: "x + attention(norm1(x)), x + mlp(norm2(x))" })), matrix(shown), make("p", { className: "filled", id: "sum-line" }, ...sums));
}
