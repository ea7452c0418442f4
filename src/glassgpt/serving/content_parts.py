"""Content of messages: text, pictures and sounds, in the form of OpenAI's API. Nothing is decoded here. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from glassgpt.multimodal.media import Modality
from glassgpt.serving.errors import APIError

TEXT_TYPES = ("text", "input_text", "output_text")
IMAGE_TYPES = ("image_url", "input_image")
AUDIO_TYPE = "input_audio"
AUDIO_FORMATS = ("wav", "mp3", "flac", "ogg", "opus", "aiff", "au")
"""Formats that a request may name; the content decides."""
FILE_SCHEME = "file:"
SHOWN_CHARACTERS = 60
"""Characters of a URL that an error message repeats."""


@dataclass(frozen=True)
class MediaContent:
    """A picture or a sound as a request has it.

    Attributes:
        modality: what it is.
        name: where it is in the request, for error messages.
        param: the field of the request.
        base64: its file in base64; empty if `url` names a file.
        url: the `file:` URL of a file; empty if the request has its content.
    """

    modality: Modality
    name: str
    param: str
    base64: str = ""
    url: str = ""

    def error(self, problem: str, code: str | None = None) -> APIError:
        """Return an error that names it."""
        return APIError(f"{self.name}: {problem}", param=self.param, code=code)


Content = tuple[str | MediaContent, ...]
"""The parts of a message, in order."""


def text_of(content: Content) -> str:
    """Return the text of a message.

    Raises:
        APIError: it also has pictures or sound.
    """
    for medium in media_of(content):
        raise medium.error("pictures and sound cannot be used here", "unsupported_parameter")
    return "".join(part for part in content if isinstance(part, str))


def media_of(content: Content) -> list[MediaContent]:
    """Return the pictures and sounds of a message, in order."""
    return [part for part in content if isinstance(part, MediaContent)]


def parse_content(content: Any, name: str, param: str) -> Content:
    """Return the parts of a message.

    Args:
        content: a text, or a list of parts.
        name: where it is in the request.
        param: the field of the request.

    Raises:
        APIError: it is neither, or a part is of an unknown type or incomplete.
    """
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list) or not content:
        raise APIError(f"{name} is {content!r:.100}; it must be text or a list of parts", param=param)
    return tuple(_part(part, f"{name}[{at}]", param) for at, part in enumerate(cast("list[Any]", content)))


def parse_media(parts: Sequence[Mapping[str, Any]], param: str) -> list[MediaContent]:
    """Return the pictures and sounds in a list of parts.

    Raises:
        APIError: a part is of another type or incomplete.
    """
    found: list[MediaContent] = []
    for at, part in enumerate(parts):
        medium = _part(part, f"{param}[{at}]", param)
        if isinstance(medium, str):
            raise APIError(f"{param}[{at}] is a text; put it into the prompt", param=param)
        found.append(medium)
    return found


def _part(given: Any, name: str, param: str) -> str | MediaContent:
    part = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    kind = part.get("type")
    if kind in TEXT_TYPES:
        text = part.get("text")
        if not isinstance(text, str):
            raise APIError(f"{name} is a part without text", param=param)
        return text
    if kind in IMAGE_TYPES:
        return _image(part.get("image_url"), f"{name}.image_url", param)
    if kind == AUDIO_TYPE:
        return _audio(part.get(AUDIO_TYPE), f"{name}.{AUDIO_TYPE}", param)
    raise APIError(
        f"{name} is a part of type {kind!r:.100}; this server supports text, image_url and input_audio",
        param=param,
        code="unsupported_parameter",
    )


def _image(given: Any, name: str, param: str) -> MediaContent:
    url = cast("dict[str, Any]", given).get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url:
        raise APIError(f"{name} is without a url; it must have a data URL (data:image/png;base64,…)", param=param)
    scheme = url[: len(FILE_SCHEME)].lower()
    if scheme == FILE_SCHEME:
        return MediaContent("image", name, param, url=url)
    if not scheme.startswith("data:"):
        raise APIError(
            f"{name} is {_shown(url)}; this server fetches nothing from the network: send the picture itself, as a data URL "
            "(data:image/png;base64,…)",
            param=param,
            code="unsupported_url",
        )
    header, comma, data = url.partition(",")
    if not comma or not header.lower().endswith(";base64") or not data:
        raise APIError(
            f"{name} is {_shown(url)}; it must be a data URL in base64 (data:image/png;base64,…)", param=param
        )
    return MediaContent("image", name, param, base64=data)


def _audio(given: Any, name: str, param: str) -> MediaContent:
    audio = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    data, kind = audio.get("data"), audio.get("format", AUDIO_FORMATS[0])
    if not isinstance(data, str) or not data:
        raise APIError(f"{name} is without data; it must have a file of sound in base64", param=param)
    if kind not in AUDIO_FORMATS:
        raise APIError(f"{name}.format is {kind!r:.100}; it must be one of {', '.join(AUDIO_FORMATS)}", param=param)
    if data[: len(FILE_SCHEME)].lower() == FILE_SCHEME:
        return MediaContent("audio", name, param, url=data)
    return MediaContent("audio", name, param, base64=data)


def _shown(url: str) -> str:
    return repr(url if len(url) <= SHOWN_CHARACTERS else f"{url[:SHOWN_CHARACTERS]}…")
