// The same text through the run's checkpoints, and a comparison with another run.
import { figure, make, note, percent, slider, table } from "./dom.js";
import { figuresOf } from "./film.js";
import { isSaved } from "./source.js";
import { piece } from "./token.js";

export const historyPanel = {
  id: "history",
  needs: [],
  figures: () => ["losses", "choice"],
  async draw(view) {
    const { trace, words } = view;
    const { steps } = trace.overview;
    const earlier = steps.length > 1 ? [scrubber(view, steps)] : []; // the panel before says how to get some
    return [...earlier, isSaved ? note(words.noCompareSaved) : await comparison(view)];
  },
};

function scrubber({ state, words, choose }, steps) {
  const at = state.step === null ? steps.length : Math.max(0, steps.indexOf(state.step));
  const format = (number) => (number === steps.length ? words.loaded : `${words.step} ${steps[number].toLocaleString("en")}`);
  return slider("step", words.checkpoint, [0, steps.length, 1], at, format, () => {}, (number) => choose({ step: number === steps.length ? null : steps[number] }));
}

// Both runs' results on this text. Nats per byte are comparable even if the tokenizers differ.
async function comparison({ trace, base, state, words, choose }) {
  const { runs } = trace.overview;
  if (runs.length < 2) return note(words.noCompare);
  const toggle = make("label", { className: "check" }, make("input", { type: "checkbox", id: "compare", checked: state.compare, onchange: (event) => choose({ compare: event.target.checked }) }), ` ${words.compareWith} ${runs[1]}`);
  if (!state.compare) return toggle;
  const both = await Promise.all([trace, base].map(async (each, run) => [runs[run], ...(await summary(each))]));
  return make("div", { id: "runs" }, toggle, table([words.run, words.tokens, words.meanLoss, words.perByte, words.wouldSay, words.chance], both));
}

async function summary(trace) {
  const { sum, loss, best: [token] } = await figuresOf(trace);
  const predictedBytes = trace.overview.tokens.slice(1).reduce((total, { bytes }) => total + bytes.length / 2, 0);
  const figures = loss === null ? ["–", "–"] : [figure(loss, 3), figure(sum / Math.max(1, predictedBytes), 3)];
  return [String(trace.overview.tokens.length), ...figures, piece(token.piece), percent(token.chance)];
}
