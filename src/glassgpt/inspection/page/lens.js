// What the model would say if it stopped after each block, at every position.
import { barCell, make, note, percent, table } from "./dom.js";
import { backed } from "./colour.js";
import { fetchDetail } from "./source.js";
import { after } from "./stream.js";
import { piece, pieceOf, quoted, spaced } from "./token.js";

export const lensPanel = {
  id: "lens",
  needs: ["position", "depth"],
  figures: () => ["lens", "norm", "logits"],
  shown: showColumn,
  async draw(view, show) {
    const { trace, base, state, words } = view;
    const isComparable = base && base.overview.tokens.length === trace.overview.tokens.length && base.overview.model.n_layer === trace.overview.model.n_layer;
    const others = isComparable ? [] : null;
    const rows = [];
    // One depth after the other, the last first, so that something is seen soon and the program is free in between.
    for (let depth = trace.overview.model.n_layer; depth >= 0; depth -= 1) {
      rows[depth] = await fetchDetail(trace, "lens", { depth });
      if (others) others[depth] = await fetchDetail(base, "lens", { depth });
      if (depth) show([lensTable(view, rows, others)]);
    }
    return [lensTable(view, rows, others), ...(others ? [note(words.lensChanged)] : []), cell(view, rows[state.depth], state.depth)];
  },
};

// Brings the chosen column into sight, beside the one of labels, which stands still.
function showColumn(body) {
  const [scroll, chosen, label] = [".scroll", "th.chosen", "th"].map((selector) => body.querySelector(selector));
  const left = chosen.offsetLeft - label.offsetWidth;
  const right = chosen.offsetLeft + chosen.offsetWidth - scroll.clientWidth;
  scroll.scrollLeft = Math.min(left, Math.max(right, scroll.scrollLeft));
}

function lensTable(view, rows, others) {
  const heading = [view.words.after, ...view.trace.overview.tokens.map(({ piece: text }, at) => make("th", { className: at === view.state.position ? "chosen" : "" }, make("small", { textContent: at }), piece(text)))];
  const lineOf = (row, depth) => [after(view.words, depth), ...row.likeliest.map((likeliest, position) => lensCell(view, row, others?.[depth], depth, position, likeliest[0]))];
  const body = Object.entries(rows).map(([depth, row]) => lineOf(row, Number(depth))).reverse();
  const shown = table(heading, body, { className: "lens" });
  shown.onkeydown = (event) => move(view, event);
  return shown;
}

function lensCell({ state, choose }, row, other, depth, position, [id, chance]) {
  const isChosen = depth === state.depth && position === state.position;
  const hasChanged = other && other.likeliest[position][0][0] !== id;
  const inner = make("button", {
    type: "button", id: `lens-${depth}-${position}`, dir: "auto", textContent: spaced(row.pieces[id]), title: percent(chance), className: hasChanged ? "changed" : "",
    "aria-pressed": isChosen, tabIndex: isChosen ? 0 : -1, style: backed("magnitude", chance, 1), onclick: () => choose({ depth, position }),
  });
  return make("td", {}, inner);
}

// The deepest block is the uppermost row.
function move({ trace, state, choose }, event) {
  const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const depth = Math.min(trace.overview.model.n_layer, Math.max(0, state.depth + step[0]));
  const position = Math.min(trace.overview.tokens.length - 1, Math.max(0, state.position + step[1]));
  document.getElementById(`lens-${depth}-${position}`).focus();
  choose({ depth, position });
}

function cell({ trace, state, words }, row, depth) {
  const rows = row.likeliest[state.position].map(([id, chance]) => [piece(row.pieces[id]), String(id), barCell(percent(chance), chance)]);
  const title = `${words.after} ${after(words, depth)}, ${words.at} ${state.position} ${quoted(pieceOf(trace, state.position))}`;
  return make("div", { id: "lens-cell" }, make("h3", { textContent: title }), table([words.piece, "id", words.chance], rows));
}
