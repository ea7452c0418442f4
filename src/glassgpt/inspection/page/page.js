// The page, in data-flow order from top to bottom. A panel is drawn when it is visible and its content has changed.
import { wordsFor } from "./words.js";
import { button, keepingFocus, lengthsOf, make, note, row, tell } from "./dom.js";
import { REQUEST_FIELDS, clearRequest, keepEntry, readAddress, state, writeAddress } from "./state.js";
import { failure, messageOf } from "./failure.js";
import { fetchDetail, fetchTrace, isSaved, leftOut } from "./source.js";
import { pieceOf, quoted, stepper } from "./token.js";
import { modelPanel } from "./model.js";
import { mediaPanel } from "./media.js";
import { tokensPanel } from "./tokens.js";
import { embeddingsPanel } from "./embeddings.js";
import { blockPanel } from "./block.js";
import { headPanel } from "./head.js";
import { motionPanel } from "./motion.js";
import { normPanel } from "./norm.js";
import { linesPanel } from "./lines.js";
import { projectionPanel } from "./projection.js";
import { sumPanel } from "./sum.js";
import { mlpPanel } from "./mlp.js";
import { streamPanel } from "./stream.js";
import { lensPanel } from "./lens.js";
import { nextPanel } from "./next.js";
import { cachePanel } from "./cache.js";
import { changesPanel } from "./changes.js";
import { filmPanel } from "./film.js";
import { historyPanel } from "./history.js";
import { candidates } from "./candidates.js";
import { goTo, tourBox } from "./tour.js";
import { helpDialog, listenToKeys, openHelp } from "./keys.js";

const PANELS = [modelPanel, mediaPanel, tokensPanel, embeddingsPanel, normPanel, blockPanel, linesPanel, motionPanel, headPanel, projectionPanel, mlpPanel, sumPanel, streamPanel, lensPanel, nextPanel, cachePanel, changesPanel, filmPanel, historyPanel];
const FIXED = [modelPanel, mediaPanel]; // never folded
const GLOBAL_STATE = ["language", "theme"]; // changes redraw every panel
const AHEAD = "300px"; // panels are drawn this far before they become visible

const root = document.getElementById("page");
const view = { state, words: wordsFor(state.language), trace: null, base: null, undisturbed: null, name: "", baseName: "", choose, open, redraw, say };
const frames = new Map(); // by panel: its section, and whether it is visible and drawn
let panels = PANELS; // those that this page has: only one with pictures or sound has their panel
let asked = 0;
let draft = null; // text being typed
let toldStop = ""; // the stop of the tour that was announced

// Every change of the state goes through here.
function choose(change) {
  const names = Object.keys(change).filter((name) => JSON.stringify(change[name]) !== JSON.stringify(state[name]));
  if (!names.length) return;
  if (names.some((name) => REQUEST_FIELDS.includes(name))) {
    ask(change, keepEntry);
    return;
  }
  Object.assign(state, change);
  fitState();
  if (names.some((name) => GLOBAL_STATE.includes(name))) build();
  else shown(names);
}

function shown(names) {
  writeAddress();
  fillBar();
  fillTour();
  if (names.includes("open")) foldAll();
  for (const panel of panels) if (names.some((name) => panel.needs.includes(name))) invalidate(panel);
}

// Select, and go to a panel; without one, only select.
function open(id, change, takesFocus = true) {
  choose({ ...change, ...(id && !isOpen({ id }) ? { open: [...state.open, id] } : {}) });
  if (!id) return;
  const { section } = frames.get(panels.find((panel) => panel.id === id));
  section.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  if (takesFocus) (section.querySelector(".fold") ?? section.querySelector("h2")).focus({ preventScroll: true });
}

// Clamp the selection to the current trace.
function fitState() {
  const { tokens, model, steps } = view.trace.overview;
  fillIn(view.trace.overview);
  const fitted = (value, count) => Math.min(value, count - 1);
  state.position = fitted(state.position, tokens.length);
  state.key = fitted(state.key, tokens.length);
  state.layer = fitted(state.layer, model.n_layer);
  state.head = fitted(state.head, model.n_head);
  state.depth = fitted(state.depth ?? model.n_layer, model.n_layer + 1);
  if (!steps.includes(state.step)) state.step = null;
}

// What is not selected yet: the most telling head, and where it looks from the last token.
function fillIn({ tokens, telling: { layer, head, keys } }) {
  if (state.layer === null && state.head === null) Object.assign(state, { layer, head });
  state.layer ??= 0;
  state.head ??= 0;
  state.position ??= tokens.length - 1;
  const isLast = state.position >= tokens.length - 1;
  state.key ??= isLast ? keys[state.layer]?.[state.head] ?? 0 : Math.max(0, state.position - 1);
}

// Request a new trace with a change. The change is applied when the response arrives; if the request is refused, the view
// stays as it was and the error is shown. The previous request stays in the browser history.
async function ask(change = {}, before = () => {}) {
  const mine = ++asked;
  const wanted = { ...state, ...change };
  root.setAttribute("aria-busy", "true");
  try {
    const found = await traces(wanted);
    if (mine !== asked) return; // superseded by a newer request
    before();
    Object.assign(view, found);
    Object.assign(state, change, { text: view.trace.overview.text });
    say(null);
    fitState();
    build();
    if (state.tour === null) tell(view.words.traced(view.trace.overview.tokens.length));
  } catch (error) {
    if (mine !== asked) return;
    if (view.trace) panels.forEach(invalidate);
    say(error);
    return error;
  } finally {
    if (mine === asked) root.removeAttribute("aria-busy");
  }
}

// If the address is refused, fall back to the initial request.
async function begin() {
  const error = await ask();
  if (error) {
    clearRequest();
    await ask();
    say(error);
  }
  if (view.trace && state.tour !== null) goTo(view, state.tour);
}

async function traces({ text, written, interventions, step, compare }) {
  const undisturbed = await fetchTrace({ step, text, written });
  const trace = interventions.length && !isSaved ? await fetchTrace({ step, text, written, interventions }) : undisturbed;
  if (compare && undisturbed.overview.runs.length > 1) return { trace, undisturbed, base: await compared(undisturbed, written) };
  return { trace, undisturbed, base: trace === undisturbed ? null : undisturbed };
}

// Generated tokens are valid only for the same tokenizer.
async function compared({ overview }, written) {
  const base = await fetchTrace({ run: 1, text: overview.text });
  return written.length && base.overview.tokenizer === overview.tokenizer ? fetchTrace({ run: 1, text: overview.text, written }) : base;
}

function say(error) {
  let box = document.getElementById("error");
  box ??= document.body.appendChild(make("p", { id: "error", role: "alert" }));
  box.replaceChildren(...(error ? [messageOf(error, view.words), button("✕", () => say(null), { "aria-label": view.words.close })] : []));
}

// Build header, bar and empty panels, which are drawn as they become visible.
function build() {
  view.words = wordsFor(state.language);
  const isOtherRun = view.base && view.base !== view.undisturbed;
  view.baseName = isOtherRun ? view.trace.overview.runs[1] : view.words.before;
  view.name = isOtherRun ? view.trace.overview.runs[0] : view.words.changed;
  document.title = [view.trace.overview.runs[0], view.words.title].filter(Boolean).join(" · "); // distinguishes browser tabs
  document.documentElement.lang = state.language;
  document.documentElement.dataset.theme = state.theme;
  writeAddress();
  if (!root.firstChild) root.append(make("header"), make("nav"), make("main"), make("footer"));
  const [header, nav, main, footer] = root.children;
  keepingFocus(() => {
    header.replaceChildren(...heading());
    nav.setAttribute("aria-label", view.words.chosen);
    fillBar();
  });
  if (main.dataset.language !== state.language) {
    panels = PANELS.filter((panel) => panel.isFor?.(view) ?? true);
    main.dataset.language = state.language;
    const [fixed, others] = [true, false].map((isFixed) => panels.filter((panel) => FIXED.includes(panel) === isFixed).map(frame));
    main.replaceChildren(...fixed, foldButtons(), ...others);
    footer.replaceChildren(note(view.words.foot), helpDialog(view.words));
  }
  panels.forEach(invalidate);
  foldAll();
  fillTour();
}

function fillTour() {
  const [box] = tourBox(view);
  keepingFocus(() => {
    document.getElementById("tour")?.remove();
    if (box) document.body.append(box);
  });
  const stop = box?.querySelector("p").textContent ?? "";
  if (stop && stop !== toldStop) tell(stop);
  toldStop = stop;
}

// A step of the tour, or its end with null.
function tour(by) {
  goTo(view, by === null ? null : state.tour + by);
}

function heading() {
  const { words } = view;
  const { model, runs } = view.trace.overview;
  const size = `${model.arch} · ${model.n_layer} × ${model.n_head} · ${words.width} ${model.n_embd} · ${words.vocabulary} ${model.vocab_size.toLocaleString("en")}`;
  const title = make("div", { className: "title" }, make("h1", { textContent: words.title }), make("p", { className: "note", textContent: `${runs[0] ? `${runs[0]} · ` : ""}${size}` }));
  const other = state.language === "ko" ? ["en", "English"] : ["ko", "한국어"];
  const tools = row(button(words.tour.start, () => goTo(view, 0), { id: "tour-start" }), button(other[1], () => choose({ language: other[0] }), { id: "language", lang: other[0] }), button(`◐ ${words.themes[state.theme]}`, nextTheme, { id: "theme", title: words.theme }), button("?", openHelp, { id: "open-help", "aria-label": words.keyboard }));
  return [make("div", { className: "top" }, title, tools), ...(isSaved ? [offline()] : [prompting(), ...candidates(view)])];
}

function offline() {
  const names = leftOut(state.language);
  const missing = names.length ? ` ${view.words.leftOut}: ${names.join(", ")}.` : "";
  return make("p", { className: "banner", id: "offline", textContent: view.words.offline + missing });
}

function prompting() {
  const text = make("textarea", { id: "prompt", value: draft ?? state.text ?? "", rows: 2, dir: "auto", "aria-label": view.words.prompt });
  const given = view.trace.overview.media.map(({ picture, modality }) => make("img", { className: `given ${modality}`, src: picture, alt: view.words.media.names[modality] }));
  const form = make("form", { className: "prompting" }, ...given, text, make("button", { className: "main", id: "run", textContent: view.words.followText }));
  text.oninput = () => { draft = text.value; };
  const send = () => {
    draft = null;
    choose({ text: text.value, written: [], interventions: [], position: null, depth: null, key: null });
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  text.onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  return form;
}

function nextTheme() {
  const order = ["auto", "light", "dark"];
  choose({ theme: order[(order.indexOf(state.theme) + 1) % order.length] });
}

// The selection, always visible.
function fillBar() {
  const { words, trace } = view;
  const { model, tokens } = trace.overview;
  const step = (name, count, text) => stepper(view, name, name, count, text);
  keepingFocus(() => root.children[1].replaceChildren(
    step("layer", model.n_layer, state.layer), step("head", model.n_head, state.head), step("position", tokens.length, `${state.position} ${quoted(pieceOf(trace, state.position))}`)));
}

// A heading that folds the panel, one line of what it shows, the panel itself, and its sources behind a button.
function frame(panel) {
  const words = view.words.panels[panel.id];
  const help = make("p", { className: "help", hidden: true, id: `${panel.id}-help`, textContent: words.help });
  const figures = make("div", { className: "figures", hidden: true, id: `${panel.id}-figures` });
  const ask = toggle("?", help, { className: "ask", "aria-label": `${words.title}?` });
  const title = FIXED.includes(panel) ? words.title : button(words.title, () => fold(panel), { className: "fold", "aria-controls": `${panel.id}-content` });
  const content = make("div", { id: `${panel.id}-content` }, help, make("div", { className: "body empty" }), toggle(view.words.showSource, figures, { className: "source" }), figures);
  const section = make("section", { id: panel.id, "aria-labelledby": `${panel.id}-title` },
    make("div", { className: "head" }, make("h2", { id: `${panel.id}-title`, tabIndex: -1 }, title), ask, make("p", { className: "lead", textContent: words.lead })), content);
  frames.set(panel, { section, isSeen: false, isDrawn: false, turn: frames.get(panel)?.turn ?? 0 });
  watcher.observe(section);
  return section;
}

// A button that shows and hides an element.
function toggle(text, shown, properties) {
  const found = button(text, () => {
    shown.hidden = !shown.hidden;
    found.setAttribute("aria-expanded", String(!shown.hidden));
  }, { "aria-expanded": "false", "aria-controls": shown.id, ...properties });
  return found;
}

function isOpen({ id }) {
  return FIXED.some((panel) => panel.id === id) || state.open.includes(id);
}

function fold({ id }) {
  choose({ open: isOpen({ id }) ? state.open.filter((each) => each !== id) : [...state.open, id] });
}

// Show the open panels and hide the content of the others.
function foldAll() {
  for (const panel of panels) {
    const { section } = frames.get(panel);
    section.classList.toggle("folded", !isOpen(panel));
    section.querySelector(`#${panel.id}-content`).hidden = section.querySelector(".ask").hidden = !isOpen(panel);
    section.querySelector(".fold")?.setAttribute("aria-expanded", String(isOpen(panel)));
  }
  drawSeen();
}

function foldButtons() {
  const all = panels.filter((panel) => !FIXED.includes(panel)).map(({ id }) => id);
  return make("div", { className: "row", id: "folds" }, button(view.words.unfoldAll, () => choose({ open: all }), { id: "unfold-all" }), button(view.words.foldAll, () => choose({ open: [] }), { id: "fold-all" }));
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const known = frames.get(panels.find(({ id }) => id === target.id));
    if (known.section === target) known.isSeen = isIntersecting;
  }
  drawSeen();
}, { rootMargin: AHEAD });

function invalidate(panel) {
  const known = frames.get(panel);
  known.isDrawn = false;
  known.turn += 1;
  delete known.section.dataset.ready;
  drawSeen();
}

let isDrawing = false;

// Draw one panel after the other from the top, so that the first does not wait for the requests of the others.
async function drawSeen() {
  if (isDrawing) return;
  isDrawing = true;
  await null; // until all panels affected by a change are invalidated
  for (let panel = nextToDraw(); panel; panel = nextToDraw()) await begun(panel);
  isDrawing = false;
}

// Resolves as soon as a part of the panel is visible.
function begun(panel) {
  return new Promise((resolve) => { draw(panel, resolve).finally(resolve); });
}

function nextToDraw() {
  const due = panels.filter((panel) => isOpen(panel) && frames.get(panel).isSeen && !frames.get(panel).isDrawn);
  return due.find((panel) => frames.get(panel).section.contains(document.activeElement)) ?? due[0]; // the panel in use first
}

function redraw(id) {
  return draw(panels.find((panel) => panel.id === id));
}

async function draw(panel, seen = () => {}) {
  const known = frames.get(panel);
  const { section } = known;
  const mine = ++known.turn;
  known.isDrawn = true;
  const show = (nodes) => {
    if (mine !== known.turn || known.section !== section) return false; // superseded by a newer request
    const body = section.querySelector(".body");
    body.classList.remove("empty");
    keepingFocus(() => keepingScroll(body, () => body.replaceChildren(...nodes)));
    panel.shown?.(body);
    seen();
    return true;
  };
  if (!show(await panel.draw(view, show).catch((error) => [failure(error, view.words)]))) return;
  section.querySelector(".figures").replaceChildren(...panel.figures(view).map(described));
  section.dataset.ready = "true";
}

// Shape, unit and formula of a tensor, or the description of a detail, and the source code that computes it.
function described(name) {
  const tensor = view.trace.overview.tensors.find((each) => each.name === name);
  const description = tensor ? describeTensor(tensor, view.words) : view.words.measures[name];
  const place = tensor ? tensor.place : view.trace.overview.places[name];
  const details = make("details", {}, make("summary", {}, make("code", { textContent: name }), ` ${description} `, make("span", { className: "place", textContent: place })));
  details.ontoggle = async () => {
    if (!details.open || details.children.length > 1) return;
    const { texts } = await fetchDetail(view.trace, "sources");
    details.append(make("pre", { tabIndex: 0, textContent: texts[place] }));
  };
  return details;
}

function describeTensor(tensor, words) {
  const formula = words.formulas.reduce((text, [from, to]) => text.replace(from, to), tensor.formula);
  return `[${lengthsOf(tensor, words)}] ${words.units[tensor.unit] ?? tensor.unit} = ${formula}`;
}

// Restore scroll positions.
function keepingScroll(body, change) {
  const boxes = () => [...body.querySelectorAll(".scroll, .tokens")];
  const before = boxes().map(({ scrollLeft, scrollTop }) => [scrollLeft, scrollTop]);
  change();
  boxes().forEach((box, at) => box.scrollTo(...(before[at] ?? [0, 0])));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => panels.forEach(invalidate));
window.addEventListener("resize", () => view.trace && invalidate(modelPanel));
window.addEventListener("hashchange", () => ask(readAddress()));
listenToKeys(view, { tour, theme: nextTheme, typing: () => document.getElementById("prompt")?.focus() });
Object.assign(state, readAddress());
document.documentElement.lang = state.language;
document.documentElement.dataset.theme = state.theme;
begin();
