"""Connections of the server: bounded headers, an orderly end (extra: serve).

uvicorn waits for the rest of a header without limit of time, and httptools buffers a header of any size. Here both are
bounded, before anything of the request is processed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn

from glassgpt.serving import json_codec
from glassgpt.serving.errors import APIError
from glassgpt.serving.identifiers import new_id
from glassgpt.serving.limits import ServerLimits

SECOND_CHANCE_SECONDS = 2.0
"""Seconds between the errors that end the last requests and the end of their connections."""


def connection_class(limits: ServerLimits) -> type[asyncio.Protocol]:
    """Return the class of connections, for uvicorn.

    Args:
        limits: of the server.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Connection(HttpToolsProtocol):
        """A connection that is closed if its header is too large or takes too long."""

        _header_bytes = 0
        _in_header = True
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Wait for the first header."""
            super().connection_made(transport)
            self._await_header()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop waiting."""
            super().connection_lost(exc)
            self._stop_waiting()

        def data_received(self, data: bytes) -> None:
            """Count the bytes of a header before the parser sees them."""
            if self._in_header:
                if len(self.connections) > limits.max_connections and not self._is_answering:
                    self._refuse(_too_many_connections(limits))
                    return
                if self._deadline is None:
                    self._await_header()
                self._header_bytes += len(data)
                if self._header_bytes > limits.max_header_bytes and not self._ends_early(data):
                    self._refuse(APIError(f"the header is larger than {limits.max_header_bytes:,} bytes", status=431))
                    return
            super().data_received(data)

        def _ends_early(self, data: bytes) -> bool:
            """Return whether the header may end in time, so that what is too large is the body behind it."""
            left = limits.max_header_bytes - (self._header_bytes - len(data))
            return b"\r\n\r\n" in data[: max(0, left)]

        def on_message_begin(self) -> None:
            """Begin with a header."""
            super().on_message_begin()
            self._in_header = True

        def on_headers_complete(self) -> None:
            """Stop waiting: the body has limits of its own."""
            self._in_header = False
            self._header_bytes = 0
            self._stop_waiting()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            """Expect the next request's header; a connection that stays idle is closed by uvicorn."""
            super().on_message_complete()
            self._in_header = True

        def _await_header(self) -> None:
            self._stop_waiting()
            self._deadline = self.loop.call_later(limits.header_seconds, self._close_if_waiting)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _close_if_waiting(self) -> None:
            if self._in_header and not self._is_answering:
                self.transport.abort()

        @property
        def _is_answering(self) -> bool:
            """True while a response is being sent, into which nothing else may be written."""
            cycle: Any = self.cycle  # None before the first request
            return cycle is not None and not cycle.response_complete

        def send_400_response(self, msg: str) -> None:
            """Refuse what is no HTTP."""
            self._refuse(APIError(msg))

        def _refuse(self, error: APIError) -> None:
            """Answer before the application, in its shape, and close the connection."""
            body = json_codec.encode(error.body())
            headers = {
                "content-type": "application/json", "content-length": str(len(body)), "connection": "close",
                "x-request-id": new_id("req_"), **error.headers(),
            }  # fmt: skip
            lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
            self.transport.close()

    return Connection


def _too_many_connections(limits: ServerLimits) -> APIError:
    message = f"the server has {limits.max_connections} open connections already; try again in a second"
    return APIError(message, status=503, code="too_many_connections", retry_after=1)


class Server(uvicorn.Server):
    """A server that finishes running requests after the first signal and leaves at the second.

    Args:
        config: uvicorn's.
        on_drain: called at the first signal.
        abort: called when the time to finish is over; gives errors to the requests that still run.
        drain_seconds: time to finish.
    """

    def __init__(
        self, config: uvicorn.Config, on_drain: Callable[[], None], abort: Callable[[], None], drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._on_drain, self._abort, self._drain_seconds = on_drain, abort, drain_seconds

    def stop_if_failed(self, task: asyncio.Task[None]) -> None:
        """Stop serving if a task without which there is nothing to serve has failed."""
        if not task.cancelled() and task.exception() is not None:
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, leave at the second."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self._on_drain)
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._abort)


def create_server(
    app: Any,
    limits: ServerLimits,
    *,
    on_drain: Callable[[], None],
    abort: Callable[[], None],
) -> Server:
    """Return the server of an ASGI application.

    Args:
        app: the application.
        limits: of the server.
        on_drain: see `Server`, as is `abort`.
    """
    config = uvicorn.Config(
        app, http=connection_class(limits), ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False,
        backlog=1024,
        timeout_graceful_shutdown=int(limits.drain_seconds + SECOND_CHANCE_SECONDS) + 1,
    )  # fmt: skip
    return Server(config, on_drain, abort, limits.drain_seconds)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: the address cannot be used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener
