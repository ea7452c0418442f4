"""Endpoints as ASGI applications: read a request, run a handler until the client leaves, send its answer."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from glassgpt.errors import GlassGPTError
from glassgpt.serving import json_codec
from glassgpt.serving.errors import APIError
from glassgpt.serving.limits import ServerLimits

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
SHORT_BODY = 16 << 10
"""Bytes of a request that is processed on the event loop: a thread would take longer to start."""
DONE = b"data: [DONE]\n\n"


class LastEvents(bytes):
    """The last server-sent events of a stream, which are sent in one message with its end."""


class ClientDisconnectedError(Exception):
    """The client closed the connection before it had its answer."""


@dataclass
class Call:
    """A request whose body has been read.

    Attributes:
        body: the JSON object; empty for GET.
        size: bytes of the body.
        headers: that the handler adds to the response.
        request_id: of the response's header x-request-id.
        held: what is released once the answer is complete, or the client has left.
    """

    body: dict[str, Any]
    size: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    request_id: str = ""
    held: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class Raw:
    """An answer other than a JSON object."""

    body: bytes
    media_type: str
    status: int = 200


Answer = Mapping[str, Any] | Raw | AsyncIterator[bytes]
"""A JSON object, another body, or server-sent events."""
Handler = Callable[[Call], Awaitable[Answer]]


def event(data: Any, name: str | None = None) -> bytes:
    """Return a server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + json_codec.encode(data) + b"\n\n"


class Endpoint:
    """A handler as an ASGI application.

    Args:
        handler: answers a request.
        limits: of the server.
        has_body: the request has a JSON body.
    """

    def __init__(self, handler: Handler, limits: ServerLimits, *, has_body: bool = True) -> None:
        self._handler, self._limits, self._has_body = handler, limits, has_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = _Response(send)
        response.headers = {"connection": "close"}  # until the body has been read: the rest of it must not be kept open
        try:
            call = await self._read(scope, receive)
            response.headers = call.headers
            with call.held:
                if self._has_body:
                    await _unless_disconnected(receive, self._answer(call, response))
                else:
                    await self._answer(call, response)
        except ClientDisconnectedError:
            return
        except APIError as error:
            await response.fail(error)
        except GlassGPTError as error:
            await response.fail(APIError(str(error)))
        except Exception as error:
            logger.exception("a request failed:\n%s", traceback.format_exc())
            await response.fail(
                APIError(f"the server failed: {type(error).__name__}", status=500, code="internal_error")
            )

    async def _answer(self, call: Call, response: _Response) -> None:
        answer = await self._handler(call)
        if isinstance(answer, Raw):
            await response.send(answer.status, answer.media_type, answer.body)
        elif isinstance(answer, Mapping):
            await response.send(200, "application/json", json_codec.encode(answer))
        else:
            async with aclosing(answer) as events:  # pyright: ignore[reportArgumentType]
                async for each in events:
                    await response.send_event(each)
            await response.end()

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        request_id = scope.get("state", {}).get("request_id", "")
        if not self._has_body:
            return Call({}, request_id=request_id)
        media_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if media_type.split(b";")[0].strip().lower() not in (b"application/json", b""):
            raise APIError("the content type must be application/json", status=415)
        body = await self._read_body(receive)
        if len(body) <= SHORT_BODY:
            decoded = json_codec.decode_object(body, self._limits.max_depth)
        else:
            decoded = await asyncio.to_thread(json_codec.decode_object, body, self._limits.max_depth)
        return Call(decoded, len(body), request_id=request_id)

    async def _read_body(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnectedError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.max_body_bytes:
                        raise APIError(
                            f"the body is larger than {self._limits.max_body_bytes:,} bytes",
                            status=413,
                            code="too_large",
                        )
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise APIError(
                f"the body was not complete after {self._limits.body_seconds:g} seconds", status=408
            ) from None


class _Response:
    """Sends one response; an error after its start becomes a last event."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.headers: dict[str, str] = {}
        self._has_started = self._has_ended = False

    async def send(self, status: int, media_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send a complete response."""
        await self._start(status, media_type, {"content-length": str(len(body)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": body})

    async def send_event(self, data: bytes) -> None:
        """Send some server-sent events, after the header if they are the first."""
        if not self._has_started:
            await self._start(200, "text/event-stream; charset=utf-8", {"x-accel-buffering": "no"})
        self._has_ended = isinstance(data, LastEvents)
        await self._send({"type": "http.response.body", "body": data, "more_body": not self._has_ended})

    async def end(self) -> None:
        """End a stream, unless its last events have."""
        if not self._has_ended:
            await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: APIError) -> None:
        """Send an error."""
        if self._has_started:
            await self.send_event(event(error.body()) + DONE)
            await self.end()
        else:
            await self.send(error.status, "application/json", json_codec.encode(error.body()), error.headers())

    async def _start(self, status: int, media_type: str, headers: Mapping[str, str]) -> None:
        self._has_started = True
        every = {"content-type": media_type, "cache-control": "no-store", **self.headers, **headers}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in every.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})


async def _unless_disconnected(receive: Receive, answer: Awaitable[None]) -> None:
    """Await an answer, and cancel it if the client closes the connection first.

    `receive` returns nothing but a disconnect once the body has been read. Waiting for it in a separate task notices
    one at once, also while nothing is being sent.

    Raises:
        ClientDisconnectedError: it did.
    """
    loop, gone = asyncio.get_running_loop(), asyncio.ensure_future(_disconnected(receive))
    until_gone = asyncio.timeout(None)
    try:
        async with until_gone:  # cancels the answer, in this task, and nothing else

            def expire(_: object) -> None:
                with suppress(RuntimeError):  # the answer ended while this call was scheduled
                    until_gone.reschedule(loop.time())

            gone.add_done_callback(expire)
            try:
                await answer
            finally:
                gone.remove_done_callback(expire)
    except TimeoutError:
        if until_gone.expired():
            raise ClientDisconnectedError from None
        raise
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
