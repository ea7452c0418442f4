// The logit lens: predictions if the model stopped after each block, at every position.
import { barCell, button, make, note, percent, row, table, within } from "./dom.js";
import { backed } from "./color.js";
import { fetchDetail } from "./source.js";
import { after, isComparable } from "./stream.js";
import { piece, pieceOf, quoted, spaced } from "./token.js";

export const SHOWN = 64; // positions shown at once: as many as one response holds
const SOON = 50; // minimum milliseconds between two intermediate tables

export const lensPanel = {
  id: "lens",
  needs: ["position", "depth"],
  figures: () => ["lens", "norm", "logits"],
  shown: showColumn,
  async draw(view, show) {
    const { trace, base, state, words } = view;
    const isCompared = isComparable(view);
    const first = firstShown(state.position, trace.overview.tokens.length);
    const result = { first, rows: [], others: isCompared ? [] : null };
    const parts = pages(view, first);
    let last = performance.now();
    // One depth after the other, last first, so that something is visible soon and the server can answer other requests.
    for (let depth = trace.overview.model.n_layer; depth >= 0; depth -= 1) {
      result.rows[depth] = await fetchDetail(trace, "lens", { depth, first });
      if (isCompared) result.others[depth] = await fetchDetail(base, "lens", { depth, first });
      if (!depth || performance.now() - last < SOON) continue;
      if (!show([...parts, lensTable(view, result)])) return []; // superseded by a newer request
      last = performance.now();
    }
    return [...parts, lensTable(view, result), ...(isCompared ? [note(words.lensChanged)] : []), cell(view, result.rows[state.depth], state.position - first)];
  },
};

// Pages of a long text start at multiples of SHOWN; only the last starts earlier, so that it is full.
export function firstShown(position, count) {
  return Math.max(0, Math.min(SHOWN * Math.floor(position / SHOWN), count - SHOWN));
}

// For a long text: which tokens are shown, and buttons for the others.
function pages({ trace, state, words, choose }, first) {
  const count = trace.overview.tokens.length;
  if (count <= SHOWN) return [];
  const end = Math.min(first + SHOWN, count);
  const to = (position) => () => choose({ position });
  return [row(
    button(`‹ ${words.earlier}`, to(first - 1), { id: "lens-earlier", disabled: first === 0 }), make("span", { id: "lens-shown", textContent: words.tokensOf(first, end - 1, count) }),
    button(`${words.later} ›`, to(end), { id: "lens-later", disabled: end === count }))];
}

// Scroll the selected column into view, next to the sticky column of labels.
function showColumn(body) {
  const [scroll, chosen, label] = [".scroll", "th.chosen", "th"].map((selector) => body.querySelector(selector));
  const left = chosen.offsetLeft - label.offsetWidth;
  const right = chosen.offsetLeft + chosen.offsetWidth - scroll.clientWidth;
  scroll.scrollLeft = Math.min(left, Math.max(right, scroll.scrollLeft));
  const pressed = isMoving && body.querySelector("[aria-pressed=true]");
  if (!pressed) return;
  pressed.focus({ preventScroll: true });
  isMoving = false;
}

function lensTable(view, result) {
  const { trace, state, words, choose } = view;
  const chosen = (at) => (at === state.position ? "chosen" : "");
  const tokens = trace.overview.tokens.slice(result.first, result.first + SHOWN).map(({ piece: text }, at) => [text, result.first + at]);
  const heading = [words.after, ...tokens.map(([text, at]) => make("th", { className: chosen(at), onclick: () => choose({ position: at }) }, make("small", { textContent: at }), piece(text)))];
  const lineOf = (answer, depth) => [after(words, depth), ...answer.likeliest.map((likeliest, at) => lensCell(view, answer, result.others?.[depth]?.likeliest[at], depth, result.first + at, likeliest[0]))];
  const body = Object.entries(result.rows).map(([depth, answer]) => lineOf(answer, Number(depth))).reverse();
  const shown = table(heading, body, { className: "lens" });
  shown.onkeydown = (event) => move(view, event);
  return shown;
}

function lensCell({ state, choose }, answer, other, depth, position, [id, chance]) {
  const isChosen = depth === state.depth && position === state.position;
  const inner = make("button", {
    type: "button", id: `lens-${depth}-${position}`, dir: "auto", textContent: spaced(answer.pieces[id]), title: percent(chance), className: other && other[0][0] !== id ? "changed" : "",
    "aria-pressed": isChosen, tabIndex: isChosen ? 0 : -1, style: backed("magnitude", chance, 1), onclick: () => choose({ depth, position }),
  });
  return make("td", {}, inner);
}

let isMoving = false; // moved by arrow keys: the selected cell gets the focus once it is drawn

// The deepest block is the top row.
function move({ trace, state, choose }, event) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const depth = within(state.depth + step[0], trace.overview.model.n_layer + 1);
  const position = within(state.position + step[1], trace.overview.tokens.length);
  isMoving = true;
  choose({ depth, position });
}

function cell({ trace, state, words }, answer, at) {
  const rows = answer.likeliest[at].map(([id, chance]) => [piece(answer.pieces[id]), String(id), barCell(percent(chance), chance)]);
  const title = words.lensAt(after(words, state.depth), state.position, quoted(pieceOf(trace, state.position)));
  return make("div", { id: "lens-cell" }, make("h3", { textContent: title }), table([words.piece, "id", words.chance], rows));
}
