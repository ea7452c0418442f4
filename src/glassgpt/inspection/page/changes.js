// Interventions: components ablated, scaled or patched from another prompt, and their effect.
import { backed } from "./color.js";
import { barCell, button, figure, make, note, percent, row, select, slider, table } from "./dom.js";
import { fetchDetail, isSaved } from "./source.js";
import { piece, quoted, tokenButtons } from "./token.js";

const form = { scale: 0, name: null, text: "", everywhere: false, oneHead: false }; // values entered but not yet applied

export const changesPanel = {
  id: "changes",
  needs: ["layer", "head", "position"],
  figures: () => ["change", "losses"],
  async draw(view) {
    if (isSaved) return [note(view.words.needsProgram)];
    const { state } = view;
    return [switches(view), patching(view), ...(state.interventions.length ? [active(view), ...(await effect(view))] : [note(view.words.nothingChanged)])];
  },
};

function add({ state, choose }, intervention) {
  choose({ interventions: [...state.interventions, intervention] });
}

function switches(view) {
  const { state: { layer, head, position }, words } = view;
  const parts = { head: { layer, head }, attention: { layer }, mlp: { layer }, block: { layer }, position: { position } };
  const buttons = Object.entries(parts).map(([kind, at]) =>
    button(`${words.parts[kind]} ${Object.values(at).join(".")}`, () => add(view, { kind, ...at, scale: form.scale }), { id: `off-${kind}` }));
  const format = (scale) => (scale === 0 ? `0 (${words.off})` : String(scale));
  return make("div", {}, slider("scale", words.scale, [0, 2, 0.1], form.scale, format, (scale) => { form.scale = scale; }), row(make("span", { textContent: words.applyTo }), ...buttons));
}

function patching(view) {
  const { trace, state, words, redraw } = view;
  const names = trace.overview.replaceable;
  form.name = names.includes(form.name) ? form.name : `blocks.${state.layer}.output`;
  const hasHeads = trace.overview.tensors.find(({ name }) => name === form.name).axes[0] === "head";
  const name = select("patch-name", words.patchWhat, names.map((each) => [each, each]), form.name, (value) => {
    form.name = value;
    redraw("changes"); // the head selector depends on the activation
  });
  const text = make("input", { type: "text", id: "patch-text", value: form.text, placeholder: words.otherText, "aria-label": words.otherText, oninput: () => { form.text = text.value; } });
  const where = select("patch-where", words.patchWhere, [["here", `${words.token} ${state.position}`], ["all", words.everywhere]], form.everywhere ? "all" : "here", (value) => { form.everywhere = value === "all"; });
  const head = hasHeads ? select("patch-head", words.head, [["all", words.allHeads], ["one", `${words.head} ${state.head}`]], form.oneHead ? "one" : "all", (value) => { form.oneHead = value === "one"; }) : null;
  const patch = () => add(view, { kind: "patch", name: form.name, text: form.text, positions: form.everywhere ? [] : [state.position], head: hasHeads && form.oneHead ? state.head : null });
  return make("form", { className: "row", id: "patching", onsubmit: (event) => { event.preventDefault(); patch(); } }, make("span", { textContent: words.patch }), name, head, where, text, make("button", { id: "patch", textContent: words.patchDo }));
}

export function describeIntervention(words, { kind, layer, head, position, scale, name, text, positions }) {
  if (kind === "patch") return `${name}${Number.isInteger(head) ? `[${head}]` : ""}${positions?.length ? ` @ ${positions.join(", ")}` : ""} ← ${quoted(text)}`;
  const where = [layer, head, position].filter((each) => each !== undefined && each !== null).join(".");
  return `${words.parts[kind] ?? kind} ${where} ${scale ? `× ${scale}` : words.off}`;
}

function active({ state, words, choose }) {
  const chips = state.interventions.map((each, at) =>
    button(`${describeIntervention(words, each)} ✕`, () => choose({ interventions: state.interventions.filter((_, other) => other !== at) }), { className: "chip" }));
  return row(...chips, button(words.undo, () => choose({ interventions: [] }), { id: "undo" }));
}

// Compared with the same text without interventions, even if the page compares with another run.
async function effect(view) {
  const { trace, undisturbed, words } = view;
  const [{ tokens }, after, before] = await Promise.all([fetchDetail(trace, "change"), fetchDetail(trace, "losses"), fetchDetail(undisturbed, "losses")]);
  const rows = tokens.map(({ id, piece: text, before: was, after: is }) =>
    [piece(text), String(id), barCell(percent(was), was), barCell(percent(is), is), points(is - was)]);
  const moved = note(`${words.divergence}: ${figure(after.divergence.at(-1))} ${words.nats}`);
  moved.id = "divergence";
  return [moved, make("div", { id: "moved" }, table([words.piece, "id", words.before, words.after, words.points], rows)), ...perToken(view, before.losses, after.losses)];
}

function points(difference) {
  return make("td", { style: backed("signed", difference, 1), textContent: `${difference > 0 ? "+" : ""}${figure(100 * difference, 1)}` });
}

function perToken(view, before, after) {
  if (!before.length) return [];
  const { words, trace } = view;
  const change = [0, ...after.map((loss, at) => loss - before[at])];
  const largest = Math.max(0.5, ...change.map(Math.abs));
  const known = (values) => values.filter((value) => value !== null); // not those of pictures
  const mean = (values) => known(values).reduce((sum, value) => sum + value, 0) / known(values).length;
  const title = (at) => (at && before[at - 1] !== null ? `${quoted(trace.overview.tokens[at].piece)}: ${figure(before[at - 1], 3)} → ${figure(after[at - 1], 3)} ${words.nats}` : "");
  const summary = note(`${words.meanLoss}: ${figure(mean(before), 3)} → ${figure(mean(after), 3)}`);
  summary.id = "mean-loss";
  return [make("h3", { textContent: words.lossChange }), tokenButtons("loss", view, { title, paint: (at) => backed("signed", change[at], largest) }), summary];
}
