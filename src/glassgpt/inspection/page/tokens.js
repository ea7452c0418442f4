// The bytes of the text merging into tokens, step by step.
import { figure, make, note, slider } from "./dom.js";
import { fetchDetail } from "./source.js";
import { pieceOf, quoted, showChosen, spaced, tokenButtons } from "./token.js";

const COLORS = ["var(--token-1)", "var(--token-2)", "var(--token-3)", "var(--token-4)"];
const PARTS_SHOWN = 120;
const SIGNS = { "\n": "⏎", "\t": "→", "\r": "␍" }; // symbols for control characters, as in the terminal output

export const tokensPanel = {
  id: "tokens",
  needs: ["position", "key", "merges"],
  shown: showChosen,
  figures: () => ["bytes", "tokens", "losses"],
  async draw(view, show) {
    const { trace, words, state } = view;
    const title = (at) => `${at} · ${trace.overview.tokens[at].id ?? pieceOf(trace, at)}`;
    const paint = (at) => ({ background: COLORS[at % COLORS.length] });
    const nodes = [...merging(view), tokenButtons("token", view, { paint, title })];
    show([...nodes, note(about(trace, words, state.position, null))]);
    const { losses } = await fetchDetail(trace, "losses");
    return [...nodes, note(about(trace, words, state.position, losses))];
  },
};

function about(trace, words, at, losses) {
  const { id, bytes } = trace.overview.tokens[at];
  if (id === null) return `${words.token} ${at} ${quoted(pieceOf(trace, at))} · ${words.media.noToken}`;
  const parts = [`${words.token} ${at} ${quoted(pieceOf(trace, at))}`, `id ${id}`, `${words.bytes} ${bytes.match(/../g)?.join(" ") ?? "–"}`];
  if (at && losses && losses[at - 1] !== null) parts.push(`${words.loss} ${figure(losses[at - 1], 3)} ${words.nats}`);
  return parts.join(" · ");
}

function merging({ trace, words, state, choose }) {
  const parts = trace.overview.pretokens;
  const most = Math.max(0, ...parts.map(({ merges }) => merges.length));
  if (!most) return [];
  const count = Math.min(most, state.merges ?? most);
  const shown = make("div", { className: "parts", id: "pieces" });
  const show = (steps) => shown.replaceChildren(...parts.slice(0, PARTS_SHOWN).map((part) => group(part, steps)), parts.length > PARTS_SHOWN ? `… ${parts.length - PARTS_SHOWN}` : "");
  show(count);
  const format = (steps) => `${steps} / ${most}`;
  return [slider("merges", words.mergeSteps, [0, most, 1], count, format, show, (merges) => choose({ merges })), shown];
}

function group(part, steps) {
  const made = part.merges[steps - 1];
  return make("span", { className: "part" }, ...mergedPieces(part, steps).map(([start, text]) =>
    make("span", { className: made && made[0] === start ? "piece new" : "piece", dir: "auto", textContent: text })));
}

// Start and text of each piece of a pre-token after a number of merges.
function mergedPieces(part, steps) {
  const raw = Uint8Array.from(part.bytes.match(/../g), (pair) => parseInt(pair, 16));
  const ends = new Map(Array.from(raw, (_, at) => [at, at + 1]));
  for (const [start, left, right] of part.merges.slice(0, steps)) {
    ends.delete(start + left);
    ends.set(start, start + left + right);
  }
  return [...ends].map(([start, end]) => [start, shownBytes(raw.slice(start, end))]);
}

function codeOf(sign) {
  return `<U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
}

function shownBytes(raw) {
  try {
    return spaced(new TextDecoder("utf-8", { fatal: true }).decode(raw)).replace(/[\p{C}\u2028\u2029]/gu, (sign) => SIGNS[sign] ?? codeOf(sign));
  } catch {
    return Array.from(raw, (byte) => `<${byte.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
  }
}
