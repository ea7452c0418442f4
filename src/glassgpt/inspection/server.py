"""The page in the browser: on this machine alone, behind an address that nobody can guess.

Read before it is answered: the Host header, so that no other site's name can lead here (DNS rebinding); the Origin,
so that no other site's page can ask; a random token in the path, so that no other user of the machine can.
"""

from __future__ import annotations

import json
import re
import secrets
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from glassgpt import console
from glassgpt.errors import GlassGPTError, InspectionError, MissingExtraError
from glassgpt.inspection.service import ExpiredTraceError, InspectionService
from glassgpt.inspection.static_page import MODULES, page_file
from glassgpt.inspection.trace import MOST_BYTES

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_REQUEST_BYTES = 8 * MOST_BYTES
"""Bytes of a question: JSON spells a character in up to six."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(desk: InspectionService, key: str, hosts: tuple[str, ...]) -> Starlette:
    """The ASGI application.

    Args:
        desk: that answers.
        key: the token, first in every path.
        hosts: what a Host header may be, with the port.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("starlette", "serve", "the page in the browser") from error

    async def ask(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(desk.ask, await _question(request)))

    async def detail(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(desk.detail, await _question(request)))

    async def values(request: Request) -> Response:
        asked = request.query_params
        index = _index(asked.get("index", ""))
        raw, shape = await run_in_threadpool(desk.array, asked.get("id", ""), asked.get("name", ""), *index)
        return Response(raw, media_type="application/octet-stream", headers={"X-Shape": json.dumps(shape)})

    async def file(request: Request) -> Response:
        name = request.path_params["name"] or "index.html"
        if name not in ("index.html", "page.css", *MODULES):
            return Response("there is nothing here", 404)
        return Response(page_file(name), media_type=KINDS[Path(name).suffix])

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guard(request: Request) -> Response:
            if not _is_allowed(request, key, hosts):
                return Response("not here", 403, headers=HEADERS)
            try:
                response = await answer(request)
            except GlassGPTError as error:
                response = JSONResponse({"error": str(error)}, 410 if isinstance(error, ExpiredTraceError) else 400)
            response.headers.update(HEADERS)
            return response

        return guard

    return Starlette(
        routes=[
            Route("/{key}/trace", guarded(ask), methods=["POST"]),
            Route("/{key}/detail", guarded(detail), methods=["POST"]),
            Route("/{key}/array", guarded(values), methods=["GET"]),
            Route("/{key}/{name:path}", guarded(file), methods=["GET"]),
        ]
    )


def _is_allowed(request: Request, key: str, hosts: tuple[str, ...]) -> bool:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    given = request.path_params["key"].encode()
    return host in hosts and origin in (None, f"http://{host}") and secrets.compare_digest(given, key.encode())


async def _question(request: Request) -> dict[str, Any]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise InspectionError(f"the text is too long; at most {MOST_BYTES:,} bytes are looked at")
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InspectionError("a question is a JSON object")
    return found


def _index(given: str) -> list[int]:
    """`2,7` is row 7 of head 2."""
    if not re.fullmatch(r"([0-9]{1,7}(,[0-9]{1,7})*)?", given):
        raise InspectionError("a part of a tensor is named by numbers with commas between")
    return [int(number) for number in given.split(",") if number]


def serve(desk: InspectionService, announce: Callable[[str], None], port: int = 0) -> None:
    """Serve until interrupted.

    Args:
        desk: that answers.
        announce: called with the address once it can be opened.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        InspectionError: the port is taken.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    import socket

    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve", "the page in the browser") from error
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise InspectionError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
    number, key = listener.getsockname()[1], secrets.token_urlsafe(24)
    built = application(desk, key, (f"127.0.0.1:{number}", f"localhost:{number}"))
    listener.listen()  # from here on the browser's first question waits instead of failing
    announce(f"http://127.0.0.1:{number}/{key}/")
    uvicorn.Server(uvicorn.Config(built, log_level="error", access_log=False)).run(sockets=[listener])


def serve_page(desk: InspectionService, *, port: int = 0, browser: bool = True) -> None:
    """Serve a page until interrupted, and open the browser; see `serve`.

    Raises:
        InspectionError: the text to begin with cannot be followed.
    """
    desk.ask({})  # says so before a browser opens, and is what the page asks first

    def announce(address: str) -> None:
        console.info(f"look inside at {address} (Ctrl-C ends it)")
        if browser and not _open(address):
            number = urlsplit(address).port
            console.info(
                "no browser could be opened here; open the address yourself, from another machine after: "
                f"ssh -L {number}:127.0.0.1:{number} HOST"
            )

    serve(desk, announce, port)


def _open(address: str) -> bool:
    """Open a browser with a window; whether there is one. One of text would take the terminal, and cannot show the page."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return False
    return type(found) is not webbrowser.GenericBrowser and found.open(address)
