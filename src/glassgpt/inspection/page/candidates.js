// The texts of which the program chose the one that the page opens with; a click traces another.
import { barCell, button, figure, make, note, percent, table } from "./dom.js";

let isOpen = false;

export function candidates({ trace, state, words, choose }) {
  const { candidates: found } = trace.overview;
  if (!found.length) return [];
  const own = found.filter(({ source }) => source === "validation").length;
  const rows = found.filter((each) => each.is_known).map(({ text, source, loss, layer, head, share }) => {
    const name = button(text, () => choose({ text, written: [], interventions: [], position: null, depth: null, layer, head, key: null }), { className: "link", dir: "auto", "aria-pressed": text === state.text });
    return [name, words.candidates.sources[source], figure(loss, 2), `${layer}.${head}`, barCell(percent(share), share)];
  });
  const heading = [words.candidates.text, words.candidates.source, words.perByte, words.head, words.candidates.share];
  return [make("details", { id: "candidates", open: isOpen, ontoggle: (event) => { isOpen = event.target.open; } }, make("summary", { textContent: words.candidates.summary(found.length, own) }), note(words.candidates.help(found.length - rows.length)), table(heading, rows))];
}
