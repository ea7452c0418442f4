// Buttons and keys that play, stop and step a sequence of pictures. Those who ask for less motion only step.
import { button, make } from "./dom.js";

export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// `moves`: by key, a function that goes to another picture; `toggle` plays or stops. Returns the row, and `show` for its texts.
export function player(id, words, { toggle, moves }, ...more) {
  const output = make("output", { id: `${id}-at` });
  const play = button(words.play, toggle, { id: `${id}-play`, className: "main" });
  const less = button(`‹ ${words.back}`, moves.ArrowLeft, { id: `${id}-less` });
  const next = button(`${words.forward} ›`, moves.ArrowRight, { id: `${id}-more` });
  const node = make("div", { className: "row player", role: "group", "aria-label": words.player }, isStill() ? null : play, less, next, output, ...more);
  node.onkeydown = (event) => {
    if (!moves[event.key] || event.target.matches("select") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  };
  const show = (text, { isPlaying, isFirst, isLast }) => {
    play.textContent = isPlaying ? words.stop : words.play;
    output.setAttribute("aria-live", isPlaying ? "off" : "polite");
    output.textContent = text;
    less.setAttribute("aria-disabled", isFirst); // a disabled button would lose the focus, and the keys with it
    next.setAttribute("aria-disabled", isLast);
  };
  return { node, show };
}
