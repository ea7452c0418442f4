// The entrance: a picture of the model to scale, from the tokens at the bottom to the next token at the top, with the figures
// of the selected token. A click on a part opens its panel.
import { backed } from "./color.js";
import { figure, make, note, percent, within } from "./dom.js";
import { fetchDetail } from "./source.js";
import { after } from "./stream.js";
import { box, columnsOf, fitted, label, shape } from "./svg.js";
import { placeOf } from "./thumbnails.js";
import { pieceOf, quoted, spaced } from "./token.js";

const NARROW = 640; // pixels; below it, only the shortest labels
const MOST_UNFOLDED = 6; // blocks drawn in full; of a deeper model, only the selected one
const ROW = 30; // pixels
const FOLDED_ROW = 15;
const COLUMN = 7.3; // pixels of a monospaced character
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export const modelPanel = {
  id: "model",
  needs: ["position", "layer", "head"],
  figures: () => ["sizes", "components", "stream"],
  async draw(view) {
    const { trace, state, words } = view;
    const [sizes, found, stream] = await Promise.all([fetchDetail(trace, "sizes"), fetchDetail(trace, "components", { position: state.position }), fetchDetail(trace, "stream")]);
    const told = make("p", { id: "part-told", className: "told" });
    const scene = sceneOf(view, { sizes, found, stream, told });
    const rows = [nextRow(scene), headRow(scene), ...blockRows(scene), embeddingRow(scene), tokenRow(scene)];
    const where = words.picture.at(quoted(pieceOf(trace, state.position)), count(sizes.all));
    return [note(where), picture(scene, rows), told];
  },
};

// Everything the rows need: the data, the horizontal places, and the scale.
function sceneOf(view, data) {
  const { trace, state } = view;
  const width = Math.max(300, Math.floor(document.querySelector("#model .body").clientWidth));
  const isNarrow = width < NARROW;
  const spine = isNarrow ? 38 : 96;
  const norm = { x: spine + 18, width: isNarrow ? 10 : 44 };
  const says = width - (isNarrow ? 92 : 270);
  const adds = says - (isNarrow ? 46 : 150);
  const parts = { x: norm.x + norm.width + 10, width: adds - norm.x - norm.width - 24 };
  const { position } = state;
  const at = (values) => values.map((each) => each[position]);
  const norms = { stream: at(data.stream.norms), attention: at(data.stream.attention), mlp: at(data.stream.mlp) };
  const heads = data.found.heads.flat();
  return {
    ...data, view, width, isNarrow, spine, norm, says, adds, parts, norms, isFolded: trace.overview.model.n_layer > MOST_UNFOLDED,
    scale: parts.width / Math.max(...data.sizes.attention, ...data.sizes.mlp),
    most: { added: Math.max(...norms.attention, ...norms.mlp) || 1, stream: Math.max(...norms.stream) || 1, head: Math.max(...heads.map((each) => each.norm)) || 1 },
  };
}

function count(parameters) {
  const unit = [[1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => parameters >= size);
  return unit ? `${(parameters / unit[0]).toFixed(1)}${unit[1]}` : String(parameters);
}

// A part that can be clicked: it opens a panel with a selection. `tells` is its name and figures in words.
function part({ view, told }, id, tells, panel, selection, ...shapes) {
  const open = () => view.open(panel, selection);
  const element = shape("g", { id: `part-${id}`, class: "part", role: "button", tabindex: -1 }, shape("title", {}, tells), ...shapes); // its title is its name, too
  element.addEventListener("click", open);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    open();
  });
  for (const kind of ["pointerenter", "focus"]) element.addEventListener(kind, () => { told.textContent = tells; });
  return element;
}

// A row is its height and, once its top is known, its parts from left to right and what lies behind them.
// The most probable next tokens, as wide as they are probable.
function nextRow(scene) {
  const { view, found, isNarrow, width, spine } = scene;
  const { state, trace, words } = view;
  const isLast = state.position === trace.overview.tokens.length - 1;
  const best = found.predictions.at(-1).slice(0, isNarrow ? 2 : 5);
  const space = (width - spine - 14) / best.length;
  return { height: 40, draw: (y) => {
    const parts = best.map(({ piece, chance }, at) => {
      const x = spine + 14 + at * space;
      const colors = backed("magnitude", chance, 1);
      const text = `${fitted(spaced(piece), (space - 14) / COLUMN - 7)} ${percent(chance)}`;
      return part(scene, `next-${at}`, words.picture.next(quoted(piece), percent(chance)), isLast ? "next" : "lens", isLast ? {} : { depth: trace.overview.model.n_layer },
        box(x, y + 4, space - 6, 28, { fill: colors.background, class: "lit" }), label(x + 8, y + 18, text, { class: "mono", fill: colors.color }));
    });
    return { parts, behind: [label(0, y + 18, isNarrow ? words.picture.short.next : words.panels.next.title, { class: "name" })] };
  } };
}

// The last normalization and the output matrix, which turn the stream into logits.
function headRow(scene) {
  const { view, sizes, norm, parts, says, isNarrow } = scene;
  const { words, trace } = view;
  const shared = sizes.head ? count(sizes.head) : words.picture.tied;
  const text = `${words.picture.unembedding} · ${shared}`;
  return { height: ROW + 6, draw: (y) => {
    const middle = y + ROW / 2;
    const selection = { depth: trace.overview.model.n_layer };
    return {
      parts: [
        part(scene, "norm", words.picture.lastNorm, "lens", selection, box(norm.x, y + 4, norm.width, 22, { class: "plain" }), isNarrow ? null : label(norm.x + norm.width / 2, middle, words.picture.norm, { class: "small", "text-anchor": "middle" })),
        part(scene, "unembedding", text, "lens", selection, ...sized(scene, y, sizes.head || sizes.embedding), label(parts.x + 8, middle, isNarrow ? words.picture.unembedding : text)),
      ],
      behind: isNarrow ? [] : [label(scene.adds, middle, words.picture.adds, { class: "small faint" }), label(says, middle, words.picture.says, { class: "small faint" })],
    };
  } };
}

// A box as long as its number of parameters; one that does not fit has a torn edge.
function sized({ parts, scale }, y, parameters, height = 22) {
  const length = parameters * scale;
  const [x, top] = [parts.x, y + 4];
  if (length <= parts.width) return [box(x, top, length, height, { class: "plain" })];
  const end = x + parts.width;
  const torn = `M${x} ${top}H${end}l-5 ${height / 4}l5 ${height / 4}l-5 ${height / 4}l5 ${height / 4}H${x}Z`;
  return [shape("path", { d: torn, class: "plain" })];
}

function embeddingRow(scene) {
  const { view, sizes, parts, norms } = scene;
  const { words } = view;
  const tells = words.picture.embedding(count(sizes.embedding), figure(norms.stream[0], 2));
  return { height: ROW + 4, draw: (y) => {
    const shapes = [...sized(scene, y, sizes.embedding), label(parts.x + 8, y + ROW / 2, scene.isNarrow ? words.embedding : `${words.embedding} · ${count(sizes.embedding)}`)];
    return { parts: [part(scene, "embedding", tells, "embeddings", {}, ...shapes), prediction(scene, 0, y, ROW)], behind: [label(scene.adds, y + ROW / 2, figure(norms.stream[0], scene.isNarrow ? 1 : 2), { class: "small" })] };
  } };
}

// The tokens around the selected one that fit; a click selects.
function tokenRow(scene) {
  const { view, width, spine, isNarrow } = scene;
  const { state, words } = view;
  const shown = tokensShown(scene);
  return { height: 36, draw: (y) => {
    let x = spine - (isNarrow ? 2 : 6);
    const parts = shown.map(({ at, text, length }) => {
      const isChosen = at === state.position;
      const picture = thumbnail(view.trace, at, x + 2, y + 8, 20);
      const found = part(scene, `token-${at}`, `${words.token} ${at} ${quoted(text)}`, null, { position: at },
        box(x, y + 6, length - 3, 24, { class: isChosen ? "plain chosen" : "plain" }), picture ?? label(x + 5, y + 18, spaced(text), { class: "mono" }));
      if (isChosen) found.setAttribute("aria-current", "true");
      x += length;
      return found;
    });
    return { parts, behind: [label(0, y + 18, isNarrow ? words.picture.short.tokens : words.tokens, { class: "name" })]  };
  } };
}

// The part of a picture at a position, as a square; null for a token.
function thumbnail(trace, at, x, y, size) {
  const place = placeOf(trace, at);
  if (!place) return null;
  const { medium: { picture, width, height, rows, columns }, row, column } = place;
  const [wide, high] = [width / columns, height / rows];
  const image = shape("image", { href: picture, width, height, preserveAspectRatio: "none", style: "image-rendering: pixelated" });
  return shape("svg", { x, y, width: size, height: size, viewBox: `${column * wide} ${row * high} ${wide} ${high}`, preserveAspectRatio: "none" }, image);
}

function tokensShown({ view: { trace, state }, width, spine }) {
  const tokenAt = (at) => {
    const text = fitted(trace.overview.tokens[at].piece, 16);
    return { at, text, length: placeOf(trace, at) ? 27 : columnsOf(text) * COLUMN + 14 };
  };
  const shown = [tokenAt(state.position)];
  let left = width - spine - shown[0].length;
  for (let [low, high] = [state.position - 1, state.position + 1]; low >= 0 || high < trace.overview.tokens.length;) {
    const isLow = low >= 0;
    const next = tokenAt(isLow ? low : high);
    if ((left -= next.length) < 0) break;
    if (isLow) shown.unshift(next), low -= 1;
    else shown.push(next), high += 1;
  }
  return shown;
}

// From the last block to the first: MLP above attention, as the stream rises.
function blockRows(scene) {
  const { isFolded, view: { state, trace } } = scene;
  const layers = Array.from({ length: trace.overview.model.n_layer }, (_, at) => trace.overview.model.n_layer - 1 - at);
  return layers.flatMap((layer) => (isFolded && layer !== state.layer ? [foldedRow(scene, layer)] : [mlpRow(scene, layer), attentionRow(scene, layer)]));
}

function mlpRow(scene, layer) {
  const { view: { words, state }, sizes, norms, parts, most, isNarrow, width } = scene;
  const tells = words.picture.mlp(layer, count(sizes.mlp[layer]), figure(norms.mlp[layer], 2));
  return { height: ROW, draw: (y) => {
    const colors = backed("magnitude", norms.mlp[layer], most.added);
    const shapes = [box(parts.x, y + 4, sizes.mlp[layer] * scene.scale, 22, { fill: colors.background, class: "lit" }), label(parts.x + 8, y + ROW / 2, isNarrow ? "MLP" : `MLP · ${count(sizes.mlp[layer])}`, { fill: colors.color })];
    const band = layer === state.layer ? [box(0, y - 1, width, 2 * ROW + 1, { class: "band" })] : [];
    return {
      parts: [plus(scene, `${layer}-2`, layer, words.parts.mlp, y + ROW / 2, norms.mlp[layer]), normPart(scene, layer, 2, y), part(scene, `mlp-${layer}`, tells, "mlp", { layer }, ...shapes), prediction(scene, layer + 1, y, 2 * ROW)],
      under: band, behind: [label(0, y + ROW, `${isNarrow ? "" : `${words.block} `}${layer}`, { class: "name" }), ...added(scene, y + ROW / 2, norms.mlp[layer]), shape("line", { x1: 0, x2: width, y1: y - 1, y2: y - 1, class: "line" })],
    };
  } };
}

function attentionRow(scene, layer) {
  const { norms, view: { words } } = scene;
  const value = norms.attention[layer];
  const joins = (y) => plus(scene, `${layer}-1`, layer, words.parts.attention, y + ROW / 2, value);
  return { height: ROW, draw: (y) => ({ parts: [joins(y), normPart(scene, layer, 1, y), ...headParts(scene, layer, y + 4, 22, scene.parts.x, scene.scale)], behind: added(scene, y + ROW / 2, value) }) };
}

function normPart(scene, layer, number, y) {
  const { norm, isNarrow, view: { words } } = scene;
  return part(scene, `norm-${layer}-${number}`, words.picture.normOf(layer, number === 1 ? words.parts.attention : words.parts.mlp), "norm", { layer },
    box(norm.x, y + 4, norm.width, 22, { class: "plain" }), isNarrow ? null : label(norm.x + norm.width / 2, y + ROW / 2, words.picture.norm, { class: "small", "text-anchor": "middle" }));
}

// The heads of a block, brighter or darker by the norm of what they add; in each, its number and the entropy of its attention.
function headParts(scene, layer, y, height, from, scale) {
  const { view: { state, trace, words }, sizes, found, most } = scene;
  const heads = found.heads[layer];
  const each = (sizes.attention[layer] * scale) / heads.length;
  return heads.map(({ norm, entropy, to, weight }, head) => {
    const x = from + head * each;
    const colors = backed("magnitude", norm, most.head);
    const isChosen = layer === state.layer && head === state.head;
    const name = `${layer}.${head}`;
    const text = each >= 96 ? `${name} · H ${figure(entropy, 2)}` : each >= 26 ? name : "";
    const tells = words.picture.head(name, figure(norm, 2), figure(entropy, 2), quoted(pieceOf(trace, to)), percent(weight));
    return part(scene, `head-${layer}-${head}`, tells, "head", { layer, head, key: to }, box(x, y, each - (each > 8 ? 2 : 0.5), height, { fill: colors.background, class: isChosen ? "lit chosen" : "lit" }),
      text && height > FOLDED_ROW ? label(x + each / 2 - 1, y + height / 2, text, { fill: colors.color, "text-anchor": "middle", class: "small" }) : null);
  });
}

// A block of a deep model: heads and MLP in one thin row, at the same scale to each other.
function foldedRow(scene, layer) {
  const { view: { words }, sizes, norms, parts, most, isNarrow, scale } = scene;
  const shrunk = (scale * parts.width) / (parts.width + Math.max(...sizes.attention) * scale);
  const tells = words.picture.mlp(layer, count(sizes.mlp[layer]), figure(norms.mlp[layer], 2));
  return { height: FOLDED_ROW + 2, draw: (y) => {
    const colors = backed("magnitude", norms.mlp[layer], most.added);
    const start = parts.x + sizes.attention[layer] * shrunk + 4;
    const mlp = part(scene, `mlp-${layer}`, tells, "mlp", { layer }, box(start, y + 2, sizes.mlp[layer] * shrunk - 4, FOLDED_ROW - 2, { fill: colors.background, class: "lit" }));
    const value = norms.attention[layer] + norms.mlp[layer];
    const [middle, size] = [y + FOLDED_ROW / 2 + 1, FOLDED_ROW - 4];
    return {
      parts: [plus(scene, `${layer}`, layer, `${words.parts.attention}, ${words.parts.mlp}`, middle, value, size), ...headParts(scene, layer, y + 2, FOLDED_ROW - 2, parts.x, shrunk), mlp, prediction(scene, layer + 1, y, FOLDED_ROW + 2)],
      behind: [label(0, middle, `${isNarrow ? "" : `${words.block} `}${layer}`, { class: "name small" }), ...added(scene, middle, value, size)],
    };
  } };
}

// The norm of what a part adds to the stream, as a bar with its figure, behind a line from the part to the stream.
function added({ spine, norm, parts, adds, says, most, isNarrow }, y, value, height = 14) {
  const space = says - adds - (isNarrow ? 10 : 64);
  const length = Math.min(1, value / most.added) * space;
  return [
    shape("line", { x1: spine, x2: height < 14 ? parts.x : norm.x, y1: y, y2: y, class: "join" }), isNarrow ? null : box(adds, y - height / 2, length, height, { class: "added" }),
    label(isNarrow ? adds : adds + length + 6, y, figure(value, isNarrow ? 1 : 2), { class: "small" }),
  ];
}

// The plus sign where a part joins the stream.
function plus(scene, name, layer, what, y, value, height = 14) {
  const tells = scene.view.words.picture.sumOf(layer, what, figure(value, 2));
  const touched = shape("circle", { cx: scene.spine, cy: y, r: height / 2 + 4, fill: "transparent" }); // easier to hit
  return part(scene, `sum-${name}`, tells, "sum", { layer }, touched, shape("circle", { cx: scene.spine, cy: y, r: height / 2, class: "plus" }), label(scene.spine, y, "+", { class: "small", "text-anchor": "middle" }));
}

// The most probable next token if the model stopped after a number of blocks.
function prediction(scene, depth, y, height) {
  const { view: { words }, found, says, width, isNarrow } = scene;
  const [{ piece, chance }] = found.predictions[depth];
  const tells = words.picture.after(after(words, depth), quoted(piece), percent(chance));
  const thick = Math.min(22, height - 4);
  const space = width - says - (isNarrow ? 0 : 62);
  const text = fitted(spaced(piece), space / COLUMN - 1);
  return part(scene, `after-${depth}`, tells, "lens", { depth }, box(says, y + height / 2 - thick / 2, space, thick, { class: "track" }), box(says, y + height / 2 - thick / 2, space * chance, thick, { class: "chance" }),
    label(says + 5, y + height / 2, text, { class: height < 20 ? "mono small" : "mono" }), isNarrow ? null : label(width, y + height / 2, percent(chance), { class: "small", "text-anchor": "end" }));
}

let risen = ""; // the trace and position whose picture has lit up

function picture(scene, rows) {
  const { view: { trace, state, words }, width, spine, norms, most } = scene;
  let y = 0;
  const drawn = rows.map((row) => {
    const found = { ...row.draw(y), top: y };
    y += row.height;
    return found;
  });
  const key = `${trace.id}/${state.position}`;
  const groups = drawn.map(({ parts, behind }, at) => shape("g", { class: "level", style: `--delay: ${(drawn.length - at) * 60}ms` }, ...behind, ...parts));
  const bands = drawn.flatMap(({ under }) => under ?? []);
  const thickness = 2 + (6 * norms.stream.at(-1)) / most.stream;
  const stream = shape("line", { x1: spine, x2: spine, y1: 34, y2: y - 30, class: "stream", "stroke-width": thickness });
  const found = shape("svg", { id: "picture", class: key === risen ? "" : "rise", role: "group", "aria-label": words.picture.label, viewBox: `0 0 ${width} ${y}`, width, height: y }, ...bands, stream, ...groups);
  risen = key;
  found.addEventListener("keydown", (event) => move(event, drawn.map(({ parts }) => parts)));
  const first = found.querySelector(`#part-head-${state.layer}-${state.head}`);
  first.setAttribute("tabindex", 0);
  scene.told.textContent = first.querySelector("title").textContent;
  return found;
}

// The picture is a single tab stop; the arrow keys move between its parts.
function move(event, rows) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const row = rows.findIndex((parts) => parts.includes(document.activeElement));
  if (row < 0) return;
  const column = rows[row].indexOf(document.activeElement);
  const other = rows[within(row + step[0], rows.length)];
  const next = other[within(other === rows[row] ? column + step[1] : column, other.length)];
  document.activeElement.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}
