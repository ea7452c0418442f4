// Keyboard shortcuts: letters change the selection unless text is being typed; "?" lists them.
import { button, make, table } from "./dom.js";

const TYPED = "input:not([type=range]):not([type=checkbox]), textarea, select";

// By key: what it changes, and by how much.
const MOVES = { j: ["layer", 1], k: ["layer", -1], h: ["head", -1], l: ["head", 1], n: ["position", 1], p: ["position", -1], "]": ["key", 1], "[": ["key", -1] };

export function listenToKeys(view, { theme, typing, tour }) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches(TYPED) || !view.trace) return;
    const actions = { "?": openHelp, t: theme, "/": typing, ...Object.fromEntries(Object.entries(MOVES).map(([key, move]) => [key, () => go(view, ...move)])) };
    if (view.state.tour !== null) Object.assign(actions, { n: () => tour(1), p: () => tour(-1), Escape: () => tour(null) });
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
}

function go({ state, choose }, name, step) {
  choose({ [name]: Math.max(0, state[name] + step) }); // the page clamps it to the maximum
}

export function helpDialog(words) {
  const rows = words.keys.map(([keys, does]) => [make("kbd", { textContent: keys }), does]);
  const dialog = make("dialog", { id: "help" }, make("h2", { textContent: words.keyboard }), table(["", ""], rows), make("p", { textContent: words.shared }));
  dialog.append(button(words.close, () => dialog.close()));
  return dialog;
}

// Open the dialog and focus its button. With `autofocus` it would compete for the focus whenever the page is built.
export function openHelp() {
  const dialog = document.getElementById("help");
  dialog.showModal();
  dialog.querySelector("button").focus();
}
