// The page: reads prompt and settings, and shows what the worker generates.

const WORDS = {
  en: {
    about: "This model runs in your browser. Nothing that you type leaves it.",
    prompt: "Prompt", settings: "Settings", start: "Generate", stop: "Stop",
    loading: (percent) => `Loading the model… ${percent} %`, ready: "Ready.", offline: "Ready, also without a network.", working: (count) => `${count} tokens`,
    done: (count, rate) => `${count} tokens, ${rate} per second`, failed: (message) => `It failed: ${message}`,
    max_new_tokens: "Number of tokens", temperature: "Temperature (0: most likely token)", top_k: "Top-k (0: off)",
    top_p: "Top-p (1: off)", repetition_penalty: "Repetition penalty (1: off)",
  },
  ko: {
    about: "이 모델은 브라우저 안에서 실행됩니다. 입력한 글은 밖으로 나가지 않습니다.",
    prompt: "프롬프트", settings: "설정", start: "생성", stop: "중지",
    loading: (percent) => `모델을 불러오는 중… ${percent} %`, ready: "준비되었습니다.", offline: "준비되었습니다. 네트워크가 없어도 됩니다.", working: (count) => `토큰 ${count}개`,
    done: (count, rate) => `토큰 ${count}개, 초당 ${rate}개`, failed: (message) => `실패했습니다: ${message}`,
    max_new_tokens: "토큰 수", temperature: "온도(0: 확률이 가장 높은 토큰)", top_k: "top-k(0: 끔)",
    top_p: "top-p(1: 끔)", repetition_penalty: "반복 벌점(1: 끔)",
  },
};
const SETTINGS = {
  max_new_tokens: { value: 100, min: 1, step: 1 },
  temperature: { value: 0.8, min: 0, step: 0.05 },
  top_k: { value: 0, min: 0, step: 1 },
  top_p: { value: 1, min: 0.01, max: 1, step: 0.01 },
  repetition_penalty: { value: 1, min: 0.1, step: 0.05 },
};

const LONGEST_WAIT = 5000; // milliseconds for a service worker to start

const language = navigator.language.startsWith("ko") ? "ko" : "en";
const words = WORDS[language];
const at = (id) => document.getElementById(id);
let worker, tokens = 0, loaded = false, kept = true;

document.documentElement.lang = language;
for (const [id, text] of [["about", words.about], ["prompt-label", words.prompt], ["settings-label", words.settings], ["start", words.start], ["stop", words.stop], ["status", words.loading(0)]])
  at(id).textContent = text;
for (const [name, limits] of Object.entries(SETTINGS)) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "number", id: name, ...limits });
  label.append(words[name], input);
  at("settings").append(label);
}

function report(text, failed = false) {
  at("status").textContent = text;
  at("status").classList.toggle("failed", failed);
}

function setBusy(busy) {
  at("start").disabled = busy || !loaded;
  at("stop").disabled = !busy || !loaded;
  document.querySelector("main").setAttribute("aria-busy", String(busy));
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = at("prompt").value;
  const settings = Object.fromEntries(Object.keys(SETTINGS).map((name) => [name, at(name).valueAsNumber]));
  const echo = Object.assign(document.createElement("b"), { textContent: prompt });
  at("text").replaceChildren(echo, document.createTextNode(""));
  tokens = 0;
  setBusy(true);
  worker.postMessage({ kind: "generate", prompt, settings });
});
at("stop").addEventListener("click", () => worker.postMessage({ kind: "stop" }));

const ANSWERS = {
  loading: ({ percent }) => report(words.loading(percent)),
  ready: ({ name }) => {
    at("name").textContent = document.title = name;
    report(kept && navigator.serviceWorker?.controller ? words.offline : words.ready);
    loaded = true;
    setBusy(false);
  },
  text: ({ text }) => at("text").lastChild.appendData(text),
  token: () => report(words.working(++tokens)),
  done: ({ count, seconds }) => {
    report(words.done(count, (count / seconds).toFixed(1)));
    setBusy(false);
  },
  failed: ({ message }) => {
    report(words.failed(message), true);
    setBusy(false);
  },
};

// Copies of all files are kept by a service worker, where browsers allow one: on https and on this computer.
async function keepCopies() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  workers.addEventListener("message", () => { // a copy could not be kept
    kept = false;
    if (at("status").textContent === words.offline) report(words.ready);
  });
  const { active } = await workers.register("offline.js");
  if (workers.controller || active) return; // active without controlling: the reader asked for fresh files
  const controlled = new Promise((resolve) => workers.addEventListener("controllerchange", resolve, { once: true }));
  await Promise.race([controlled, new Promise((resolve) => setTimeout(resolve, LONGEST_WAIT))]);
}

await keepCopies().catch(console.warn); // without copies the page works as long as there is a network
worker = new Worker("worker.js", { type: "module" });
worker.addEventListener("message", ({ data }) => ANSWERS[data.kind](data));
worker.addEventListener("error", (event) => ANSWERS.failed({ message: event.message }));
