// Completions and chats, in one pane or in two: the same prompt and seed with other settings or another model.
import { button, choices, make, row, select, tell } from "./dom.js";
import { answerView } from "./answer.js";
import { post, stream } from "./client.js";
import { attach, attachedNow, attachments, modalitiesOf, partOf, preview, takeAttached } from "./media.js";
import { settingsForm } from "./settings.js";
import { TokenReader, fitToText, tokensOf } from "./tokens.js";

const TOP = 5; // most probable tokens shown with each token
const EXPLAINED = 8; // candidates of an explanation
const PATHS = { completion: "v1/completions", chat: "v1/chat/completions" };
const SCHEMAS = { completion: "Completion", chat: "Chat" };

// What happens in each pane, kept when the page is drawn again: messages and answers by mode.
const panes = ["A", "B"].map((name) => ({ name, items: { completion: [], chat: [] }, invalid: new Set(), control: null, body: null }));

export function isRunning() {
  return panes.some(({ control }) => control);
}

export function stop() {
  panes.forEach(({ control }) => control?.abort());
}

export function playground(view) {
  const { state } = view;
  const shown = state.compare ? [0, 1] : [0];
  return [
    make("div", { className: state.compare ? "panes two" : "panes" }, ...shown.map((at) => paneSection(view, at))),
    askForm(view),
  ];
}

function paneSection(view, at) {
  const { state, words, api } = view;
  const pane = panes[at];
  const chosen = state.panes[at];
  const id = `pane-${at}`;
  if (!api.models.some((model) => model.id === chosen.model)) chosen.model = api.models[0].id;
  const models = select(`${id}-model`, words.model, api.models.map((model) => [model.id, `${model.id} · ${words.step} ${model.step}`]), chosen.model, (model) => {
    chosen.model = model;
    view.redraw(); // another model may know other kinds of files
  });
  const settings = make("details", { id: `${id}-settings` }, make("summary", { textContent: words.settingsOf }),
    settingsForm(id, words, api.schemas[SCHEMAS[state.mode]], { settings: chosen.settings, invalid: pane.invalid }, view.save));
  pane.body = make("div", { id: `${id}-body`, className: "body" });
  drawItems(view, pane);
  const title = state.compare ? [make("h2", { textContent: pane.name })] : [];
  return make("section", { id, "aria-label": `${words.answer} ${pane.name}` }, row(...title, models), settings, pane.body);
}

function drawItems(view, pane) {
  const items = pane.items[view.state.mode];
  pane.body.replaceChildren(...items.map((item) => message(view, item)));
}

function message(view, item) {
  const { words } = view;
  if (item.role === "user") return make("div", { className: "message user" }, make("b", { textContent: words.you }), ...item.media.map((each) => preview(words, each)), make("div", { className: "said", dir: "auto", textContent: item.text }));
  item.view = answerView(words, item, { explain: explanation, message: view.message });
  return make("div", { className: "message" }, item.mode === "chat" ? make("b", { textContent: item.model }) : null, item.view.element);

  async function explanation(answer) {
    const { stream_options: _, logprobs: __, top_logprobs: ___, ...request } = answer.request;
    const count = Math.max(1, answer.tokens.length);
    const found = await post(PATHS[answer.mode], { ...request, max_tokens: Math.min(request.max_tokens ?? count, count), explain: EXPLAINED });
    const [choice] = found.choices;
    if (!(choice.text ?? choice.message.content).startsWith(answer.text)) throw new Error(words.otherText);
    return choice.explanation;
  }
}

function askForm(view) {
  const { state, words } = view;
  const isChat = state.mode === "chat";
  const modes = ["completion", "chat"];
  const text = make("textarea", { id: "prompt", value: state.prompt, rows: isChat ? 2 : 3, dir: "auto", "aria-label": words.prompts[state.mode], placeholder: words.prompts[state.mode] });
  text.oninput = () => {
    state.prompt = text.value;
    view.save();
  };
  const act = async () => {
    if (isRunning()) stop();
    else await send(view);
  };
  text.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing || !(event.ctrlKey || event.metaKey || (isChat && !event.shiftKey))) return;
    event.preventDefault();
    if (!isRunning()) send(view);
  };
  text.onpaste = (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length || !modalitiesOf(view).length) return;
    event.preventDefault();
    attach(view, files);
  };
  const form = make("form", { className: "prompting" }, text, make("button", { className: "main", id: "send", textContent: isRunning() ? words.stop : words.send[state.mode] }));
  form.onsubmit = (event) => {
    event.preventDefault();
    act();
  };
  const compare = make("input", { type: "checkbox", id: "compare", checked: state.compare, onchange: () => view.choose({ compare: compare.checked }) });
  const seed = make("input", { type: "number", id: "seed", className: "seed", min: 0, step: 1, placeholder: words.random, value: state.seed });
  seed.oninput = () => {
    state.seed = /^[0-9]{1,15}$/.test(seed.value) ? seed.value : "";
    seed.setAttribute("aria-invalid", String(seed.validity.badInput || seed.value !== state.seed));
    view.save();
  };
  const mode = choices("mode", words.mode, modes.map((each) => words.modes[each]), modes.indexOf(state.mode), (at) => view.choose({ mode: modes[at] }));
  const tools = row(mode, make("label", { className: "check" }, compare, words.compare), make("label", {}, `${words.seed} `, seed),
    button(words.clear, () => clear(view), { id: "clear" }));
  return make("div", { className: "ask-form" }, form, attachments(view), tools);
}

function clear(view) {
  stop();
  takeAttached();
  for (const pane of panes) pane.items[view.state.mode] = [];
  view.redraw();
}

async function send(view) {
  const { state, words } = view;
  const shown = state.compare ? [0, 1] : [0];
  const invalid = shown.flatMap((at) => [...panes[at].invalid]);
  if (invalid.length) return view.say(new Error(words.invalid(invalid.join(", "))));
  if (state.mode === "chat" && !state.prompt.trim() && !attachedNow().length) return;
  view.say(null);
  const text = state.prompt;
  const seed = state.seed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(state.seed);
  const isChat = state.mode === "chat";
  const media = isChat ? takeAttached() : attachedNow();
  if (isChat) state.prompt = document.getElementById("prompt").value = "";
  const answers = shown.map((at) => generate(view, at, state.mode, { text, media }, seed));
  if (isChat && media.length) view.redraw();
  label(view);
  tell("");
  const given = await Promise.all(answers);
  label(view);
  tell(given.map((answer, at) => (answer.text ? `${words.answer}${shown.length > 1 ? ` ${panes[at].name}` : ""}: ${answer.text}` : "")).join("\n"));
}

// The button sends, or stops what is running.
function label({ words, state }) {
  const send = document.getElementById("send");
  if (send) send.textContent = isRunning() ? words.stop : words.send[state.mode];
}

// The finished turns of a chat; a question without any answer is left out.
function messagesOf(items) {
  const messages = [];
  for (const [at, item] of items.entries()) {
    if (item.role !== "user" && item.text) messages.push({ role: "user", content: contentOf(items[at - 1]) }, { role: "assistant", content: item.text });
  }
  return messages;
}

function contentOf({ text, media }) {
  return media.length ? [...media.map(partOf), ...(text ? [{ type: "text", text }] : [])] : text;
}

function requestOf(view, at, mode, given, seed) {
  const { model, settings } = view.state.panes[at];
  const common = { model, seed, ...settings };
  if (mode === "completion") return { ...common, prompt: given.text, ...(given.media.length ? { media: given.media.map(partOf) } : {}), logprobs: TOP };
  const isQuoting = view.api.models.find(({ id }) => id === model)?.passages !== undefined; // its answers have sources, not tokens
  const tokens = isQuoting ? {} : { logprobs: true, top_logprobs: TOP };
  return { ...common, messages: [...messagesOf(panes[at].items.chat), { role: "user", content: contentOf(given) }], ...tokens };
}

async function generate(view, at, mode, given, seed) {
  const pane = panes[at];
  const request = requestOf(view, at, mode, given, seed);
  const answer = { mode, request, model: request.model, seed, tokens: [], text: "", finish: null, step: null, error: null, explanation: null };
  if (mode === "completion") {
    answer.prompt = given.text;
    pane.items.completion = [answer];
  } else pane.items.chat.push({ role: "user", ...given }, answer);
  drawItems(view, pane);
  pane.control = new AbortController();
  const reader = new TokenReader(mode === "chat");
  try {
    const chunks = stream(PATHS[mode], request, pane.control.signal, (headers) => { answer.step = headers.get("x-glassgpt-step"); });
    for await (const { choices: [choice], sources } of chunks) {
      answer.sources = sources ?? answer.sources;
      if (choice) take(answer, choice, reader);
    }
  } catch (error) {
    if (error.name === "AbortError") answer.finish = "stopped";
    else answer.error = error;
  }
  pane.control = null;
  fitToText(answer.tokens, answer.text);
  if (answer.finish) answer.view.finish();
  if (answer.error) answer.view.fail(view.message(answer.error));
  return answer;
}

function take(answer, choice, reader) {
  answer.text += choice.text ?? choice.delta.content ?? "";
  answer.finish = choice.finish_reason ?? answer.finish;
  for (const token of tokensOf(choice)) {
    answer.tokens.push(reader.read(token));
    answer.view.add(token);
  }
}
