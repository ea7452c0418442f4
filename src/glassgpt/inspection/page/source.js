// Data source: the running server, or the data embedded in a saved page.
const element = document.getElementById("saved");
const saved = element && JSON.parse(element.textContent);

export const isSaved = saved !== null;
export const leftOut = (language) => (isSaved ? saved.left_out[language] : []);

const MAX_CACHED_BYTES = 128 << 20; // of arrays; the oldest are evicted first
const kept = new Map();
const MAX_CACHED_DETAILS = 500;
const cachedDetails = new Map();

export class NotSavedError extends Error {}

// Return a substitute for data that a saved page lacks; rethrow other errors.
export function unlessLeftOut(instead) {
  return (error) => {
    if (error instanceof NotSavedError) return instead;
    throw error;
  };
}

export class NoProgramError extends Error {} // it was stopped, or another server responds at its address

const isLittleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

// Responses are little-endian; on the rare big-endian machines the bytes are swapped.
function readFloats(buffer) {
  if (isLittleEndian) return new Float32Array(buffer);
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength / 4 }, (_, at) => view.getFloat32(4 * at, true));
}

// The server answers in the language of the page.
async function answered(path, { headers = {}, ...options } = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers, "Accept-Language": document.documentElement.lang } }).catch((error) => { throw new NoProgramError(error.message); });
  if (response.ok) return response;
  if (response.status === 403) throw new NoProgramError(response.statusText);
  const body = await response.json().catch(() => ({ error: "" })); // not one of its own refusals
  throw Object.assign(new Error(body.error), { isOld: response.status === 410 });
}

async function posted(path, asked) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) };
  return (await answered(path, options)).json();
}

// Retry once if the server has evicted the trace, after requesting it again.
async function patiently(trace, ask) {
  try {
    return await ask();
  } catch (error) {
    if (!error.isOld) throw error;
    await posted("trace", trace.question);
    return ask();
  }
}

export async function fetchTrace(question) {
  if (isSaved) {
    const { id, overview } = saved.earlier[question.step] ?? saved;
    return { id, overview, question };
  }
  return { ...(await posted("trace", question)), question };
}

// Values and shape of a tensor, or of a slice of it: fetchArray(trace, "….weights", 3) is head 3.
export function fetchArray(trace, name, ...index) {
  const key = [trace.id, name, ...index].join("/");
  if (!kept.has(key)) {
    const asked = isSaved ? savedArray(trace, name, index) : askedArray(trace, name, index);
    kept.set(key, asked);
    asked.then(letGo, () => kept.delete(key));
  }
  return kept.get(key);
}

async function askedArray(trace, name, index) {
  const response = await patiently(trace, () => answered(`array?${new URLSearchParams({ id: trace.id, name, index })}`));
  return { values: readFloats(await response.arrayBuffer()), shape: JSON.parse(response.headers.get("X-Shape")) };
}

// The embedded trace: the saved one, or that of an earlier checkpoint.
function heldOf({ id }) {
  return saved.earlier[id] ?? saved;
}

async function savedArray(trace, name, index) {
  const found = heldOf(trace).arrays[name];
  if (!found) throw new NotSavedError(name);
  found.decoded ??= readFloats(Uint8Array.from(atob(found.values), (character) => character.charCodeAt(0)).buffer);
  const shape = found.shape.slice(index.length);
  const size = shape.reduce((product, length) => product * length, 1);
  const first = index.reduce((at, number, axis) => at * found.shape[axis] + number, 0) * size;
  return { values: found.decoded.subarray(first, first + size), shape };
}

async function letGo() {
  const sizes = await Promise.all([...kept.values()].map((each) => each.then(({ values }) => values.byteLength, () => 0)));
  let total = sizes.reduce((sum, size) => sum + size, 0);
  for (const [at, key] of [...kept.keys()].slice(0, -1).entries()) {
    if (total <= MAX_CACHED_BYTES) return;
    total -= sizes[at];
    kept.delete(key);
  }
}

// Details of a trace, computed by the server on request; see details.py.
export function fetchDetail(trace, what, args = {}, options = {}) {
  const key = JSON.stringify([trace.id, what, args, options]);
  if (!cachedDetails.has(key)) {
    const asked = isSaved ? savedDetail(trace, what, args) : patiently(trace, () => posted("detail", { id: trace.id, what, arguments: args, options }));
    cachedDetails.set(key, asked);
    asked.catch(() => cachedDetails.delete(key));
    if (cachedDetails.size > MAX_CACHED_DETAILS) cachedDetails.delete(cachedDetails.keys().next().value);
  }
  return cachedDetails.get(key);
}

async function savedDetail(trace, what, args) {
  const key = [what, ...Object.values(args)].join("/");
  const found = heldOf(trace).details[key] ?? (what === "sources" ? saved.details[key] : undefined);
  if (!found) throw new NotSavedError(what);
  return found;
}
