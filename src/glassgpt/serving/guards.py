"""Checks before any endpoint: request ids, foreign hosts and pages, the API key."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from glassgpt.serving import json_codec
from glassgpt.serving.errors import APIError
from glassgpt.serving.http import Message, Receive, Scope, Send
from glassgpt.serving.identifiers import new_id
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.pages import PAGE_FILES

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", *PAGE_FILES})
"""Paths that need no key: load balancers probe /health, and the page, which holds nothing of the models, asks for the key."""
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data: 'self'; media-src data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class Guards:
    """ASGI middleware: every request passes it, and every response gets its headers from it.

    Args:
        app: the application behind it.
        metrics: counts refused requests.
        hosts: host names that requests may name, without port; empty accepts any, which is safe only with a key.
        api_keys: one of them must be sent as `Authorization: Bearer …`; empty asks for none.
    """

    def __init__(self, app: object, metrics: Metrics, hosts: Sequence[str] = (), api_keys: Sequence[str] = ()) -> None:
        self._app, self._metrics = app, metrics
        self._hosts = frozenset(host.lower() for host in hosts)
        self._keys = [_digest(key.encode()) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # type: ignore[operator]  # pyright: ignore
            return
        headers = dict(reversed(scope["headers"]))  # the first of several counts
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id("req_").encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id), *SECURITY_HEADERS]
            await send(message)

        try:
            self._check(scope, headers)
        except APIError as error:
            self._metrics.rejected(error.code or "forbidden")
            await _send_error(error, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)  # type: ignore[operator]  # pyright: ignore

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and _name(host) not in self._hosts:
            raise APIError(
                f"the host {host[:100]!r} is not served here; allow it with --allow-host",
                status=403,
                code="foreign_host",
            )
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin.decode("latin-1").lower()).netloc != host:
            raise APIError("requests from pages of other sites are refused", status=403, code="foreign_origin")
        if self._keys and scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            raise APIError(
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(key.strip())
        # Every key is compared, each in constant time, so that timing says nothing about any of them.
        matches = [hmac.compare_digest(digest, expected) for expected in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _name(host: str) -> str:
    """Return a Host header without its port: `[::1]:8000` is `[::1]`."""
    return re.sub(r":\d*$", "", host)


async def _send_error(error: APIError, send: Send) -> None:
    body = json_codec.encode(error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    headers |= error.headers()
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
