"""A client that calls the application in this process, without sockets, and a server of small models."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from glassgpt.data import load_tokenizer
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.serving.app import create_app
from glassgpt.serving.context import ServerContext
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.served_model import ServedModel, Weights

BYTES = load_tokenizer("bytes")


@dataclass
class Reply:
    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    parts: list = field(default_factory=list)

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The data of the server-sent events, without the final [DONE]."""
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


class Client:
    """Sends requests to an ASGI application."""

    def __init__(self, app, headers=()):
        self.app, self.headers = app, dict(headers)

    async def request(self, method, path, body=None, *, headers=None, leave_after=None, on_part=None):
        """Return the reply.

        Args:
            body: bytes as they are, anything else as JSON.
            leave_after: seconds after which the client closes the connection.
            on_part: called with the reply after each part of the body.
        """
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        every = {"host": "127.0.0.1", "content-type": "application/json", **self.headers, **(headers or {})}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in every.items()],
            "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        messages: asyncio.Queue = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": content, "more_body": False})
        reply = Reply()

        async def send(message):
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                reply.body += message.get("body", b"")
                reply.parts.append(message.get("body", b""))
                if on_part is not None:
                    on_part(reply)

        if leave_after is not None:
            asyncio.get_running_loop().call_later(leave_after, messages.put_nowait, {"type": "http.disconnect"})
        await self.app(scope, messages.get, send)
        return reply

    async def post(self, path, body, **options):
        return await self.request("POST", path, body, **options)

    async def get(self, path, **options):
        return await self.request("GET", path, **options)


@asynccontextmanager
async def serving(
    model,
    *,
    limits=None,
    slots=4,
    tokenizer=BYTES,
    names=("tiny",),
    recorder=None,
    documents=None,
    media_folder=None,
    **guards,
):
    """A client of a server with this model, or with these weights, under each of the names."""
    weights = model
    if not isinstance(model, Weights):
        weights = Weights(model, tokenizer, 7, {"weights": "abc", "slots": str(slots)}, "runs/tiny")
    limits = limits or ServerLimits()
    models: dict[str, ServedModel] = {}
    metrics = Metrics(lambda: [(name, *each.counts()) for name, each in models.items()])
    context = ServerContext(models, limits, metrics, recorder, documents or {}, media_folder=media_folder)
    for name in names:
        served = ServedModel(name, TRANSCRIPT, slots, limits, metrics)
        version = served.start(weights, asyncio.get_running_loop())
        served.activate(version)
        await asyncio.to_thread(version.thread.is_ready.wait, 30)
        models[name] = served
    client = Client(create_app(context, **guards))
    client.context = context
    try:
        yield client
    finally:
        for served in models.values():
            await asyncio.to_thread(served.stop)
        context.executor.shutdown()


def run_with(model, work, **options):
    """Run `await work(client)` with a server."""

    async def main():
        async with serving(model, **options) as client:
            return await work(client)

    return asyncio.run(main())
