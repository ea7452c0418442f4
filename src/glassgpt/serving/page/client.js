// Requests to the server that this page comes from. The API key is asked for when it is needed, and forgotten with the tab.
const KEY = "glassgpt-api-key";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// The server does not respond.
export class NoServerError extends Error {}

let ask = async () => null; // returns a key, or null if there is none
let asking = null; // one question for all requests that wait for the key

export function askForKeyWith(question) {
  ask = question;
}

async function askForKey() {
  asking ??= ask(sessionStorage.getItem(KEY) !== null).finally(() => { asking = null; });
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return key;
}

// Return a successful response. Paths are relative, so that the page works below any path of a proxy.
async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(options.body ? { "content-type": "application/json" } : {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, { ...options, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new NoServerError();
    });
    if (response.ok) return response;
    if (response.status === 401 && (sessionStorage.getItem(KEY) !== key || await askForKey())) continue;
    throw await errorOf(response);
  }
}

async function errorOf(response) {
  const body = await response.json().catch(() => null);
  return new ServerError(body?.error?.message ?? `${response.status} ${response.statusText}`, response.status);
}

export async function getJson(path) {
  return (await request(path)).json();
}

export async function getText(path) {
  return (await request(path)).text();
}

export async function post(path, body, signal) {
  return (await request(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// Yield the data of server-sent events up to [DONE]. `onStart` gets the response's headers.
export async function* stream(path, body, signal, onStart = () => {}) {
  const response = await request(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  onStart(response.headers);
  let rest = "";
  for await (const text of parts(response.body.pipeThrough(new TextDecoderStream()).getReader())) {
    const events = (rest + text).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ServerError(parsed.error.message);
      yield parsed;
    }
  }
  throw new NoServerError();
}

async function* parts(reader) {
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new NoServerError();
  } finally {
    reader.cancel().catch(() => {}); // tells the server to stop, unless it has finished
  }
}
