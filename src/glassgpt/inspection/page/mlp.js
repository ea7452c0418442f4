// The hidden units that add most to a token, and the tokens that each promotes.
import { button, figure, make, note, row, table } from "./dom.js";
import { largestOf, matrix } from "./matrix.js";
import { fetchArray, fetchDetail, unlessLeftOut } from "./source.js";
import { isComparable } from "./stream.js";
import { piece, pieceOf, quoted } from "./token.js";

export const mlpPanel = {
  id: "mlp",
  needs: ["layer", "position", "unit"],
  figures: ({ state }) => [`blocks.${state.layer}.mlp.up`, `blocks.${state.layer}.mlp.hidden`, `blocks.${state.layer}.mlp.output`, "units", "unit"],
  async draw(view) {
    const { trace, state, words } = view;
    const where = note(`${words.block} ${state.layer} · ${words.token} ${state.position} ${quoted(pieceOf(trace, state.position))}`);
    const sides = isComparable(view) ? [{ trace, name: view.name, suffix: "" }, { trace: view.base, name: view.baseName, suffix: "-other" }] : [{ trace, suffix: "" }];
    const parts = await Promise.all(sides.flatMap((side) => [strip(view, side), strongest(view, side)].map((part) => part.catch(unlessLeftOut(note(words.notSaved))))));
    return [where, ...parts];
  },
};

async function strip({ state, words, choose }, { trace, name, suffix }) {
  const { values, shape: [units] } = await fetchArray(trace, `blocks.${state.layer}.mlp.hidden`, state.position);
  const largest = largestOf(values);
  const strongest = values.reduce((best, value, at) => (Math.abs(value) > Math.abs(values[best]) ? at : best), 0);
  const active = values.reduce((count, value) => count + (Math.abs(value) > 0.1 * largest ? 1 : 0), 0);
  const tell = (_, unit) => `${words.unit} ${unit} = ${figure(values[unit])}`;
  const shown = { id: `hidden${suffix}`, label: words.hidden, values, rows: 1, columns: units, kind: "signed", largest, tell, cell: [0, chosenOf(trace, state) ?? strongest], choose: (_, unit) => choose({ unit }), height: 44 };
  return make("figure", {}, make("figcaption", {}, make("b", { textContent: name ? `${words.hidden} · ${name}` : words.hidden }), ` ${units} · ${active} ${words.active}`), matrix(shown));
}

function chosenOf(trace, { unit }) {
  const { shape: [, count] } = trace.overview.tensors.find(({ name }) => name === "blocks.0.mlp.hidden");
  return unit === null ? null : Math.min(unit, count - 1);
}

// The strongest units, preceded by the selected one.
async function strongest({ state, words, choose }, { trace, suffix }) {
  const { layer, position } = state;
  const { units } = await fetchDetail(trace, "units", { layer, position });
  const chosen = chosenOf(trace, state);
  const others = chosen === null || units.some(({ unit }) => unit === chosen) ? [] : await unitAlone(trace, { layer, position, unit: chosen });
  const rows = [...others, ...units].map(({ unit, value, length, promotes }) => {
    const name = button(String(unit), () => choose({ unit }), { className: "link", id: `unit-${unit}${suffix}`, "aria-pressed": unit === chosen });
    return [name, figure(value), figure(length), row(...promotes.map((token) => piece(token.piece)))];
  });
  return make("div", { id: `units${suffix}` }, table([words.unit, words.value, words.adds, words.promotes], rows));
}

// A saved page contains only the strongest units.
async function unitAlone(trace, where) {
  return (await fetchDetail(trace, "unit", where).catch(unlessLeftOut({ units: [] }))).units;
}
