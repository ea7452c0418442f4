// The same text through the run's checkpoints, and a comparison with another run.
import { barCell, button, figure, make, note, percent, slider, table } from "./dom.js";
import { fetchDetail, fetchTrace, isSaved } from "./source.js";
import { piece } from "./token.js";

const learned = { key: "", rows: [] }; // results through the checkpoints, and the text they belong to

export const historyPanel = {
  id: "history",
  needs: [],
  figures: () => ["losses", "choice"],
  async draw(view) {
    const { trace, words } = view;
    const { steps } = trace.overview;
    const parts = steps.length ? [scrubber(view, steps), followed(view, steps)] : [note(isSaved ? words.noStepsSaved : words.noSteps)];
    return [...parts, isSaved ? note(words.noCompareSaved) : await comparison(view)];
  },
};

function scrubber({ state, words, choose }, steps) {
  const at = state.step === null ? steps.length : Math.max(0, steps.indexOf(state.step));
  const format = (number) => (number === steps.length ? words.loaded : `${words.step} ${steps[number].toLocaleString("en")}`);
  return slider("step", words.checkpoint, [0, steps.length, 1], at, format, () => {}, (number) => choose({ step: number === steps.length ? null : steps[number] }));
}

function followed(view, steps) {
  const { state, words, redraw, say } = view;
  const key = JSON.stringify([state.text, state.written]);
  const follow = async () => {
    Object.assign(learned, { key, rows: [] });
    for (const step of steps) {
      try {
        const rows = [...learned.rows, await figuresAt(step, state)];
        if (learned.key !== key) return; // another text has been requested meanwhile
        learned.rows = rows;
        await redraw("history");
      } catch (error) {
        say(error); // a damaged checkpoint; the others are still worth seeing
      }
    }
  };
  const start = button(words.follow, follow, { id: "follow" });
  if (learned.key !== key || !learned.rows.length) return make("div", {}, start);
  const largest = Math.max(...learned.rows.map(({ loss }) => loss ?? 0));
  const rows = learned.rows.map(({ step, loss, token, chance }) =>
    [button(step.toLocaleString("en"), () => view.choose({ step }), { className: "link" }), loss === null ? "–" : barCell(figure(loss, 3), loss / largest), piece(token.piece), barCell(percent(chance), chance)]);
  return make("div", { id: "learned" }, start, table([words.step, words.meanLoss, words.wouldSay, words.chance], rows));
}

async function figuresAt(step, { text, written }) {
  const trace = await fetchTrace({ step, text, written });
  return { step, ...(await figuresOf(trace)) };
}

// Total and mean loss of the text in nats, and the most probable next token.
async function figuresOf(trace) {
  const [{ losses }, { tokens, chances }] = await Promise.all([fetchDetail(trace, "losses"), fetchDetail(trace, "choice")]);
  const sum = losses.reduce((total, each) => total + each, 0);
  return { sum, loss: losses.length ? sum / losses.length : null, token: tokens[0], chance: chances[0][0] };
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
  const { sum, loss, token, chance } = await figuresOf(trace);
  const predictedBytes = trace.overview.tokens.slice(1).reduce((total, { bytes }) => total + bytes.length / 2, 0);
  const figures = loss === null ? ["–", "–"] : [figure(loss, 3), figure(sum / Math.max(1, predictedBytes), 3)];
  return [String(trace.overview.tokens.length), ...figures, piece(token.piece), percent(chance)];
}
