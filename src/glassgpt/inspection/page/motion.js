// One value of attention, step by step: query and key, their products, scale, mask, softmax, mixed values. It can be played.
import { figure, make, note, row } from "./dom.js";
import { headOf, maskFormula, rowOf, strongest } from "./head.js";
import { drawMatrix, isSeenBy, largestOf, matrix } from "./matrix.js";
import { player } from "./player.js";
import { pieceOf, quoted, stepper } from "./token.js";

const SECONDS = 1.6; // per step
const MIXED = 6; // values drawn one by one, the strongest; the others are summed
const STRIP = 22; // height of a row, in pixels

let progress = null; // number of steps that are done, with a fraction for the one in motion; null: all
let frame = 0;

export const motionPanel = {
  id: "motion",
  needs: ["layer", "head", "position", "key", "channel"],
  figures: ({ state }) => ["q", "k", "v", "scores", "weights", "mixed"].map((part) => `blocks.${state.layer}.attention.${part}`),
  async draw(view) {
    const { trace, state, words } = view;
    const parts = await headOf(trace, state);
    if (!parts.scores) return [note(words.notSaved)];
    const steps = [vectors, products, scaled, masked, softmax, mixing].map((step) => step(view, parts));
    const choosing = (name, id) => stepper(view, id, name, parts.length, `${state[name]} ${quoted(pieceOf(trace, state[name]))}`);
    const cell = row(make("b", { textContent: `${words.head} ${state.layer}.${state.head}` }), choosing("position", "motion-query"), "→", choosing("key", "motion-key"));
    return [cell, played(steps, words.motion), make("div", { className: "grid wide steps" }, ...steps.map(({ node }) => node))];
  },
};

// Plays the steps, and shows how far it is.
function played(steps, words) {
  const clock = clockOf(steps.length, () => node.isConnected, (now) => {
    steps.forEach((each, at) => each.paint(Math.min(1, Math.max(0, now - at)), now > at && now <= at + 1 && progress !== null));
    show(words.at(Math.max(1, Math.ceil(now)), steps.length), { isPlaying: frame !== 0, isFirst: now <= 1, isLast: now >= steps.length });
  });
  const { node, show } = player("motion", words, { toggle: () => (frame ? clock.stop() : clock.start()), moves: clock.moves });
  clock.stop();
  return node;
}

// Moves through the steps and shows them: at once by `moves`, or in time until the last one, while they are on the page.
function clockOf(count, isOnPage, show) {
  const now = () => progress ?? count;
  const stop = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    show(now());
  };
  const go = (to) => {
    progress = Math.min(count, Math.max(1, to));
    stop();
  };
  const start = () => {
    let last = performance.now();
    if (now() >= count) progress = 0;
    const move = (time) => {
      if (!isOnPage()) return;
      progress = Math.min(count, now() + Math.max(0, time - last) / (1000 * SECONDS));
      last = time;
      frame = progress < count ? requestAnimationFrame(move) : 0;
      show(progress);
    };
    frame = requestAnimationFrame(move);
    show(now());
  };
  const moves = { ArrowLeft: () => go(Math.ceil(now()) - 1), ArrowRight: () => go(Math.floor(now()) + 1), Home: () => go(1), End: () => go(count) };
  return { start, stop, moves };
}

// A step: a picture of which paint(share) shows a part, and a line of numbers.
function stepOf(id, title, formula, shown, seen, text) {
  const picture = shown ? matrix(shown) : null;
  const line = make("p", { className: "filled", id: `${id}-line` });
  const node = make("figure", { id: `${id}-step` }, make("figcaption", {}, make("b", { textContent: title }), make("span", { className: "formula", textContent: formula })), picture, line);
  const paint = (share, isNow) => {
    node.className = share === 0 ? "waiting" : isNow ? "now" : "";
    if (shown) drawMatrix(picture.querySelector("canvas"), { ...shown, ...seen(share) });
    line.replaceChildren(...text(share).map((textContent) => make("span", { textContent })));
  };
  return { node, paint };
}

// Properties of a picture with one column per channel of the head.
function byChannel({ trace, state, choose, words }, id, label, lines, names) {
  const columns = lines[0].length;
  const values = Float32Array.from(lines.flatMap((line) => [...line]));
  const tell = (at, column) => `${names[at]} · ${words.channel} ${column} = ${figure(values[at * columns + column])}`;
  const cell = [names.length - 1, Math.min(state.channel, columns - 1)];
  return { id, label, values, rows: lines.length, columns, names, tell, cell, kind: "signed", largest: largestOf(values), height: STRIP * lines.length, choose: (_, channel) => choose({ channel }) };
}

// Properties of a picture with one column per key.
function byKey({ trace, state, choose }, id, label, values) {
  const tell = (_, key) => `${quoted(pieceOf(trace, key))} ${figure(values[key])}`;
  const columnNames = trace.overview.tokens.map(({ piece }) => piece);
  return { id, label, values, rows: 1, columns: values.length, columnNames, tell, cell: [0, state.key], height: 2 * STRIP, choose: (_, key) => choose({ key }) };
}

function pairOf({ state }, parts) {
  return [rowOf(parts.q, state.position), rowOf(parts.k, state.key), rowOf(parts.v, state.key)];
}

function vectors(view, parts) {
  const { trace, state, words } = view;
  const names = [["q", state.position], ["k", state.key], ["v", state.key]].map(([name, at]) => `${name} ${quoted(pieceOf(trace, at))}`);
  const lines = pairOf(view, parts);
  const shown = byChannel(view, "motion-vectors", words.motion.vectors, lines, names);
  const channel = shown.cell[1];
  const seen = (share) => ({ isSeen: (_, column) => column < share * parts.width });
  const text = () => lines.map((line, at) => `${"qkv"[at]}[${channel}] = ${figure(line[channel])}`);
  return stepOf("motion-vectors", `1 · ${words.motion.vectors}`, "q = Wq x, k = Wk x, v = Wv x", shown, seen, text);
}

// The products are added from the first channel on.
function products(view, parts) {
  const { words } = view;
  const [q, k] = pairOf(view, parts);
  const product = q.map((value, at) => value * k[at]);
  const shown = byChannel(view, "motion-products", words.motion.products, [product], ["q × k"]);
  const channel = shown.cell[1];
  const seen = (share) => ({ isSeen: (_, column) => column < share * parts.width });
  const text = (share) => {
    const count = Math.round(share * parts.width);
    const sum = product.slice(0, count).reduce((total, value) => total + value, 0);
    return [`${figure(q[channel])} × ${figure(k[channel])} = ${figure(product[channel])}`, words.motion.sum(count, parts.width, figure(sum))];
  };
  return stepOf("motion-products", `2 · ${words.motion.products}`, "q · k = Σ q[c] k[c]", shown, seen, text);
}

function scaled(view, parts) {
  const { state, words } = view;
  const [q, k] = pairOf(view, parts);
  const sum = q.reduce((total, value, at) => total + value * k[at], 0);
  const score = rowOf(parts.scores, state.position)[state.key];
  return stepOf("motion-scale", `3 · ${words.motion.scaled}`, "s = q · k / √D", null, null, () => [`${figure(sum)} / √${parts.width} = ${figure(sum)} / ${figure(Math.sqrt(parts.width))}`, `s = ${figure(score)}`]);
}

// The scores with all keys; the mask moves in from the right.
function masked(view, parts) {
  const { state, words } = view;
  const values = rowOf(parts.scores, state.position);
  const isSeen = (key) => isSeenBy(parts)(state.position, key);
  const shown = { ...byKey(view, "motion-scores", words.motion.masked, values), kind: "signed", largest: largestOf(values) };
  const hidden = values.reduce((count, _, key) => count + (isSeen(key) ? 0 : 1), 0);
  const seen = (share) => ({ isSeen: (_, key) => isSeen(key) || key < (1 - share) * parts.length });
  const text = () => [words.motion.hidden(hidden, parts.length), isSeen(state.key) ? `s = ${figure(values[state.key])}` : "s = −∞"];
  return stepOf("motion-scores", `4 · ${words.motion.masked}`, maskFormula(parts), shown, seen, text);
}

function softmax(view, parts) {
  const { state, words } = view;
  const values = rowOf(parts.weights, state.position);
  const isSeen = (key) => isSeenBy(parts)(state.position, key);
  const shown = byKey(view, "motion-weights", words.weights, values);
  const seen = (share) => ({ isSeen: (_, key) => isSeen(key) && key < share * parts.length });
  const text = (share) => {
    const sum = values.slice(0, Math.round(share * parts.length)).reduce((total, value) => total + value, 0);
    return [`a = ${figure(values[state.key])}`, `Σ a = ${figure(sum)}`];
  };
  return stepOf("motion-weights", `5 · ${words.weights}`, "aⱼ = exp sⱼ / Σ exp s", shown, seen, text);
}

// The strongest values times their weights, the sum of the others, and the sum of all, which grows line by line.
function mixing(view, parts) {
  const { trace, state, words } = view;
  const weights = rowOf(parts.weights, state.position);
  const keys = strongest(weights, MIXED).filter((key) => weights[key] > 0);
  const terms = keys.map((key) => rowOf(parts.v, key).map((value) => value * weights[key]));
  const names = keys.map((key) => `${figure(weights[key], 2)} ${quoted(pieceOf(trace, key))}`);
  const mixed = rowOf(parts.mixed, state.position);
  const others = Array.from(weights.keys()).filter((key) => weights[key] > 0 && !keys.includes(key));
  if (others.length) {
    terms.push(mixed.map((_, channel) => others.reduce((sum, key) => sum + weights[key] * parts.v.values[key * parts.width + channel], 0)));
    names.push(words.motion.others(others.length));
  }
  const shown = byChannel(view, "motion-mixed", words.mixed, [...terms, mixed], [...names, "z"]);
  const channel = shown.cell[1];
  const summed = (count) => mixed.map((value, at) => (count === terms.length ? value : terms.slice(0, count).reduce((sum, term) => sum + term[at], 0)));
  const seen = (share) => {
    const count = Math.round(share * terms.length);
    const values = Float32Array.from([...terms, summed(count)].flatMap((line) => [...line]));
    return { values, isSeen: (at) => at < count || at === terms.length };
  };
  const text = (share) => [terms.map((term) => figure(term[channel], 3)).join(" + "), `z[${channel}] = ${figure(summed(Math.round(share * terms.length))[channel])}`];
  return stepOf("motion-mixed", `6 · ${words.motion.mixing}`, "z = Σ aⱼ vⱼ", shown, seen, text);
}
