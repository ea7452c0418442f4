// The server's load, read from /metrics every second while the page is visible.
import { make, table } from "./dom.js";
import { getText } from "./client.js";
import { buckets, by, parseMetrics, quantile, total } from "./metrics.js";

const SECONDS = 1;
const KEPT = 120; // samples: two minutes
const SVG = "http://www.w3.org/2000/svg";

const samples = []; // { time, metrics }, the newest last
let timer = null;
let element = null; // shown at present

export function dashboard(view) {
  element = make("div", { id: "dashboard", "aria-busy": samples.length === 0 });
  if (samples.length) draw(view, element);
  watch(view, element);
  return [element];
}

// Read metrics until another view is shown.
async function watch(view, mine) {
  clearTimeout(timer);
  if (mine !== element || view.state.view !== "dashboard") return;
  if (!document.hidden) {
    try {
      const metrics = parseMetrics(await getText("metrics"));
      samples.push({ time: performance.now() / 1000, metrics });
      if (samples.length > KEPT) samples.shift();
      view.say(null);
      if (mine === element) draw(view, mine);
    } catch (error) {
      view.say(error);
    }
  }
  if (mine === element) timer = setTimeout(() => watch(view, mine), 1000 * SECONDS);
}

// By card: its value in a sample, given the one before; and its text.
const CARDS = {
  generated: [rate("generation_tokens_total"), amount],
  prompt: [rate("prompt_tokens_total"), amount],
  running: [gauge("num_requests_running"), amount],
  waiting: [gauge("num_requests_waiting"), amount],
  cache: [({ metrics }) => Math.max(0, ...metrics.filter(({ name }) => name === "kv_cache_usage_perc").map(({ value }) => value)), (value) => `${(100 * value).toFixed(1)} %`],
};

function gauge(name) {
  return ({ metrics }) => total(metrics, name);
}

function rate(name) {
  return (sample, before) => (before ? Math.max(0, total(sample.metrics, name) - total(before.metrics, name)) / (sample.time - before.time) : 0);
}

function amount(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(10 * value) / 10);
}

function duration(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${(1000 * seconds).toPrecision(3)} ms` : `${seconds.toPrecision(3)} s`;
}

function draw({ words }, box) {
  const { metrics } = samples.at(-1);
  const cards = Object.entries(CARDS).map(([name, [value, format]]) => {
    const values = samples.map((sample, at) => value(sample, samples[at - 1]));
    return card(name, words.cards[name], format(values.at(-1)), values);
  });
  const oldest = samples.length > 1 ? samples[0].metrics : [];
  for (const [name, metric] of [["first", "time_to_first_token_seconds"], ["between", "inter_token_latency_seconds"]]) {
    const [now, before] = [buckets(metrics, metric), buckets(oldest, metric)];
    const isQuiet = !(now.at(-1)?.[1] - (before.at(-1)?.[1] ?? 0));
    const [middle, high] = [0.5, 0.95].map((share) => duration(quantile(share, now, isQuiet ? [] : before)));
    cards.push(card(name, words.cards[name], middle, null, `95 %: ${high}`));
  }
  const rows = (counts) => [...counts].sort((one, other) => other[1] - one[1]).map(([name, count]) => [words.reasons[name] ?? name, amount(count)]);
  const models = [...by(metrics, "generation_tokens_total", "model_name").keys()];
  const ofModel = (name, model) => amount(total(metrics.filter(({ labels }) => labels.model_name === model), name));
  box.replaceChildren(
    make("div", { className: "cards" }, ...cards),
    counted("finished", words.finished, words, rows(by(metrics, "request_success_total", "finished_reason"))),
    counted("rejected", words.rejected, words, rows(by(metrics, "admission_rejections_total", "reason"))),
    make("section", { id: "models" }, make("h2", { textContent: words.models }), table([words.model, words.cards.running, words.cards.waiting, words.generatedTokens], models.map((model) => [model, ...["num_requests_running", "num_requests_waiting", "generation_tokens_total"].map((name) => ofModel(name, model))]))));
  box.removeAttribute("aria-busy");
}

function counted(id, title, words, rows) {
  return make("section", { id }, make("h2", { textContent: title }), rows.length ? table([words.reason, words.number], rows) : make("p", { className: "note", textContent: words.none }));
}

function card(id, title, value, values, more = "") {
  return make("div", { className: "card", id: `card-${id}` }, make("h2", { textContent: title }), make("b", { textContent: value }), more ? make("p", { className: "note", textContent: more }) : null, values ? line(values) : null);
}

// A line through the last values.
function line(values) {
  const largest = Math.max(...values, 1e-9);
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "polyline");
  Object.entries({ viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" }).forEach(([name, value]) => svg.setAttribute(name, value));
  path.setAttribute("points", values.map((value, at) => `${(100 * (at + KEPT - values.length)) / (KEPT - 1)},${29 - (28 * value) / largest}`).join(" "));
  svg.append(path);
  return svg;
}
