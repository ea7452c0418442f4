"""A client of OpenAI's chat API for the terminal, with the standard library only. Free of torch."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import mimetypes
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.serving.chat_session import Attachment, Message

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 600.0
"""Longest silence of a server that is generating."""
MAX_ERROR_BYTES = 64 << 10
DEFAULT_CONTEXT = 1024
"""Context length of a server that does not tell its own."""


class ServerError(GlassGPTError):
    """A server that cannot be reached, or an error that it returned."""


class RemoteChat:
    """A model behind an OpenAI-compatible server.

    Args:
        url: of the server, with or without /v1.
        model: its name; None takes the server's first.
        api_key: sent with each request.

    Raises:
        UsageError: the URL cannot be used.
        ServerError: the server cannot be reached, or lacks the model.
    """

    def __init__(self, url: str, model: str | None = None, api_key: str = "") -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(f"{url} is not the URL of a server; it must look like http://127.0.0.1:8000")
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._secure, self._host, self._port = parts.scheme == "https", host, port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        self._headers |= {"authorization": f"Bearer {api_key}"} if api_key else {}
        found = self._find_model(model)
        self.name: str = found["id"]
        length = found.get("max_model_len")
        self.context_length: int = length if isinstance(length, int) else DEFAULT_CONTEXT

    def answer(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Generator[str]:
        """Yield the answer piece by piece; see `ChatBackend.answer`."""
        listed = [{"role": message.role, "content": _content(message)} for message in messages]
        body = {"model": self.name, "messages": listed, "stream": True, **settings}
        with self._request("POST", "/v1/chat/completions", body) as response:
            for data in _events(response):
                if "error" in data:
                    raise ServerError(_message(data, "the server ended the answer with an error"))
                for choice in data.get("choices", []):
                    if text := choice.get("delta", {}).get("content"):
                        yield text

    def _find_model(self, name: str | None) -> dict[str, Any]:
        with self._request("GET", "/v1/models") as response:
            found = _parse(_read(response))
        models = [each for each in cast("list[Any]", found.get("data", [])) if isinstance(each, dict) and "id" in each]
        if not models:
            raise ServerError(f"{self._address} lists no model; is it an OpenAI-compatible server?")
        for each in models:
            if name in (None, each["id"]):
                return each
        raise UsageError(f"the server has no model {name}; choose {', '.join(str(each['id']) for each in models)}")

    @contextlib.contextmanager
    def _request(self, method: str, path: str, body: Any = None) -> Generator[http.client.HTTPResponse]:
        """Send a request and give its response, if it succeeded; errors of the connection become `ServerError`."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_SECONDS)
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_SECONDS)
            connection.request(method, self._path + path, content, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ServerError(self._refusal(response))
            yield response
        except TimeoutError as error:
            raise ServerError(f"{self._address} does not answer; is the server busy or stopped?") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerError(
                f"{self._address} cannot be reached ({reason}); start a server with glassgpt serve RUN"
            ) from error
        finally:
            connection.close()

    def _refusal(self, response: http.client.HTTPResponse) -> str:
        if response.status == 401:
            return f"{self._address} asks for an API key; set GLASSGPT_API_KEY to one of its keys"
        after = response.getheader("retry-after")
        wait = f" (try again in {after} seconds)" if after else ""
        try:
            return (
                _message(_parse(_read(response)), f"{self._address} answered {response.status} {response.reason}")
                + wait
            )
        except ServerError:
            return f"{self._address} answered {response.status} {response.reason}{wait}"


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return a message's text, or its pictures and sounds and the text as parts."""
    if not message.media:
        return message.text
    return [*map(_part, message.media), {"type": "text", "text": message.text}]


def _part(medium: Attachment) -> dict[str, Any]:
    data = base64.b64encode(medium.raw).decode()
    if medium.modality == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": medium.path.suffix[1:].lower() or "wav"}}
    media_type = mimetypes.guess_type(medium.path.name)[0] or "image/png"
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _read(response: http.client.HTTPResponse) -> bytes:
    return response.read(MAX_ERROR_BYTES)


def _parse(content: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ServerError("the server's answer is not JSON; is it an OpenAI-compatible server?")
    return cast("dict[str, Any]", found)


def _message(found: Mapping[str, Any], default: str) -> str:
    error = found.get("error")
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return " ".join(message.split()) if isinstance(message, str) and message else default


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the data of server-sent events up to [DONE].

    Raises:
        ServerError: the stream ended before.
    """
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        yield _parse(data.decode("utf-8", "replace"))
    raise ServerError("the server closed the connection before the answer was complete")
