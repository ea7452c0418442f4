"""The connections of the page's server: none may keep it from answering others or from stopping (extra: serve)."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.applications import Starlette

STOP_SECONDS = 1
"""Seconds that Ctrl-C waits for running requests."""
SILENT_SECONDS = 60.0
"""A shortage of file descriptors is reported once in this time."""
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
logger = logging.getLogger(__name__)


class _Connection(H11Protocol):
    """A connection that is closed if it does not send a complete request header in time.

    uvicorn itself closes only connections that are idle after a response; it waits for the rest of a header forever.
    """

    header_seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Start waiting for the rest of a header, or stop waiting when it is complete."""
        super().data_received(data)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._cancel_deadline()

    def close_if_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if self._is_idle():
            self.transport.abort()

    def _is_idle(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def _set_deadline(self) -> None:
        if not self._is_idle():
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.close_if_idle)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """A server that survives a shortage of file descriptors by closing idle connections."""

    _reported = -SILENT_SECONDS

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until interrupted."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await super().serve(sockets)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.should_exit and isinstance(error, ValueError):  # asyncio resumes accepting on the closed socket
            return
        if not (isinstance(error, OSError) and error.errno in SHORTAGES):
            loop.default_exception_handler(context)
            return
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection):
                connection.close_if_idle()
        now = time.monotonic()
        if now - self._reported < SILENT_SECONDS:  # asyncio reports it once for each place in the listen queue
            return
        self._reported = now
        logger.warning(
            f"the page has too many open connections ({error.strerror}); closing the idle ones. If this repeats, raise "
            "the limit with: ulimit -n 4096"
        )


def run_server(app: Starlette, listener: socket.socket, header_seconds: float) -> None:
    """Serve an application on a listening socket until interrupted.

    Args:
        app: to serve.
        listener: the socket.
        header_seconds: after which a connection without a complete request header is closed.
    """
    connection = type("_TimedConnection", (_Connection,), {"header_seconds": header_seconds})
    config = uvicorn.Config(
        app, http=connection, ws="none", lifespan="off", loop="asyncio", log_level="critical", access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS, backlog=64,
    )  # fmt: skip
    _Server(config).run(sockets=[listener])
