// How tokens are displayed.
import { button, make, within } from "./dom.js";
import { background } from "./thumbnails.js";

const BLANK = "␣";

export function pieceOf(trace, at) {
  return trace.overview.tokens[at].piece;
}

export function spaced(piece) {
  return piece.replaceAll(" ", BLANK);
}

export function quoted(piece) {
  return `“${piece}”`;
}

export function piece(text) {
  return make("code", { className: "piece", dir: "auto", textContent: spaced(text) });
}

// A button for each token. A click selects it, Shift-click selects it for comparison; the arrow keys move between tokens, so
// that the whole group is a single tab stop.
export function tokenButtons(id, view, { paint = () => ({}), title = () => "" } = {}) {
  const { state, trace, choose } = view;
  const count = trace.overview.tokens.length;
  const first = count - trace.overview.written;
  const buttons = trace.overview.tokens.map(({ piece: text }, at) => {
    const part = background(trace, at); // of a picture, in place of a text
    return make("button", {
      type: "button", id: `${id}-${at}`, className: `token${at >= first ? " written" : ""}${at === state.key ? " other" : ""}${part ? " part-of-picture" : ""}`, dir: "auto", tabIndex: at === state.position ? 0 : -1,
      textContent: part ? "" : spaced(text), title: title(at) || text, "aria-label": part ? text : spaced(text), "aria-pressed": at === state.position, style: { ...paint(at), ...part },
      onclick: (event) => choose(event.shiftKey ? { key: at } : { position: at }),
    });
  });
  const box = make("div", { className: "tokens" }, ...buttons);
  box.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const position = within(state.position + step, count);
    buttons[position].focus({ preventScroll: true }); // the redrawn button with the same id gets the focus
    choose({ position });
  };
  return box;
}

// Scroll the selected token into view.
export function showChosen(body) {
  const [box, chosen] = [body.querySelector(".tokens"), body.querySelector(".tokens [aria-pressed=true]")];
  if (!chosen) return;
  const top = chosen.offsetTop - box.offsetTop;
  box.scrollTop = Math.min(top, Math.max(top + chosen.offsetHeight - box.clientHeight + 8, box.scrollTop));
}

// Buttons for previous and next around the selection.
export function stepper(view, id, name, count, text) {
  const { state, words, choose } = view;
  return make("span", { className: "stepper" },
    button("‹", () => choose({ [name]: Math.max(0, state[name] - 1) }), { id: `${id}-less`, "aria-label": `${words.previous}: ${words[name]}` }),
    make("span", { id: `at-${id}`, dir: "auto", textContent: `${words[name]} ${text}` }),
    button("›", () => choose({ [name]: Math.min(count - 1, state[name] + 1) }), { id: `${id}-more`, "aria-label": `${words.following}: ${words[name]}` }));
}
