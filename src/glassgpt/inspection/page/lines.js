// Lines between words: each token on the left attends to tokens on the right; a line's width and strength are the weight. Several
// heads of a block are drawn at once, each in its own color.
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
const [APART, SPREAD] = [3, 14]; // lines of several heads between the same words: pixels apart at most, and in all

export const linesPanel = {
  id: "lines",
  needs: ["layer", "head", "position", "key", "together"],
  figures: ({ state }) => [`blocks.${state.layer}.attention.weights`],
  async draw(view) {
    const { trace, state, words, choose } = view;
    const names = Array.from({ length: trace.overview.model.n_head }, (_, head) => `${state.layer}.${head}`);
    const heads = [state.head, ...state.together.filter((head) => head !== state.head && head < names.length)];
    const drawn = await Promise.all(heads.map(async (head) => ({ head, name: names[head], color: heads.length > 1 ? colorOf(head) : null, ...(await fetchArray(trace, `blocks.${state.layer}.attention.weights`, head)) })));
    const picker = row(make("span", { textContent: words.head }), choices("line-head", words.head, names, state.head, (head) => choose({ head })));
    const count = trace.overview.tokens.length;
    const first = Math.max(0, Math.min(count - MOST, Math.max(state.position, state.key) - MOST / 2));
    const last = Math.min(count, first + MOST);
    const shown = count > MOST ? ` ${words.tokensOf(first, last - 1, count)}.` : "";
    return [picker, together(view, names, heads), note(words.lines.hint, shown), make("div", { className: "grid" }, picture(view, drawn, first, last), make("div", {}, seenBy(view, drawn)))];
  },
};

// Hues far from each other for neighbors, equally bright; readable on light and on dark.
function colorOf(head) {
  const hue = Math.round((head * 137.5 + 250) % 360);
  return `light-dark(oklch(52% .19 ${hue}), oklch(78% .15 ${hue}))`;
}

// Buttons that add the lines of other heads, or of all.
function together({ state, words, choose }, names, heads) {
  if (names.length < 2) return null;
  const others = [...names.keys()].filter((head) => head !== state.head);
  const swatch = (head) => make("i", { className: "swatch", style: heads.length > 1 && heads.includes(head) ? { background: colorOf(head) } : {} });
  const toggles = others.map((head) => {
    const isShown = heads.includes(head);
    const change = () => choose({ together: isShown ? heads.filter((each) => each !== head && each !== state.head) : [...heads.slice(1), head] });
    const found = button("", change, { id: `line-with-${head}`, "aria-pressed": isShown });
    found.append(swatch(head), ` ${names[head]}`);
    return found;
  });
  const own = heads.length > 1 ? make("span", {}, swatch(state.head), ` ${names[state.head]}`) : null;
  return make("div", { className: "row together", role: "group", "aria-label": words.lines.together }, make("span", { textContent: words.lines.together }), own, ...toggles,
    button(words.lines.all, () => choose({ together: others }), { id: "line-with-all" }), button(words.lines.none, () => choose({ together: [] }), { id: "line-with-none" }));
}

function picture(view, heads, first, last) {
  const { state, words } = view;
  const at = (index) => (index - first + 0.5) * HEIGHT;
  const apart = Math.min(APART, SPREAD / heads.length);
  const drawn = heads.flatMap((each, number) => linesOf(each, first, last, (index) => at(index) + (number - (heads.length - 1) / 2) * apart));
  const light = (query, key) => drawn.forEach((each) => each.line.setAttribute("class", isLit(each, query, key) ? "lit" : "dim"));
  const rest = () => light(state.position, null);
  rest();
  return shape("svg", { viewBox: `0 0 ${WIDTH} ${(last - first) * HEIGHT}`, class: "lines", role: "group", "aria-label": words.lines.label },
    ...drawn.map(({ line }) => line), ...["position", "key"].map((name) => column(view, name, { first, last, at, light, rest, heads })));
}

function linesOf({ values, shape: [length], color }, first, last, at) {
  const found = [];
  for (let query = first; query < last; query += 1) {
    for (let key = first; key < last; key += 1) {
      const weight = values[query * length + key];
      if (weight < FAINTEST) continue;
      const line = shape("line", { x1: TEXT + 4, y1: at(query), x2: WIDTH - TEXT - 4, y2: at(key), "stroke-width": 1 + 6 * weight, "stroke-opacity": 0.15 + 0.85 * weight });
      if (color) line.style.setProperty("--head", color);
      found.push({ query, key, line });
    }
  }
  return found;
}

function isLit(each, query, key) {
  return query === null ? each.key === key : each.query === query;
}

// The words of one side: a single tab stop, in which the arrow keys move. Pointing at one, or focusing it, shows its lines.
function column(view, name, { first, last, at, light, rest, heads }) {
  const { trace, state, words, choose } = view;
  const isLeft = name === "position";
  const length = heads[0].shape[0];
  const tokens = Array.from({ length: last - first }, (_, index) => index + first).map((token) => {
    const told = `${quoted(pieceOf(trace, token))} ${isLeft ? words.looksAt : words.lines.seenBy} ${heads.map((head) => strongestOf(view, head, token, isLeft, heads.length > 1)).join(", ")}`;
    const text = label(isLeft ? TEXT - 6 : WIDTH - TEXT + 6, at(token), fitted(spaced(pieceOf(trace, token)), LETTERS), { "text-anchor": isLeft ? "end" : "start" });
    const back = shape("rect", { x: isLeft ? 0 : WIDTH - TEXT, y: at(token) - HEIGHT / 2 + 1, width: TEXT, height: HEIGHT - 2, rx: 4 });
    const group = shape("g", { id: `line-${name}-${token}`, role: "button", tabindex: token === state[name] ? 0 : -1, "aria-pressed": token === state[name], class: "word" }, shape("title", {}, told), back, text);
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

// The token at the other end of a word's strongest line of a head.
function strongestOf({ trace }, { values, shape: [length], name }, token, isLeft, isNamed) {
  const [most] = strongest(isLeft ? values.subarray(token * length, (token + 1) * length) : columnOf(values, length, token), 1);
  const weight = values[isLeft ? token * length + most : most * length + token];
  return `${isNamed ? `${name} ` : ""}${quoted(pieceOf(trace, most))} ${percent(weight)}`;
}

function columnOf(values, length, key) {
  return Float32Array.from({ length }, (_, query) => values[query * length + key]);
}

// The other direction: the tokens that attend most to the second token, by the head that does so most.
function seenBy({ trace, state, words, choose }, heads) {
  const weights = heads.map(({ values, shape: [length] }) => columnOf(values, length, state.key));
  const most = weights[0].map((_, query) => Math.max(...weights.map((each) => each[query])));
  const rows = strongest(most, LISTED).filter((query) => most[query] > 0).map((query) => {
    const name = button("", () => choose({ position: query }), { className: "link" });
    name.append(`${query} `, piece(pieceOf(trace, query)));
    return [name, ...weights.map((each) => barCell(percent(each[query]), each[query]))];
  });
  const heading = heads.length > 1 ? heads.map(({ name }) => name) : [words.weights];
  return make("div", { id: "seen-by" }, make("h3", { textContent: `${quoted(pieceOf(trace, state.key))} ${words.lines.seenBy}` }), table([words.token, ...heading], rows));
}
