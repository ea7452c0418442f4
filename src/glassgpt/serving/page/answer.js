// An answer on the page: its tokens, the probabilities of the chosen one, and the candidates before and after each processor.
import { barCell, button, make, note, percent, row, table, within } from "./dom.js";

const BLANK = "␣";
const SAYABLE = /[\p{L}\p{N}\p{P}\p{S}]/u;

function marked(text) {
  return text.replaceAll(" ", BLANK).replaceAll("\n", "↵") || "∅";
}

// What a screen reader says instead of a token without letters, digits or signs, such as a blank or a control character.
function nameOf({ text }) {
  return [...marked(text)].map((character) => (SAYABLE.test(character) ? character : `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`)).join(" ");
}

function shown(text) {
  return make("code", { className: "piece", dir: "auto", textContent: marked(text) });
}

function write(span, token) {
  span.textContent = token.text;
  if (SAYABLE.test(token.text)) span.removeAttribute("aria-label");
  else span.setAttribute("aria-label", nameOf(token));
  return span;
}

// Return the element of an answer, which is updated by its functions `add(token)`, `finish()` and `fail(error)`.
// `explain` requests the candidates; null if the answer cannot be explained.
export function answerView(words, answer, { explain, message }) {
  const flow = make("div", { className: "said", dir: "auto", role: "group", "aria-label": words.answer });
  const detail = make("div", { className: "detail", hidden: true, "aria-live": "polite" });
  const foot = make("div");
  const sources = make("div");
  let chosen = null; // by click or keyboard; pointing at another shows that one meanwhile

  const spans = () => [...flow.querySelectorAll(".generated")];
  const show = (at) => {
    spans().forEach((span, each) => {
      span.setAttribute("aria-pressed", String(each === at));
      span.tabIndex = each === (at ?? 0) ? 0 : -1;
    });
    detail.hidden = at === null;
    if (at !== null) detail.replaceChildren(...details(words, answer, at));
  };
  const indexOf = ({ target }) => (target.classList.contains("generated") ? spans().indexOf(target) : null);
  flow.onpointerover = (event) => {
    const at = indexOf(event);
    if (at !== null) show(at);
  };
  flow.onpointerleave = () => show(chosen);
  flow.onclick = (event) => {
    chosen = indexOf(event);
    show(chosen);
  };
  flow.addEventListener("focusin", (event) => show(chosen = indexOf(event)));
  flow.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = spans();
    all[within((chosen ?? 0) + step, all.length)]?.focus();
  };

  const span = (token, at) => write(make("span", {
    className: "generated", role: "button", tabIndex: at ? -1 : 0, title: percent(Math.exp(token.logprob)), "aria-pressed": "false",
    style: { "--surprise": String(Math.min(1, -token.logprob / 8)) },
  }), token);
  const footer = () => {
    const facts = [words.count(answer.tokens.length), words.finish[answer.finish] ?? answer.finish, `${words.seed} ${answer.seed}`, answer.model, answer.step === null ? null : `${words.step} ${answer.step}`];
    const ask = button(words.explain, async () => {
      ask.disabled = true;
      foot.querySelector(".failed")?.remove();
      try {
        answer.explanation = await explain(answer);
        chosen ??= 0;
        show(chosen);
        view.finish();
      } catch (error) {
        foot.append(failed(message(error)));
        ask.disabled = false;
      }
    }, { className: "explain" });
    const command = answer.explanation ? note(`${words.inspect}: `, make("code", { textContent: answer.explanation.inspect })) : null;
    foot.replaceChildren(row(note(facts.filter((fact) => fact !== null).join(" · ")), answer.explanation || !explain || !answer.tokens.length ? null : ask), ...(command ? [command] : []));
  };
  const quote = () => {
    flow.textContent = answer.text;
    sources.replaceChildren(...answer.sources.map(sourceView));
  };
  const view = {
    element: make("div", { className: "answer" }, flow, detail, sources, foot),
    add(token) {
      flow.append(span(token, spans().length));
    },
    finish() {
      if (answer.sources) quote();
      spans().forEach((each, at) => write(each, answer.tokens[at]));
      footer();
    },
    fail(error) {
      foot.replaceChildren(failed(error));
    },
  };
  if (answer.prompt !== undefined) flow.append(make("span", { className: "prompt", textContent: answer.prompt }));
  answer.tokens.forEach(view.add);
  if (answer.sources) quote();
  if (answer.finish) footer();
  if (answer.error) view.fail(message(answer.error));
  return view;
}

// A passage with its quotation marked; offsets count characters, not the halves of surrogate pairs.
function sourceView({ number, source, path, heading, start, text, quotation }) {
  const characters = [...text];
  const part = (from, to) => characters.slice(from, to).join("");
  const [first, last] = quotation ? [quotation.start - start, quotation.end - start] : [0, 0];
  const passage = make("blockquote", { className: "said", dir: "auto" }, part(0, first), quotation ? make("mark", { textContent: part(first, last) }) : null, part(last));
  return make("figure", { className: "source" }, make("figcaption", { textContent: `[${number}] ${[source, path === source ? "" : path, heading].filter(Boolean).join(" — ")}` }), passage);
}

function failed(textContent) {
  return make("p", { className: "failed", role: "alert", textContent });
}

function details(words, answer, at) {
  const token = answer.tokens[at];
  const chance = Math.exp(token.logprob);
  const head = make("p", { className: "note" }, `${words.token} ${at + 1}: `, shown(token.name), ` ${percent(chance)}`);
  const step = answer.explanation?.steps[at];
  if (step) return [head, candidates(words, answer.explanation.stages, step)];
  return [head, table([words.candidate, words.chance], token.top.map(([text, logprob]) => [shown(text), barCell(percent(Math.exp(logprob)), Math.exp(logprob))]))];
}

// The candidates' probabilities from the model's to those after the last processor.
function candidates(words, stages, { chosen, candidates: others }) {
  const rows = [chosen, ...others.filter(({ token }) => token !== chosen.token)].sort((one, other) => (other.logprobs.at(-1) ?? -Infinity) - (one.logprobs.at(-1) ?? -Infinity));
  const cells = ({ text, logprobs }) => [shown(text), ...logprobs.map((logprob) => barCell(logprob === null ? "–" : percent(Math.exp(logprob)), logprob === null ? 0 : Math.exp(logprob)))];
  const found = table([words.candidate, ...stages.map((stage) => words.stages[stage] ?? stage)], rows.map(cells));
  found.querySelectorAll("tbody tr")[rows.indexOf(chosen)].className = "chosen";
  return found;
}
