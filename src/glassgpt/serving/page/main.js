// The page of glassgpt serve: a playground for prompts and a dashboard of the server's load.
import { wordsFor } from "./words.js";
import { button, keepingFocus, make, note, row } from "./dom.js";
import { helpDialog, openHelp } from "./keys.js";
import { readAddress, state, writeAddress } from "./address.js";
import { NoServerError, askForKeyWith, getJson } from "./client.js";
import { playground, stop } from "./playground.js";
import { dashboard } from "./dashboard.js";

const VIEWS = { playground, dashboard };
const TYPED = "input:not([type=checkbox]), textarea, select";
const root = document.getElementById("page");
const view = { state, words: wordsFor(state.language), api: null, choose, redraw: build, save: writeAddress, say, message };

// Every change of what is drawn goes through here.
function choose(change) {
  Object.assign(state, change);
  build();
}

function message(error) {
  return error instanceof NoServerError ? view.words.noServer : error.message;
}

function say(error) {
  let box = document.getElementById("error");
  box ??= document.body.appendChild(make("p", { id: "error", role: "alert" }));
  box.replaceChildren(...(error ? [message(error), button("✕", () => say(null), { "aria-label": view.words.close })] : []));
}

function build() {
  view.words = wordsFor(state.language);
  document.title = view.words.title;
  document.documentElement.lang = state.language;
  document.documentElement.dataset.theme = state.theme;
  writeAddress();
  keepingFocus(() => root.replaceChildren(make("header", {}, ...heading()), tabs(), make("main", {}, ...(view.api ? VIEWS[state.view](view) : [])), make("footer", {}, note(view.words.foot), helpDialog(view.words))));
}

function heading() {
  const { words } = view;
  const other = state.language === "ko" ? ["en", "English"] : ["ko", "한국어"];
  const tools = row(button(other[1], () => choose({ language: other[0] }), { id: "language", lang: other[0] }), button(`◐ ${words.themes[state.theme]}`, nextTheme, { id: "theme", title: words.theme }), button("?", openHelp, { id: "open-help", "aria-label": words.keyboard }));
  return [make("div", { className: "top" }, make("h1", { textContent: words.title }), tools)];
}

function tabs() {
  const tab = (name) => {
    const chosen = button(view.words.views[name], () => choose({ view: name }), { id: `view-${name}` });
    if (state.view === name) chosen.setAttribute("aria-current", "page");
    return chosen;
  };
  return make("nav", { "aria-label": view.words.title }, ...Object.keys(VIEWS).map(tab));
}

function nextTheme() {
  const order = ["auto", "light", "dark"];
  choose({ theme: order[(order.indexOf(state.theme) + 1) % order.length] });
}

// Ask for the API key in a dialog; null if the user closes it. `isRefused`: the last one was wrong.
function askForKey(isRefused) {
  return new Promise((resolve) => {
    const { words } = view;
    const key = make("input", { type: "password", id: "key", autocomplete: "off", required: true, "aria-label": words.key });
    const form = make("form", { method: "dialog" }, make("h2", { textContent: words.key }), note(words.keyHelp), isRefused ? make("p", { className: "failed", role: "alert", textContent: words.keyRefused }) : null, key, make("button", { className: "main", textContent: words.useKey }));
    const dialog = make("dialog", { id: "key-dialog" }, form);
    let given = null;
    form.onsubmit = () => { given = key.value.trim(); };
    dialog.onclose = () => {
      dialog.remove();
      resolve(given);
    };
    document.body.append(dialog);
    dialog.showModal();
  });
}

const KEYS = {
  "?": openHelp,
  t: nextTheme,
  c: () => choose({ view: "playground", compare: !state.compare }),
  m: () => choose({ view: "playground", mode: state.mode === "chat" ? "completion" : "chat" }),
  1: () => choose({ view: "playground" }),
  2: () => choose({ view: "dashboard" }),
  "/": () => document.getElementById("prompt")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches(TYPED) || document.querySelector("dialog[open]") || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
window.addEventListener("hashchange", () => {
  readAddress();
  build();
});

async function begin() {
  askForKeyWith(askForKey);
  readAddress();
  build();
  try {
    const [document, models] = await Promise.all([getJson("openapi.json"), getJson("v1/models")]);
    view.api = { schemas: document.components.schemas, models: models.data };
    build();
  } catch (error) {
    say(error);
  } finally {
    root.removeAttribute("aria-busy");
  }
}

begin();
