"""HTTP server of the page: local only, at an unguessable address.

Every request is checked for its Host header (against DNS rebinding), its Origin (against pages of other sites) and a random
token in the path (against other users of the machine).
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassgpt.errors import GlassGPTError, InspectionError, MissingExtraError
from glassgpt.inspection.page_files import PAGE_MODULES, read_page_file
from glassgpt.inspection.service import ExpiredTraceError, InspectionService
from glassgpt.inspection.trace import MAX_TEXT_BYTES
from glassgpt.locale import to_korean

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_REQUEST_BYTES = 8 * MAX_TEXT_BYTES
"""JSON encodes a character in up to six bytes."""
REQUEST_SECONDS = 10.0
"""A request that is not complete after this time is dropped, and so is a connection without a request."""
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
NO_PAGE = "there is nothing at this address; open the one that glassgpt inspect printed"

Endpoint = Callable[["Request"], Awaitable["Response"]]


def create_app(service: InspectionService, key: str, hosts: tuple[str, ...]) -> Starlette:
    """Create the ASGI application.

    Args:
        service: answers the requests.
        key: the secret first component of every path.
        hosts: accepted Host headers, including the port.

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

    async def trace(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(service.trace, await _read_json(request)))

    async def detail(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(service.detail, await _read_json(request)))

    async def array(request: Request) -> Response:
        raw, shape = await run_in_threadpool(_tensor_bytes, service, request)
        return Response(raw, media_type="application/octet-stream", headers={"X-Shape": json.dumps(shape)})

    def route(path: str, endpoint: Endpoint, method: str) -> Route:
        return Route(path, _guarded(endpoint, key, hosts), methods=[method])

    return Starlette(
        routes=[
            route("/{key}/trace", trace, "POST"),
            route("/{key}/detail", detail, "POST"),
            route("/{key}/array", array, "GET"),
            route("/{key}/{name:path}", _page_file, "GET"),
        ],
        exception_handlers={404: _no_page, 405: _no_page},
    )


async def _page_file(request: Request) -> Response:
    from starlette.exceptions import HTTPException
    from starlette.responses import Response

    name = request.path_params["name"] or "index.html"
    if name not in ("index.html", "page.css", *PAGE_MODULES):
        raise HTTPException(404)
    return Response(read_page_file(name), media_type=MEDIA_TYPES[Path(name).suffix])


async def _no_page(request: Request, error: Exception) -> Response:
    """Answer a request for which there is no route, or with another method."""
    from starlette.responses import Response

    return Response(_in_language(request, NO_PAGE), getattr(error, "status_code", 404), headers=HEADERS)


def _in_language(request: Request, message: str) -> str:
    """Return a message in the language that the request accepts; the page sends the one that it is shown in."""
    return to_korean(message) if request.headers.get("accept-language", "").startswith("ko") else message


def _tensor_bytes(service: InspectionService, request: Request) -> tuple[bytes, tuple[int, ...]]:
    parameters = request.query_params
    index = _parse_index(parameters.get("index", ""))
    return service.tensor_bytes(parameters.get("id", ""), parameters.get("name", ""), *index)


def _guarded(endpoint: Endpoint, key: str, hosts: tuple[str, ...]) -> Endpoint:
    """Refuse foreign requests, turn errors into JSON responses in the language of the page, and add the security headers."""
    from starlette.responses import JSONResponse, Response

    async def respond(request: Request) -> Response:
        if not _is_allowed(request, key, hosts):
            return Response(_in_language(request, NO_PAGE), 403, headers=HEADERS)
        try:
            response = await endpoint(request)
        except GlassGPTError as error:
            response = JSONResponse(
                {"error": _in_language(request, str(error))}, 410 if isinstance(error, ExpiredTraceError) else 400
            )
        response.headers.update(HEADERS)
        return response

    return respond


def _is_allowed(request: Request, key: str, hosts: tuple[str, ...]) -> bool:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    given = request.path_params["key"].encode()
    return host in hosts and origin in (None, f"http://{host}") and secrets.compare_digest(given, key.encode())


async def _read_json(request: Request) -> dict[str, Any]:
    body = b""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_REQUEST_BYTES:
                    raise InspectionError(f"the text is too long; it must have at most {MAX_TEXT_BYTES:,} bytes")
    except TimeoutError as error:
        raise InspectionError(f"the request was not complete after {REQUEST_SECONDS:g} seconds") from error
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InspectionError("the request must be a JSON object")
    return found


def _parse_index(given: str) -> list[int]:
    """Parse an index such as `2,7` (head 2, row 7)."""
    if not re.fullmatch(r"([0-9]{1,7}(,[0-9]{1,7})*)?", given):
        raise InspectionError("index must be comma-separated integers")
    return [int(number) for number in given.split(",") if number]


def serve(service: InspectionService, announce: Callable[[str], None], port: int = 0) -> None:
    """Serve the page until interrupted.

    Args:
        service: answers the requests.
        announce: called with the address once it can be opened.
        port: on 127.0.0.1; 0 means a free one.

    Raises:
        InspectionError: the port is in use.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    import socket

    try:
        from glassgpt.inspection.connections import run_server
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve", "the page in the browser") from error
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise InspectionError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
    number, key = listener.getsockname()[1], secrets.token_urlsafe(24)
    app = create_app(service, key, (f"127.0.0.1:{number}", f"localhost:{number}"))
    listener.listen()  # from here on, connections wait for the server instead of failing
    announce(f"http://127.0.0.1:{number}/{key}/")
    run_server(app, listener, REQUEST_SECONDS)
