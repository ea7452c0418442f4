// The page, from top to bottom as the data flows. What a person typed is only ever set as text, never as markup.
import { wordsFor } from "./words.js";
import { fetchArray, fetchTrace, isSaved } from "./source.js";
import { cellAt, drawMatrix } from "./matrix.js";

const SLIDERS = { temperature: [0.05, 2, 0.05, 0.8], top_k: [0, 100, 1, 0], top_p: [0.05, 1, 0.05, 0.95], min_p: [0, 0.5, 0.01, 0] };
const COLOURS = ["#7fd1de", "#f5d76e", "#a8d99a", "#e3a9dc"];
const MOST_TOLD = 10; // candidates of a stage, as the program sends them
const MOST_LABELS = 30; // rows of the large map that are labelled
const root = document.getElementById("page");
const state = { block: 0, head: 0, text: null, interventions: [], options: {}, language: navigator.language, ...fromAddress() };
let words = wordsFor(state.language);
let base = null;
let trace = null;
let turn = 0;

function fromAddress() {
  try {
    return JSON.parse(decodeURIComponent(location.hash.slice(1)));
  } catch {
    return {};
  }
}

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function section(title, about, ...children) {
  return make("section", {}, make("h2", { textContent: title }), make("p", { className: "about", textContent: about }), ...children);
}

function tensor(name) {
  return trace.overview.tensors.find((each) => each.name === name);
}

function sourceLine(name) {
  const { source, shape, unit, formula } = tensor(name);
  const text = `${name} [${shape.join(", ")}], ${unit} = ${formula} · ${words.source} ${source.file}:${source.first}–${source.last}`;
  return make("p", { className: "about", textContent: text });
}

async function ask() {
  const mine = ++turn;
  const { text, options, interventions } = state;
  try {
    const undisturbed = await fetchTrace({ text, options, interventions: [] });
    const found = interventions.length && !isSaved ? await fetchTrace({ text, options, interventions }) : undisturbed;
    if (mine !== turn) return; // somebody has asked for something else meanwhile
    [base, trace] = [undisturbed, found];
    state.text = trace.overview.text;
    state.block = Math.min(state.block, trace.overview.model.n_layer - 1);
    state.head = Math.min(state.head, trace.overview.model.n_head - 1);
    render();
  } catch (error) {
    root.querySelector(".error")?.remove();
    root.prepend(make("p", { className: "error", role: "alert", textContent: error.message }));
  }
}

function render() {
  if (!isSaved) history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(state))}`);
  document.documentElement.lang = words === wordsFor("ko") ? "ko" : "en";
  root.replaceChildren(header(), tokens(), attention(), norms(), lens(), next());
}

function header() {
  const other = document.documentElement.lang === "ko" ? ["en", "English"] : ["ko", "한국어"];
  const change = () => {
    state.language = other[0];
    words = wordsFor(other[0]);
    render();
  };
  const line = make("div", { className: "row" }, make("h1", { textContent: words.title }), make("button", { textContent: other[1], onclick: change }));
  if (isSaved) return make("header", {}, line, make("p", { className: "about", textContent: words.offline }));
  const text = make("textarea", { value: state.text ?? "", "aria-label": words.run });
  const form = make("form", {}, text, make("button", { textContent: words.run }));
  form.onsubmit = (event) => {
    event.preventDefault();
    Object.assign(state, { text: text.value, interventions: [] });
    ask();
  };
  return make("header", {}, line, form);
}

function tokens() {
  const chips = trace.overview.tokens.map(({ id, piece, bytes }, at) => {
    const chip = make("span", { className: "token", textContent: piece, title: `${at}: ${id} = ${bytes}` });
    chip.style.cssText = `background: ${COLOURS[at % COLOURS.length]}; color: #111`;
    return chip;
  });
  const merging = trace.overview.pretokens.filter((part) => part.merges.length);
  const most = Math.max(0, ...merging.map((part) => part.merges.length));
  const pieces = make("div", { className: "pieces" });
  const show = (count) => pieces.replaceChildren(...merging.map((part) => make("div", { textContent: mergedPieces(part, count).join(" · ") })));
  const slider = make("input", { type: "range", min: 0, max: most, value: most, "aria-label": words.tokens });
  slider.oninput = () => show(Number(slider.value));
  show(most);
  return section(words.tokens, words.aboutTokens, make("p", {}, ...chips), ...(most ? [slider, pieces] : []));
}

// The pieces of a pre-token after so many merges, by their bytes.
function mergedPieces(part, count) {
  const raw = Uint8Array.from(part.bytes.match(/../g), (pair) => parseInt(pair, 16));
  const ends = new Map(Array.from(raw, (_, at) => [at, at + 1]));
  for (const [start, left, right] of part.merges.slice(0, count)) {
    ends.delete(start + left);
    ends.set(start, start + left + right);
  }
  return [...ends].map(([start, end]) => shownBytes(raw.slice(start, end)));
}

function shownBytes(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replaceAll(" ", "␣").replace(/[\p{C}]/gu, "�");
  } catch {
    return Array.from(bytes, (byte) => `<${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
  }
}

function attention() {
  const { n_layer: layers, n_head: heads } = trace.overview.model;
  const buttons = Array.from({ length: layers }, (_, block) =>
    make("button", { textContent: block, "aria-pressed": block === state.block, "aria-label": `${words.block} ${block}`, onclick: () => choose({ block }) }));
  const many = make("div", { className: "row" });
  const large = make("div");
  drawHeads(many, large, `blocks.${state.block}.attention.weights`, heads);
  return section(words.blocks, words.aboutBlocks, make("div", { className: "row" }, `${words.block} `, ...buttons), many, large);
}

function choose(change) {
  Object.assign(state, change);
  render();
}

async function drawHeads(many, large, name, heads) {
  const { values, shape } = await fetchArray(trace, name);
  const [, rows, columns] = shape;
  for (let head = 0; head < heads; head += 1) {
    const canvas = make("canvas");
    drawMatrix(canvas, values, rows, columns, head * rows * columns, 1, 90);
    many.append(make("button", { className: "map", "aria-pressed": head === state.head, onclick: () => choose({ head }) }, canvas, kindOf(state.block, head)));
  }
  drawLarge(large, values, rows, columns, name);
}

function kindOf(block, head) {
  const scores = Object.entries(trace.overview.heads).map(([kind, all]) => [kind, all[block][head] ?? 0]);
  const [kind, score] = scores.reduce((best, each) => (each[1] > best[1] ? each : best));
  return score >= 0.3 ? `${block}.${head} ${words[kind]} ${score.toFixed(2)}` : `${block}.${head}`;
}

function drawLarge(large, values, rows, columns, name) {
  const canvas = make("canvas", { tabIndex: 0, id: "large", "aria-label": `${words.head} ${state.block}.${state.head}` });
  const offset = state.head * rows * columns;
  drawMatrix(canvas, values, rows, columns, offset, 1, 420);
  const told = make("p", { id: "cell", className: "pieces", textContent: "\u00a0" });
  const tell = (row, column) => {
    const [query, key] = [row, column].map((at) => trace.overview.tokens[at].piece);
    told.textContent = `${row} “${query}” → ${column} “${key}”: ${values[offset + row * columns + column].toFixed(4)}`;
  };
  const cell = { row: rows - 1, column: 0 };
  canvas.onpointermove = canvas.onclick = (event) => {
    Object.assign(cell, cellAt(canvas, event));
    tell(cell.row, cell.column);
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    cell.row = Math.min(rows - 1, Math.max(0, cell.row + step[0]));
    cell.column = Math.min(columns - 1, Math.max(0, cell.column + step[1]));
    tell(cell.row, cell.column);
  };
  const off = make("button", { textContent: words.off, id: "off", onclick: () => switchOff({ kind: "head", layer: state.block, head: state.head }) });
  large.replaceChildren(make("div", { className: "labelled" }, ...labels(rows), canvas), told, ...(isSaved ? [] : [off]), sourceLine(name));
}

// The tokens beside the rows, where there is room for them.
function labels(rows) {
  if (rows > MOST_LABELS) return [];
  return [make("div", { className: "labels", "aria-hidden": "true" }, ...trace.overview.tokens.map(({ piece }) => make("span", { textContent: piece })))];
}

function switchOff(intervention) {
  state.interventions = [...state.interventions, intervention];
  ask();
}

function norms() {
  const rows = trace.overview.norms;
  const canvas = make("canvas", { "aria-label": words.norms });
  drawMatrix(canvas, rows.flat(), rows.length, rows[0].length, 0, Math.max(...rows.flat()), 420);
  return section(words.norms, words.aboutNorms, make("div", { className: "scroll" }, canvas));
}

function percent(chance) {
  return chance < 0.0005 ? "< 0.1 %" : `${(100 * chance).toFixed(1)} %`;
}

// Of each stage the likeliest are told; what is not among them is less likely than the last, or impossible.
function chanceOf(from, stage, id) {
  const told = from.overview.next[stage];
  const found = told.find((each) => each.id === id);
  if (found) return percent(found.probability);
  return told.length < MOST_TOLD ? "–" : `< ${percent(told.at(-1).probability).replace("< ", "")}`;
}

function table(heading, rows) {
  const line = (tag, cells) => make("tr", {}, ...cells.map((textContent) => make(tag, { textContent })));
  return make("div", { className: "scroll" }, make("table", {}, line("th", heading), ...rows.map((cells) => line("td", cells))));
}

function lens() {
  const rows = trace.overview.lens.map((likeliest, depth) =>
    [depth ? `${words.block} ${depth - 1}` : words.embedding, ...likeliest.slice(0, 3).map(({ piece, probability }) => `${piece} ${percent(probability)}`)]);
  return section(words.lens, words.aboutLens, table([words.after, "1", "2", "3"], rows));
}

function next() {
  const stages = Object.keys(trace.overview.next);
  const rows = trace.overview.next[stages[0]].map(({ id, piece }) =>
    [piece, ...(trace === base ? [] : [chanceOf(base, stages[0], id)]), ...stages.map((stage) => chanceOf(trace, stage, id))]);
  const heading = [words.piece, ...(trace === base ? [] : [words.before]), ...stages.map((stage) => stage.slice("next.".length))];
  return section(words.next, words.aboutNext, ...(isSaved ? [] : sliders()), ...changes(), table(heading, rows));
}

function sliders() {
  return Object.entries(SLIDERS).map(([name, [min, max, step, usual]]) => {
    const input = make("input", { type: "range", id: name, min, max, step, value: state.options[name] ?? usual });
    input.onchange = () => {
      state.options = { ...state.options, [name]: Number(input.value) };
      ask();
    };
    return make("label", {}, name, input, make("output", { textContent: input.value }));
  });
}

function changes() {
  if (trace === base) return [];
  const names = trace.overview.interventions.map(({ kind, layer, head }) => `${kind} ${layer}.${head}`).join(", ");
  const far = trace.overview.divergence.at(-1).toFixed(3);
  const undo = make("button", { textContent: words.undo, id: "undo", onclick: () => { state.interventions = []; ask(); } });
  return [make("p", { id: "changes" }, `${words.changed}: ${names}; ${words.divergence}: ${far} `, undo)];
}

ask();
