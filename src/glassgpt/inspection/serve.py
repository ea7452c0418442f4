"""The page in the browser: on this machine alone, behind an address that nobody can guess; or saved as one file.

Read before it is answered: the Host header, so that no other site's name can lead here (DNS rebinding); the Origin,
so that no other site's page can ask; a random token in the path, so that no other user of the machine can.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import re
import secrets
import threading
import webbrowser
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GlassGPTError, InspectionError, MissingExtraError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.interventions import from_json, is_number
from glassgpt.inspection.trace import MOST_BYTES, Trace, trace
from glassgpt.inspection.wire import array, overview
from glassgpt.model.transformer import LanguageModel

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

SLIDERS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
}
"""The options that a page may set."""
TRACES_KEPT = 2
"""Texts whose runs are kept, and twice as many views of them. At GPT-2's size a run of 1,024 tokens takes 0.6 GB."""
MOST_SAVED = 8 << 20
"""Numbers in a saved page: 32 MiB, a third more as text."""
MOST_ASKED = 8 * MOST_BYTES
"""Bytes of a question: JSON spells a character in up to six."""
MODULES = ("words.js", "source.js", "matrix.js", "page.js")
"""In the order in which they need each other."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def page_file(name: str) -> str:
    """The text of one of the page's files."""
    return (resources.files("glassgpt.inspection") / "page" / name).read_text(encoding="utf-8")


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


class Desk:
    """Answers a page's questions about one model, one at a time.

    Args:
        model: that is looked into.
        tokenizer: the model's.
        text: to begin with.
        options: to begin with.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, text: str | None, options: GenerationOptions
    ) -> None:
        self._lock = threading.Lock()
        self._text, self._options = text, options

        def undisturbed(text: str | None) -> Trace:
            return trace(model, tokenizer, text)

        self._undisturbed = functools.lru_cache(TRACES_KEPT)(undisturbed)
        self._traces: dict[str, Trace] = {}

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The `overview` of a trace and its `id`; see the page's `fetchTrace` for the question.

        Raises:
            InspectionError: the question is not understood or cannot be answered.
            GlassGPTError: see `trace`.
        """
        text = question.get("text")
        changes: Any = question.get("interventions", [])
        if not isinstance(text, str | None) or not _is_list_of_objects(changes):
            raise InspectionError("a question has a text and a list of interventions")
        options = self._options_from(question.get("options", {}))
        with self._lock:
            found = self._undisturbed(self._text if text is None else text)
            if changes:
                found = found.intervene(*map(from_json, changes))
            found = found.with_options(options)
            key = secrets.token_urlsafe(8)
            self._traces = {**dict(list(self._traces.items())[1 - 2 * TRACES_KEPT :]), key: found}
            return {"id": key, "overview": overview(found)}

    def array(self, key: str, name: str) -> tuple[bytes, tuple[int, ...]]:
        """A tensor of a trace that was asked for; see `wire.array`.

        Raises:
            InspectionError: there is no such trace any more, no such tensor, or it is too large.
        """
        with self._lock:
            if key not in self._traces:
                raise InspectionError("this view is too old; follow the text once more")
            return array(self._traces[key], name)

    def _options_from(self, given: Any) -> GenerationOptions:
        if not isinstance(given, dict):
            raise InspectionError("options are a JSON object")
        wrong = [name for name, value in given.items() if name not in SLIDERS or not is_number(value)]
        if wrong:
            raise InspectionError(f"{wrong[0]!r} cannot be set here; allowed are numbers for {', '.join(SLIDERS)}")
        values: dict[str, Any] = {name: SLIDERS[name](value) for name, value in given.items()}
        options = dataclasses.replace(self._options, **values)
        options.check()
        return options


def application(desk: Desk, key: str, hosts: tuple[str, ...]) -> Starlette:
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

    async def values(request: Request) -> Response:
        asked = request.query_params
        raw, shape = await run_in_threadpool(desk.array, asked.get("id", ""), asked.get("name", ""))
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
                response = JSONResponse({"error": str(error)}, 400)
            response.headers.update(HEADERS)
            return response

        return guard

    return Starlette(
        routes=[
            Route("/{key}/trace", guarded(ask), methods=["POST"]),
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
        if len(body) > MOST_ASKED:
            raise InspectionError(f"the text is too long; at most {MOST_BYTES:,} bytes are looked at")
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InspectionError("a question is a JSON object")
    return found


def serve(desk: Desk, announce: Callable[[str], None], port: int = 0) -> None:
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


def serve_page(found: Trace, *, port: int = 0, browser: bool = True) -> None:
    """Serve a page that begins with a trace, until interrupted, and open the browser; see `serve`."""

    def announce(address: str) -> None:
        console.say(f"look inside at {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)

    serve(Desk(found.model, found.tokenizer, found.text, found.options), announce, port)


def save_page(found: Trace, file: Path) -> None:
    """Write one file that shows a trace without the program and without a network.

    Raises:
        InspectionError: its attention weights are too many for a file, or it cannot be written.
    """
    config = found.model.config
    count = config.n_layer * config.n_head * len(found) ** 2
    if count > MOST_SAVED:
        raise InspectionError(f"the page would hold {count:,} numbers, at most {MOST_SAVED:,}; give a shorter text")
    names = [f"blocks.{layer}.attention.weights" for layer in range(config.n_layer)]
    held = {"id": "saved", "overview": overview(found), "arrays": {name: _saved(found, name) for name in names}}
    try:
        write_atomically(file, _standalone(json.dumps(held)).encode())
    except OSError as error:
        raise InspectionError(
            f"{file} cannot be written ({error.strerror}); choose another file with --save"
        ) from error


def _saved(found: Trace, name: str) -> dict[str, Any]:
    raw, shape = array(found, name, most=MOST_SAVED)
    return {"values": base64.b64encode(raw).decode(), "shape": shape}


def _standalone(data: str) -> str:
    # Inside a script element only "<" could end it; JSON may spell it otherwise.
    held = f'<script type="application/json" id="saved">{data.replace("<", chr(92) + "u003c")}</script>'
    code = "\n".join(re.sub(r"^import .*\n|^export ", "", page_file(name), flags=re.MULTILINE) for name in MODULES)
    style = f"<style>{page_file('page.css')}</style>"
    page = page_file("index.html").replace('<link rel="stylesheet" href="page.css">', style)
    return page.replace(
        '<script type="module" src="page.js"></script>', f'{held}\n<script type="module">{code}</script>'
    )
