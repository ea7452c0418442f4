// Keeps a copy of every file that the page reads, so that it also opens without a network. With one, the host's file is read
// and the copy replaced, so that a new model is there at once.
const COPIES = `glassgpt ${self.registration.scope}`;
const READ_BEFORE = ["./", "page.css", "page.js"]; // before this worker was there

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(COPIES).then((copies) => copies.addAll(READ_BEFORE)));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});

async function answer(event) {
  const copies = await caches.open(COPIES);
  let response;
  try {
    response = await fetch(event.request);
  } catch (error) {
    const copy = await copies.match(event.request);
    if (copy) return copy;
    throw error;
  }
  if (response.status === 200) event.waitUntil(copies.put(event.request, response.clone()));
  return response;
}
