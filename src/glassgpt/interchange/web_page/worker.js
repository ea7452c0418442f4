// The model, in a separate thread so that the page stays responsive. Every file is read from beside this one.
import { AutoModelForCausalLM, AutoTokenizer, InterruptableStoppingCriteria, Tensor, TextStreamer, env } from "./library/transformers.js";

const here = new URL("./", self.location.href).href;
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "./"; // beside this file; transformers.js takes an address for a remote model
env.useBrowserCache = false;
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = { wasm: `${here}library/ort-wasm-simd-threaded.wasm` };
env.backends.onnx.wasm.numThreads = 1; // more need headers that static hosts do not send

const stopping = new InterruptableStoppingCriteria();
let page, tokenizer, model;

// Ends a turn of the event loop, so that a message to stop is read: generating alone never does. A timer would wait 4 ms.
const { port1, port2 } = new MessageChannel();
const nextTurn = () =>
  new Promise((resolve) => {
    port1.onmessage = resolve;
    port2.postMessage(0);
  });

async function load() {
  page = await (await fetch("page.json")).json();
  const progress_callback = ({ status, progress }) => {
    if (status === "progress") self.postMessage({ kind: "loading", percent: Math.round(progress) });
  };
  tokenizer = await AutoTokenizer.from_pretrained("model");
  model = await AutoModelForCausalLM.from_pretrained("model", { dtype: page.dtype, device: "wasm", progress_callback });
  const forward = model.forward.bind(model);
  model.forward = async (inputs) => {
    await nextTurn();
    return forward(inputs);
  };
  self.postMessage({ kind: "ready", name: page.name });
}

function encode(prompt, count) {
  // As glassgpt does: without a prompt, the token that separates documents begins the text.
  const ids = prompt === "" ? [page.end_of_text] : tokenizer.encode(prompt, { add_special_tokens: false });
  const kept = ids.slice(-Math.max(1, page.context_length - count));
  return new Tensor("int64", BigInt64Array.from(kept, BigInt), [1, kept.length]);
}

async function generate({ prompt, settings }) {
  const { max_new_tokens, temperature, top_k, top_p, repetition_penalty } = settings;
  const count = Math.min(max_new_tokens, page.context_length - 1);
  const input_ids = encode(prompt, count);
  const attention_mask = new Tensor("int64", new BigInt64Array(input_ids.dims[1]).fill(1n), input_ids.dims);
  let generated = 0;
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => self.postMessage({ kind: "text", text }),
    token_callback_function: () => {
      generated++;
      self.postMessage({ kind: "token" });
    },
  });
  stopping.reset();
  const started = performance.now();
  const sampling = temperature > 0 ? { do_sample: true, temperature, top_k, top_p } : { do_sample: false };
  await model.generate({
    input_ids, attention_mask, max_new_tokens: count, repetition_penalty, streamer, stopping_criteria: stopping, ...sampling,
  });
  self.postMessage({ kind: "done", count: generated, seconds: (performance.now() - started) / 1000 });
}

const fail = (error) => self.postMessage({ kind: "failed", message: String(error.message ?? error) });
self.addEventListener("message", ({ data }) => {
  if (data.kind === "stop") stopping.interrupt();
  else generate(data).catch(fail);
});
load().catch(fail);
