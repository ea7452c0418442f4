// A guided tour of eight stops: each opens one panel on the most telling head and says what to look for.
import { button, make, row, within } from "./dom.js";
import { pieceOf, quoted } from "./token.js";

export const STOPS = ["tokens", "embeddings", "block", "head", "mlp", "stream", "lens", "next"]; // panels

// Go to a stop, or end the tour with null.
export function goTo(view, stop) {
  if (stop === null) {
    view.choose({ tour: null });
    return;
  }
  const at = within(stop, STOPS.length);
  const { tokens, telling: { layer, head, keys } } = view.trace.overview;
  view.choose({ tour: at, open: [STOPS[at]], layer, head, position: tokens.length - 1, key: keys[layer][head] });
  view.open(STOPS[at], {}, false);
}

// The narration, at the bottom of the window; nothing outside of the tour.
export function tourBox(view) {
  const { state: { tour }, words } = view;
  if (tour === null) return [];
  const at = within(tour, STOPS.length);
  const { title, text } = words.tour.stops[at];
  const step = (name, to, properties = {}) => button(name, () => goTo(view, to), properties);
  const box = make("div", { id: "tour", role: "region", "aria-label": words.tour.name },
    make("p", {}, make("b", { textContent: `${at + 1}/${STOPS.length} · ${title}` }), ` ${text(factsOf(view))}`),
    row(step(`‹ ${words.previous}`, at - 1, { id: "tour-back", disabled: at === 0 }), at < STOPS.length - 1 ? step(`${words.following} ›`, at + 1, { id: "tour-on", className: "main" }) : null, step(words.tour.end, null, { id: "tour-end" })));
  box.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    goTo(view, at + by);
  };
  return [box];
}

// What the narration mentions of this text and this model.
function factsOf({ trace }) {
  const { tokens, model, telling: { layer, head, keys } } = trace.overview;
  const last = tokens.length - 1;
  return { count: tokens.length, blocks: model.n_layer, heads: model.n_head, width: model.n_embd, name: `${layer}.${head}`, from: quoted(pieceOf(trace, last)), to: quoted(pieceOf(trace, keys[layer][head])) };
}
