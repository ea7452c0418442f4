// The next-token distribution after each logits processor; sampling and appending a token.
import { barCell, button, figure, make, note, percent, row, slider, table } from "./dom.js";
import { fetchArray, fetchDetail, isSaved } from "./source.js";
import { piece } from "./token.js";

// Minimum, maximum and step.
const SLIDERS = { temperature: [0.05, 2, 0.05], top_k: [0, 100, 1], top_p: [0.05, 1, 0.05], min_p: [0, 0.5, 0.01], repetition_penalty: [1, 2, 0.05], presence_penalty: [0, 2, 0.05], frequency_penalty: [0, 2, 0.05] };
const MOST_ROWS = 14;

export const nextPanel = {
  id: "next",
  needs: ["options"],
  figures: () => ["logits", "next.model", "choice"],
  async draw(view) {
    const { trace, base, state } = view;
    const choice = await fetchDetail(trace, "choice", {}, state.options);
    const other = base && base.overview.tokenizer === trace.overview.tokenizer ? (await fetchArray(base, "next.model")).values : null;
    return [...(isSaved ? [] : [sliders(view)]), distribution(view, choice, other), isSaved ? note(view.words.notDrawnSaved) : writing(view)];
  },
};

function sliders({ trace, state, words, choose }) {
  const all = Object.entries(SLIDERS).map(([name, limits]) =>
    slider(name, words.options[name], limits, state.options[name] ?? trace.overview.options[name], String, () => {}, (value) => choose({ options: { ...state.options, [name]: value } })));
  return make("div", { className: "sliders" }, ...all, button(words.asGiven, () => choose({ options: {} }), { id: "as-given" }));
}

function distribution(view, { stages, tokens, chances, possible, entropy }, other) {
  const { words, baseName } = view;
  const heading = [words.piece, "id", ...(other ? [baseName] : []), ...stages.map((stage) => words.stages[stage] ?? stage)];
  const figuresOf = (values) => values.map((chance) => barCell(percent(chance), chance));
  const rows = tokens.slice(0, MOST_ROWS).map(({ id, piece: text }, at) => [candidate(view, id, text), String(id), ...figuresOf([...(other ? [other[id]] : []), ...chances[at]])]);
  const gap = other ? ["", ""] : [""];
  const sums = [[words.possible, ...gap, ...possible.map((count) => count.toLocaleString("en"))], [words.entropy, ...gap, ...entropy.map((nats) => figure(nats, 3))]];
  return make("div", { id: "distribution" }, table(heading, [...rows, ...sums]));
}

// A click appends the token as if it had been sampled.
function candidate(view, id, text) {
  if (isSaved || isFull(view.trace)) return piece(text);
  return make("button", { type: "button", className: "link", title: view.words.append, "aria-label": `${view.words.append}: ${text}`, onclick: () => append(view, id) }, piece(text));
}

function append({ state, choose }, id) {
  choose({ written: [...state.written, id], position: null });
}

function isFull({ overview: { tokens, model } }) {
  return tokens.length >= model.context_length;
}

// Sample a token on the server, append it, and trace the result.
function writing(view) {
  const { trace, state, words, choose, say } = view;
  const draw = async () => {
    const [seed] = crypto.getRandomValues(new Uint32Array(1));
    try {
      const { token } = await fetchDetail(trace, "sample", { seed }, state.options);
      append(view, token.id);
    } catch (error) {
      say(error);
    }
  };
  const back = () => choose({ written: state.written.slice(0, -1), position: null });
  const written = trace.overview.written ? trace.overview.tokens.slice(-trace.overview.written) : [];
  return make("div", {},
    row(button(words.sample, draw, { id: "sample", className: "main", disabled: isFull(trace) }), button(words.takeBack, back, { id: "take-back", disabled: !written.length })),
    note(...(isFull(trace) ? [words.full] : written.length ? [`${words.written}: `, ...written.map((token) => piece(token.piece))] : [words.notWritten])));
}
