// Where the figures come from: the running program, or what a saved page carries with it.
const saved = document.getElementById("saved");

export const isSaved = saved !== null;

function decoded(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return readFloats(bytes.buffer);
}

// The wire is little-endian, whatever this machine is.
function readFloats(buffer) {
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength / 4 }, (_, at) => view.getFloat32(4 * at, true));
}

async function answer(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ error: response.statusText }));
  throw new Error(told.error);
}

export async function fetchTrace(asked) {
  if (isSaved) return JSON.parse(saved.textContent);
  const response = await fetch("trace", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) });
  return (await answer(response)).json();
}

export async function fetchArray(trace, name) {
  if (isSaved) {
    const kept = JSON.parse(saved.textContent).arrays[name];
    return { values: decoded(kept.values), shape: kept.shape };
  }
  const response = await answer(await fetch(`array?${new URLSearchParams({ id: trace.id, name })}`));
  return { values: readFloats(await response.arrayBuffer()), shape: JSON.parse(response.headers.get("X-Shape")) };
}
