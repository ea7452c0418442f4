// Keeps a copy of every file that the page reads, so that it also opens without a network. With one, the host's file is read
// and the copy replaced, so that a new model is there at once. What else lies on the host, below the page's address, is left alone.
const { scope } = self.registration;
const COPIES = `glassgpt ${scope}`;
const PAGE = "./";
const READ_BEFORE = [PAGE, "page.css", "page.js"]; // before this worker was there
const OURS = /^(index\.html|page\.(css|js|json)|worker\.js|(library|model)\/.+)?$/;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(COPIES).then((copies) => copies.addAll(READ_BEFORE)));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(scope) && OURS.test(pathOf(url))) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const copies = await caches.open(COPIES);
  const key = ["", "index.html"].includes(pathOf(request.url)) ? PAGE : request; // the page has two addresses
  let response;
  try {
    // The host is asked even if the browser's own cache takes its file for fresh; with a navigation the browser decides.
    response = await (request.mode === "navigate" ? fetch(request) : fetch(request, { cache: "no-cache" }));
  } catch (error) {
    const copy = await copies.match(key);
    if (copy) return copy;
    throw error;
  }
  if (response.status === 200) event.waitUntil(copies.put(key, response.clone()).catch(tell));
  return response;
}

// The path below the page's folder; any address may end in a query.
const pathOf = (url) => url.slice(scope.length).split(/[?#]/)[0];

// A copy could not be kept, such as for want of space.
async function tell(error) {
  console.warn(error);
  for (const client of await self.clients.matchAll()) client.postMessage("not kept");
}
