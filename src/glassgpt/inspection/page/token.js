// Tokens as they are shown everywhere.
import { make } from "./dom.js";

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

// A button for each token: a click chooses the one that is looked at, with Shift the one that it is compared with.
export function tokenButtons(id, view, { paint = () => ({}), title = () => "" } = {}) {
  const { state, trace, choose } = view;
  const first = trace.overview.tokens.length - trace.overview.written;
  const buttons = trace.overview.tokens.map(({ piece: text }, at) =>
    make("button", {
      type: "button", id: `${id}-${at}`, className: `token${at >= first ? " written" : ""}${at === state.key ? " other" : ""}`, dir: "auto",
      textContent: spaced(text), title: title(at), "aria-pressed": at === state.position, style: paint(at),
      onclick: (event) => choose(event.shiftKey ? { key: at } : { position: at }),
    }));
  return make("div", { className: "tokens" }, ...buttons);
}
