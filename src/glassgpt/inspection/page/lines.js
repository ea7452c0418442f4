// Lines between words: each token on the left attends to tokens on the right; a line's width and strength are the weight.
import { barCell, button, choices, make, note, percent, row, table } from "./dom.js";
import { strongest } from "./head.js";
import { fetchArray } from "./source.js";
import { fitted, label, shape } from "./svg.js";
import { piece, pieceOf, quoted, spaced } from "./token.js";

const MOST = 48; // tokens drawn at a time, around the selected one
const [HEIGHT, WIDTH, TEXT] = [22, 380, 110]; // of a row, of the picture, and of a column of words
const LETTERS = 11; // of a token; its title has all of it
const FAINTEST = 0.01; // weight of a line that is drawn
const LISTED = 6;

export const linesPanel = {
  id: "lines",
  needs: ["layer", "head", "position", "key"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`],
  async draw(view) {
    const { trace, state, words, choose } = view;
    const weights = await fetchArray(trace, `blocks.${state.layer}.attention.weights`, state.head);
    const heads = Array.from({ length: trace.overview.model.n_head }, (_, head) => `${state.layer}.${head}`);
    const picker = row(make("span", { textContent: words.head }), choices("line-head", words.head, heads, state.head, (head) => choose({ head })));
    const count = trace.overview.tokens.length;
    const first = Math.max(0, Math.min(count - MOST, Math.max(state.position, state.key) - MOST / 2));
    const last = Math.min(count, first + MOST);
    const shown = count > MOST ? ` ${words.tokensOf(first, last - 1, count)}.` : "";
    return [picker, note(words.lines.hint, shown), make("div", { className: "grid" }, picture(view, weights, first, last), make("div", {}, seenBy(view, weights)))];
  },
};

function picture(view, { values, shape: [length] }, first, last) {
  const { state, words } = view;
  const at = (index) => (index - first + 0.5) * HEIGHT;
  const drawn = [];
  for (let query = first; query < last; query += 1) {
    for (let key = first; key < last; key += 1) {
      const weight = values[query * length + key];
      if (weight < FAINTEST) continue;
      const line = shape("line", { x1: TEXT + 4, y1: at(query), x2: WIDTH - TEXT - 4, y2: at(key), "stroke-width": 1 + 6 * weight, "stroke-opacity": 0.15 + 0.85 * weight });
      drawn.push({ query, key, line });
    }
  }
  const light = (query, key) => drawn.forEach((each) => each.line.setAttribute("class", isLit(each, query, key) ? "lit" : "dim"));
  const rest = () => light(state.position, null);
  rest();
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${(last - first) * HEIGHT}`, class: "lines", role: "group", "aria-label": words.lines.label },
    ...drawn.map(({ line }) => line),
    ...["position", "key"].map((name) => column(view, name, { first, last, at, light, rest, values, length })));
  return svg;
}

function isLit(each, query, key) {
  return query === null ? each.key === key : each.query === query;
}

// The words of one side: a single tab stop, in which the arrow keys move. Pointing at one, or focusing it, shows its lines.
function column(view, name, { first, last, at, light, rest, values, length }) {
  const { trace, state, words, choose } = view;
  const isLeft = name === "position";
  const tokens = Array.from({ length: last - first }, (_, index) => index + first).map((token) => {
    const [most] = strongest(isLeft ? values.subarray(token * length, (token + 1) * length) : columnOf(values, length, token), 1);
    const weight = values[isLeft ? token * length + most : most * length + token];
    const told = `${quoted(pieceOf(trace, token))} ${isLeft ? words.looksAt : words.lines.seenBy} ${quoted(pieceOf(trace, most))} ${percent(weight)}`;
    const text = label(isLeft ? TEXT - 6 : WIDTH - TEXT + 6, at(token), fitted(spaced(pieceOf(trace, token)), LETTERS), { "text-anchor": isLeft ? "end" : "start" });
    const back = shape("rect", { x: isLeft ? 0 : WIDTH - TEXT, y: at(token) - HEIGHT / 2 + 1, width: TEXT, height: HEIGHT - 2, rx: 4 });
    const group = shape("g", { id: `line-${name}-${token}`, role: "button", tabindex: token === state[name] ? 0 : -1, "aria-pressed": token === state[name], "aria-label": told, class: "word" }, shape("title", {}, told), back, text);
    const show = () => (isLeft ? light(token, null) : light(null, token));
    Object.assign(group, { onpointerenter: show, onfocus: show, onpointerleave: rest, onblur: rest, onclick: () => choose({ [name]: token }) });
    return group;
  });
  const side = shape("g", {}, ...tokens);
  side.onkeydown = (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const to = state[name] + (step ?? 0);
    if (!step || to < 0 || to >= length) return;
    event.preventDefault();
    tokens[to - first]?.focus({ preventScroll: true }); // the redrawn word with the same id gets the focus
    choose({ [name]: to });
  };
  return side;
}

function columnOf(values, length, key) {
  return Float32Array.from({ length }, (_, query) => values[query * length + key]);
}

// The other direction: the tokens that attend most to the second token.
function seenBy({ trace, state, words, choose }, { values, shape: [length] }) {
  const weights = columnOf(values, length, state.key);
  const rows = strongest(weights, LISTED).filter((query) => weights[query] > 0).map((query) => {
    const name = button("", () => choose({ position: query }), { className: "link" });
    name.append(`${query} `, piece(pieceOf(trace, query)));
    return [name, barCell(percent(weights[query]), weights[query])];
  });
  return make("div", { id: "seen-by" }, make("h3", { textContent: `${quoted(pieceOf(trace, state.key))} ${words.lines.seenBy}` }), table([words.token, words.weights], rows));
}
