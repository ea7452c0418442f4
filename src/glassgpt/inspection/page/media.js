// Pictures, and sounds as their spectrograms: where the selected token looks in them, and what the model would say at each position.
import { heat, ramp } from "./color.js";
import { barCell, choices, make, note, percent, row, table } from "./dom.js";
import { rowOf, strongest } from "./head.js";
import { SHOWN, firstShown } from "./lens.js";
import { frameOf, selectCells } from "./matrix.js";
import { fetchArray, fetchDetail } from "./source.js";
import { after } from "./stream.js";
import { background, placeOf } from "./thumbnails.js";
import { piece, pieceOf, quoted, spaced, stepper } from "./token.js";

const VIEWS = ["attention", "lens"];
const LISTED = 8; // positions, or predictions, in the table
const MOST_WORDS = 8; // columns of a picture in which predictions are written

export const mediaPanel = {
  id: "media",
  needs: ["layer", "head", "position", "key", "depth", "seen"],
  isFor: ({ trace }) => trace.overview.media.length > 0,
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`, "lens"],
  async draw(view) {
    const { state, words, choose } = view;
    const shown = state.seen === "lens" ? await predicted(view) : await attended(view);
    const names = VIEWS.map((each) => words.media.views[each]);
    const chosen = choices("seen", words.media.choose, names, VIEWS.indexOf(state.seen), (at) => choose({ seen: VIEWS[at] }));
    return [chosen, row(...shown.steps), note(shown.about), make("div", { className: "media" }, ...shown.figures), ...shown.lists];
  },
};

function nameOf({ trace, words }, medium) {
  const alike = trace.overview.media.filter(({ modality }) => modality === medium.modality);
  const name = words.media.names[medium.modality];
  return alike.length > 1 ? `${name} ${alike.indexOf(medium) + 1}` : name;
}

const lengthOf = ({ rows, columns }) => rows * columns;

// Where the selected token looks.
async function attended(view) {
  const { trace, state, words, choose } = view;
  const weights = rowOf(await fetchArray(trace, `blocks.${state.layer}.attention.weights`, state.head), state.position);
  const part = (medium) => weights.subarray(medium.first, medium.first + lengthOf(medium));
  const largest = Math.max(...trace.overview.media.flatMap((medium) => [...part(medium)])) || 1;
  const figures = trace.overview.media.map((medium, number) => figureOf(view, medium, {
    id: `media-${number}`, values: part(medium), largest, cell: state.key, choose: (key) => choose({ key }),
    tell: (position) => `${pieceOf(trace, position)} · ${percent(weights[position])}`,
  }));
  const shares = trace.overview.media.map((medium) => `${nameOf(view, medium)} ${percent(part(medium).reduce((sum, each) => sum + each, 0))}`);
  const about = words.media.looks(`${state.layer}.${state.head}`, quoted(pieceOf(trace, state.position)), shares.join(", "));
  const inside = trace.overview.media.flatMap((medium) => Array.from({ length: lengthOf(medium) }, (_, at) => medium.first + at));
  const best = strongest(inside.map((position) => weights[position]), LISTED).map((at) => inside[at]).filter((position) => weights[position] > 0);
  const rows = best.map((position) => [link(view, position, { key: position }), barCell(percent(weights[position]), weights[position])]);
  const list = rows.length ? [make("div", { id: "media-looks" }, table([words.media.position, words.weights], rows))] : [];
  return { steps: [stepper(view, "media-from", "position", trace.overview.tokens.length, `${state.position} ${quoted(pieceOf(trace, state.position))}`)], about, figures, lists: list };
}

// What the model would say after each position if it stopped at the selected depth.
async function predicted(view) {
  const { trace, state, words, choose } = view;
  const found = new Map();
  for (const medium of trace.overview.media) await predictions(trace, state.depth, medium, found);
  const [chance, text] = [(position) => found.get(position)[0].chance, (position) => found.get(position)[0].text];
  const figures = trace.overview.media.map((medium, number) => figureOf(view, medium, {
    id: `media-${number}`, values: Float32Array.from({ length: lengthOf(medium) }, (_, at) => chance(medium.first + at)), largest: 1, cell: state.position,
    choose: (position) => choose({ position }), tell: (position) => `${pieceOf(trace, position)} → ${quoted(text(position))} ${percent(chance(position))}`, write: (position) => spaced(text(position)),
  }));
  const counts = new Map();
  for (const position of found.keys()) counts.set(text(position), [...(counts.get(text(position)) ?? []), position]);
  const most = [...counts].sort((one, other) => other[1].length - one[1].length).slice(0, LISTED);
  const common = most.map(([said, positions]) => [piece(said), barCell(String(positions.length), positions.length / found.size)]);
  const own = found.get(state.position)?.map((each) => [piece(each.text), barCell(percent(each.chance), each.chance)]);
  const lists = [make("div", { className: "grid" },
    make("div", { id: "media-said" }, make("h3", { textContent: words.media.said }), table([words.piece, words.media.positions], common)),
    own ? make("div", { id: "media-own" }, make("h3", { textContent: words.lensAt(after(words, state.depth), state.position, quoted(pieceOf(trace, state.position))) }), table([words.piece, words.chance], own)) : null)];
  return { steps: [stepper(view, "media-depth", "depth", trace.overview.model.n_layer + 1, after(words, state.depth))], about: words.media.wouldSay, figures, lists };
}

async function predictions(trace, depth, medium, found) {
  const end = medium.first + lengthOf(medium);
  for (let position = medium.first; position < end;) {
    const first = firstShown(position, trace.overview.tokens.length);
    const { likeliest, pieces } = await fetchDetail(trace, "lens", { depth, first });
    for (; position < Math.min(end, first + SHOWN); position += 1) found.set(position, likeliest[position - first].map(([id, chance]) => ({ text: pieces[id], chance })));
  }
}

function link({ trace, choose }, position, change) {
  const thumbnail = make("i", { className: "thumbnail", "aria-hidden": "true", style: background(trace, position) });
  return make("button", { type: "button", className: "link", onclick: () => choose(change) }, thumbnail, ` ${position} `, piece(pieceOf(trace, position)));
}

// A picture, and beside it the same one in gray below the values of its positions, one cell each.
function figureOf(view, medium, { id, values, largest, cell, choose, tell, write = null }) {
  const { trace, words } = view;
  const { first, rows, columns, picture, width, height } = medium;
  const name = nameOf(view, medium);
  const isOwn = placeOf(trace, cell)?.medium === medium;
  const shape = medium.modality === "audio" ? { height: "8rem" } : { "aspect-ratio": `${width} / ${height}` };
  const image = (className, alt) => make("img", { src: picture, alt, className, style: shape });
  const canvas = make("canvas", { id, tabIndex: 0, role: "application", "aria-roledescription": words.media.map, "aria-label": words.media.label(name, words.media.views[view.state.seen]), "aria-describedby": `${id}-told` });
  canvas.width = columns;
  canvas.height = rows;
  drawHeat(canvas, values, largest);
  const told = make("p", { className: "told", id: `${id}-told`, "aria-live": "polite" });
  const at = (row, column) => first + row * columns + column;
  const own = isOwn ? [Math.floor((cell - first) / columns), (cell - first) % columns] : null;
  selectCells(canvas, told, { cell: own, tell: (...place) => tell(at(...place)), choose: (...place) => choose(at(...place)), idle: isOwn ? tell(cell) : words.media.hint });
  const texts = write && columns <= MOST_WORDS ? make("div", { className: "words", "aria-hidden": "true", style: { "grid-template-columns": `repeat(${columns}, 1fr)` } }, ...Array.from(values, (_, each) => make("span", { textContent: write(first + each) }))) : null;
  const scale = make("div", { className: "ramp", "aria-hidden": "true" }, "0", make("i", { style: { background: ramp("magnitude") } }), percent(largest));
  return make("figure", { className: medium.modality }, make("figcaption", {}, make("b", { textContent: name }), words.media.size(rows, columns)),
    make("div", { className: "pair" }, image("plain", name), make("div", { className: "seen" }, image("gray", ""), canvas, texts, own && frameOf(own, rows, columns))), scale, told);
}

function drawHeat(canvas, values, largest) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, at) => pixels.data.set(heat(value, largest), 4 * at));
  context.putImageData(pixels, 0, 0);
}
