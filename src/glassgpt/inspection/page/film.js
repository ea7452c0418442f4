// As it learned: the same text at steps of training at equal ratios, as a film of its losses, one head and the next token.
import { backed } from "./color.js";
import { barCell, button, figure, keepingFocus, make, note, percent, row, select, table } from "./dom.js";
import { failure } from "./failure.js";
import { square } from "./head.js";
import { isSeenBy, matrix } from "./matrix.js";
import { isStill, player } from "./player.js";
import { fetchArray, fetchDetail, fetchTrace, isSaved } from "./source.js";
import { label, shape } from "./svg.js";
import { piece, pieceOf, quoted, tokenButtons } from "./token.js";

const SECONDS = 1; // per frame, at normal speed
const SPEEDS = ["0.5", "1", "2", "4"];
const RATIO = Math.SQRT2; // least ratio of one frame's step to the one before
const SHOWN = 6; // next tokens
const [HEIGHT, EDGE, ABOVE, BELOW] = [150, 44, 12, 24]; // of the curve and its margins, in pixels

const film = { key: "", at: null, speed: "1", traces: new Map(), known: new Map(), run: 0 };

export const filmPanel = {
  id: "film",
  needs: ["layer", "head", "position", "key"],
  figures: ({ state }) => ["losses", "choice", `blocks.${state.layer}.attention.weights`],
  async draw(view) {
    const { trace, state, words } = view;
    const steps = framesOf(trace.overview.steps);
    if (steps.length < 2) return [note(isSaved ? words.noStepsSaved : words.noSteps)];
    const key = JSON.stringify([state.text, state.written]);
    if (film.key !== key) Object.assign(film, { key, at: null, traces: new Map(), known: new Map() });
    film.run += 1; // ends a film that is played
    const screen = make("div", { id: "film-screen" });
    const shown = projector(view, steps, screen);
    await shown.go(film.at ?? steps.length - 1);
    return [shown.node, screen];
  },
};

// The first step and the last, and between them those that are far enough from each other.
export function framesOf(steps) {
  const kept = [];
  for (const step of steps) if (!kept.length || step >= RATIO * kept.at(-1)) kept.push(step);
  if (kept.length && kept.at(-1) !== steps.at(-1)) kept[kept.length > 1 ? kept.length - 1 : 1] = steps.at(-1);
  return kept;
}

// Goes to a frame by `go`, or plays all of them until the last one, while the panel stays as it is.
function projector(view, steps, screen) {
  const { words } = view;
  const last = steps.length - 1;
  const mine = film.run;
  let turn = 0;
  let isPlaying = false;
  const speed = isStill() ? null : select("film-speed", words.film.speed, SPEEDS.map((each) => [each, `${each} ×`]), film.speed, (value) => { film.speed = value; });
  const tell = () => show(words.film.at(steps[film.at].toLocaleString("en"), film.at + 1, steps.length), { isPlaying, isFirst: film.at === 0, isLast: film.at === last });
  const go = async (to) => {
    const asked = ++turn;
    film.at = Math.min(last, Math.max(0, to));
    tell();
    const nodes = await frameAt(view, steps, film.at, go).catch((error) => [failure(error, words)]);
    if (asked === turn && mine === film.run) keepingFocus(() => screen.replaceChildren(...nodes));
  };
  const stop = () => {
    isPlaying = false;
    tell();
  };
  const play = async () => {
    isPlaying = true;
    tell();
    if (film.at === last) await go(0);
    while (isPlaying && mine === film.run && film.at < last) {
      const next = frameOf(view, steps[film.at + 1]).catch(() => null); // reported when it is shown
      await new Promise((resolve) => { setTimeout(resolve, (1000 * SECONDS) / Number(film.speed)); });
      await next;
      if (isPlaying && mine === film.run) await go(film.at + 1);
    }
    if (mine === film.run) stop();
  };
  const stepped = (to) => () => {
    isPlaying = false;
    go(to());
  };
  const moves = { ArrowLeft: stepped(() => film.at - 1), ArrowRight: stepped(() => film.at + 1), Home: stepped(() => 0), End: stepped(() => last) };
  const { node, show } = player("film", { ...words.motion, player: words.film.player }, { toggle: () => (isPlaying ? stop() : play()), moves }, speed);
  return { node, go };
}

// What a frame shows of a step: the loss of each token, the next token, and the weights of the selected head.
async function frameOf({ state }, step) {
  const { text, written, layer, head } = state;
  if (!film.traces.has(step)) {
    const asked = fetchTrace({ step, text, written });
    film.traces.set(step, asked);
    asked.catch(() => film.traces.delete(step));
  }
  const trace = await film.traces.get(step);
  const at = `blocks.${layer}.attention`;
  const [figures, weights, mask] = await Promise.all([figuresOf(trace), fetchArray(trace, `${at}.weights`, head), fetchArray(trace, `${at}.mask`)]);
  const found = { step, ...figures, weights, mask };
  film.known.set(step, found);
  return found;
}

// The loss of each token in nats, their sum and mean, and the most probable next tokens.
export async function figuresOf(trace) {
  const [{ losses }, { tokens, chances }] = await Promise.all([fetchDetail(trace, "losses"), fetchDetail(trace, "choice")]);
  const known = losses.filter((each) => each !== null); // not those of pictures
  const sum = known.reduce((total, each) => total + each, 0);
  return { losses, sum, loss: known.length ? sum / known.length : null, best: tokens.map((token, row) => ({ ...token, chance: chances[row][0] })) };
}

// The frames that were shown, in the order of their steps.
function framesShown(steps) {
  return steps.map((step) => film.known.get(step)).filter(Boolean);
}

async function frameAt(view, steps, at, go) {
  const { trace, state, words, choose } = view;
  const found = await frameOf(view, steps[at]);
  const uniform = Math.log(trace.overview.model.vocab_size);
  const hasLoss = (token) => token && found.losses[token - 1] !== null;
  const title = (token) => (hasLoss(token) ? `${quoted(pieceOf(trace, token))} ${figure(found.losses[token - 1], 3)} ${words.nats}` : "");
  const paint = (token) => (hasLoss(token) ? backed("magnitude", (found.losses[token - 1] / uniform) ** 2, 1) : {});
  const { values, shape: [length] } = found.weights;
  const shown = { ...square(view, "film-weights", words.weights, values, length), isSeen: isSeenBy(found) };
  const best = found.best.slice(0, SHOWN).map((token) => [piece(token.piece), barCell(percent(token.chance), token.chance)]);
  const text = found.loss === null ? [] : [make("h3", { textContent: words.film.losses }), tokenButtons("film-token", view, { title, paint })];
  return [
    ...(found.loss === null ? [] : [curve(view, steps, at, uniform, go)]), ...text,
    make("div", { className: "grid wide" },
      make("div", {}, make("h3", { textContent: `${words.head} ${state.layer}.${state.head}` }), matrix(shown)),
      make("div", { id: "film-next" }, make("h3", { textContent: words.panels.next.title }), table([words.piece, words.chance], best)),
      make("div", {}, make("h3", { textContent: words.film.frames }), numbers(view, steps, at, go), row(button(words.film.whole, () => choose({ step: steps[at] }), { id: "film-whole" })))),
  ];
}

// Mean loss by step, at equal ratios of steps; the loss of guessing at random is dotted.
function curve({ words }, steps, at, uniform, go) {
  const width = Math.max(280, document.querySelector("#film .body").clientWidth);
  const known = framesShown(steps);
  const most = Math.max(uniform, ...known.map(({ loss }) => loss));
  const x = (step) => EDGE + ((width - EDGE - 20) * Math.log2((1 + step) / (1 + steps[0]))) / Math.log2((1 + steps.at(-1)) / (1 + steps[0]));
  const y = (loss) => ABOVE + (HEIGHT - ABOVE - BELOW) * (1 - loss / most);
  let end = -Infinity;
  const ticks = steps.filter((step) => {
    const isFree = x(step) > end;
    if (isFree) end = x(step) + 9 * step.toLocaleString("en").length + 6;
    return isFree;
  });
  const now = film.known.get(steps[at]);
  const dots = known.map(({ step, loss }) => {
    const dot = shape("circle", { cx: x(step), cy: y(loss), r: step === now.step ? 6 : 3.5, class: step === now.step ? "now" : "" }, shape("title", {}, `${words.step} ${step}: ${figure(loss, 3)} ${words.nats}`));
    dot.addEventListener("click", () => go(steps.indexOf(step)));
    return dot;
  });
  const points = known.map(({ step, loss }) => `${x(step)},${y(loss)}`).join(" ");
  return shape("svg", { id: "film-curve", class: "curve", role: "img", "aria-label": `${words.meanLoss}: ${words.step} ${now.step}, ${figure(now.loss, 3)}`, viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT },
    shape("line", { x1: EDGE, x2: width, y1: y(0), y2: y(0), class: "axis" }), shape("line", { x1: EDGE, x2: width, y1: y(uniform), y2: y(uniform), class: "uniform" }, shape("title", {}, words.film.uniform)),
    label(EDGE - 6, y(0), "0", { "text-anchor": "end" }), label(EDGE - 6, y(uniform), figure(uniform, 2), { "text-anchor": "end" }),
    ...ticks.map((step) => label(x(step), HEIGHT - 8, step.toLocaleString("en"), { "text-anchor": "middle" })), shape("polyline", { points }), ...dots);
}

// The frames that were shown, in numbers; a click goes to one.
function numbers({ words }, steps, at, go) {
  const known = framesShown(steps);
  const largest = Math.max(...known.map(({ loss }) => loss ?? 0));
  const rows = known.map(({ step, loss, best: [token] }) => {
    const name = button(step.toLocaleString("en"), () => go(steps.indexOf(step)), { className: "link", id: `frame-${step}`, "aria-pressed": step === steps[at] });
    return [name, loss === null ? "–" : barCell(figure(loss, 3), loss / largest), piece(token.piece), barCell(percent(token.chance), token.chance)];
  });
  return make("div", { id: "learned" }, table([words.step, words.meanLoss, words.wouldSay, words.chance], rows));
}
