"""Pictures and sounds of a request as ids of its prompt.

They are decoded in a thread, encoded on the engine's thread between two steps, and held as further rows of the model's
embedding (`VectorTable`) until the answer is complete or the client has left. Every limit applies before anything is decoded.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from glassgpt.data.chat.jinja_template import Template, unused_noncharacters
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError, GenerationError, MissingExtraError, require_extra
from glassgpt.model.vectors import VectorTable, vector_table
from glassgpt.multimodal.decoding import DecodeOptions, load_medium
from glassgpt.multimodal.media import BEGIN_TOKENS, MODALITIES, MediaItem, Modality
from glassgpt.multimodal.media_input import EXTRA, LIBRARIES
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import encode_medium
from glassgpt.multimodal.sources import MediaSource
from glassgpt.serving.content_parts import Content, MediaContent, media_of, text_of
from glassgpt.serving.errors import APIError
from glassgpt.serving.http import Call
from glassgpt.serving.jobs import Inbox, Job
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.media_folder import MediaFolder
from glassgpt.serving.served_model import ModelVersion, ServedModel

if TYPE_CHECKING:
    from glassgpt.serving.context import ServerContext

TASK = {"image": "decoding pictures", "audio": "decoding sound"}


class MediaEncoding:
    """The vectors of a prompt's media, as a task for the engine's thread; see `ModelTask`.

    Args:
        model: encodes them.
        table: gets them as rows.
        items: pictures and sounds.

    Attributes:
        result: the ids of each.
    """

    def __init__(self, model: MultimodalModel, table: VectorTable, items: Sequence[MediaItem]) -> None:
        self._model, self._table, self._items = model, table, items
        self._lock = threading.Lock()
        self._is_released = False
        self._added: list[range] = []
        self.result: list[range] = []

    def step(self) -> bool:
        """See `ModelTask`: encode one of them."""
        vectors = encode_medium(self._model, self._items[len(self._added)])
        with self._lock:
            if self._is_released:  # the client has left
                return True
            self._added.append(self._table.add(vectors))
        self.result = [*self._added]
        return len(self._added) == len(self._items)

    def release(self) -> None:
        """Take the rows back; safe in any thread, at any time."""
        with self._lock:
            self._is_released = True
            for ids in self._added:
                self._table.remove(ids)


def conversation_ids(
    tokenizer: Tokenizer, template: Template, messages: Sequence[tuple[str, Content]], *, parse_special_tokens: bool
) -> list[int]:
    """Return the ids of a conversation, with the begin token of each medium where it stands."""
    if not any(media_of(content) for _, content in messages):
        texts = [(role, text_of(content)) for role, content in messages]
        return template.encode(tokenizer, texts, parse_special_tokens=parse_special_tokens)
    given = [(role, part) for role, content in messages for part in content if isinstance(part, str)]
    marks = dict(zip(MODALITIES, unused_noncharacters(given, len(MODALITIES)), strict=True))
    pairs = [
        (role, "".join(part if isinstance(part, str) else marks[part.modality] for part in content))
        for role, content in messages
    ]
    inserted = {mark: BEGIN_TOKENS[modality] for modality, mark in marks.items()}
    return template.encode(tokenizer, pairs, parse_special_tokens=parse_special_tokens, inserted=inserted)


def document_ids(
    tokenizer: Tokenizer, media: Sequence[MediaContent], text: str, *, parse_special_tokens: bool
) -> list[int]:
    """Return the ids of a document with the begin tokens of media, then a text, as in training."""
    encode = tokenizer.encode_with_special_tokens if parse_special_tokens else tokenizer.encode
    begins = [tokenizer.special_tokens[BEGIN_TOKENS[medium.modality]] for medium in media]
    return [tokenizer.end_of_text, *begins, *encode(text)]


async def media_prompt(
    context: ServerContext,
    call: Call,
    model: ServedModel,
    media: Sequence[MediaContent],
    encode: Callable[[Tokenizer], list[int]],
) -> tuple[ModelVersion, list[int]]:
    """Return the ids of a prompt with media, valid until the request ends, and the version of the model that they are for.

    Args:
        context: limits, folder and threads.
        call: the request, which holds the vectors.
        model: that is asked.
        media: at least one, in the order of their begin tokens.
        encode: returns the ids with begin tokens only, given the tokenizer; called in a thread.

    Raises:
        APIError: the model does not know a modality, or a medium cannot be decoded or is too large.
    """
    version = model.current
    encoder = _require_encoder(model, version, media, context.limits)
    items, tokens = await _decoded(context, version, encoder, media, encode)
    task = MediaEncoding(encoder, vector_table(version.weights.model), items)
    call.held.callback(task.release)
    call.held.enter_context(model.keeping(version))
    inbox = Inbox()
    async with model.run(version, [Job(inbox, task=task)], inbox) as results:
        async for _ in results():
            pass
    return version, [*filled(tokens, _begin_ids(version), task.result)]


def _require_encoder(
    model: ServedModel, version: ModelVersion, media: Sequence[MediaContent], limits: ServerLimits
) -> MultimodalModel:
    encoder = version.weights.encoder
    known = () if encoder is None else encoder.multimodal.names
    for medium in media:
        if encoder is None or medium.modality not in known:
            trained = " and ".join(["text", *known])
            raise medium.error(
                f"{model.name} was trained on {trained}, not on {medium.modality}; leave it out", "unsupported_modality"
            )
    assert encoder is not None
    if len(media) > limits.max_media:
        raise media[limits.max_media].error(
            f"the request has {len(media)} pictures and sounds; it must have at most {limits.max_media}"
        )
    return encoder


async def _decoded(
    context: ServerContext,
    version: ModelVersion,
    encoder: MultimodalModel,
    media: Sequence[MediaContent],
    encode: Callable[[Tokenizer], list[int]],
) -> tuple[list[MediaItem], list[int]]:
    """Return the decoded media, and the ids of the prompt with their begin tokens, from a thread with a time limit."""
    config, limits = encoder.multimodal, context.limits
    options = DecodeOptions(config.geometry, config.fit, limits.max_pixels, limits.max_seconds)

    def work() -> tuple[list[MediaItem], list[int]]:
        tokens = encode(version.weights.tokenizer)
        require_order(tokens, _begin_ids(version), [medium.modality for medium in media])
        items, n_positions = list[MediaItem](), len(tokens)
        for medium in media:  # one after the other, so that no more is decoded than fits
            items.append(_item(medium, options, limits, context.media_folder))
            n_positions += config.geometry.positions(items[-1])
            _require_fit(n_positions, version)
        return items, tokens

    try:
        async with asyncio.timeout(limits.compile_seconds):
            return await asyncio.get_running_loop().run_in_executor(context.executor, work)
    except TimeoutError:
        raise media[0].error(
            f"decoding took longer than {limits.compile_seconds:g} seconds; send less", "too_complex"
        ) from None
    except GenerationError as error:  # of the chat template, or of names that a text spells
        raise APIError(str(error), param=media[0].param) from error


def _item(medium: MediaContent, options: DecodeOptions, limits: ServerLimits, folder: MediaFolder | None) -> MediaItem:
    modality = medium.modality
    try:
        require_extra(LIBRARIES[modality], EXTRA, TASK[modality])
        return load_medium(MediaSource(modality, raw=_raw(medium, limits, folder)), options)
    except MissingExtraError as error:
        raise APIError(str(error), status=501, code="not_installed") from error
    except DataError as error:
        raise medium.error(str(error), "invalid_media") from error


def _raw(medium: MediaContent, limits: ServerLimits, folder: MediaFolder | None) -> bytes:
    """Return the content of a medium's file.

    Raises:
        DataError: it is not valid base64, or a file that must not be read.
    """
    if not medium.url:
        try:
            return base64.b64decode(medium.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"its data are not valid base64 ({error})") from error
    if folder is None:
        raise DataError("files of the server cannot be named; send the content, or start it with --media-folder FOLDER")
    return folder.read(medium.url, limits.max_media_bytes)


def _begin_ids(version: ModelVersion) -> dict[int, Modality]:
    special = version.weights.tokenizer.special_tokens
    return {special[name]: modality for modality, name in BEGIN_TOKENS.items() if name in special}


def require_order(tokens: Sequence[int], begins: Mapping[int, Modality], given: Sequence[Modality]) -> None:
    """Check that the begin tokens in a prompt are those of its media: a name that a text spells is not taken for one.

    Raises:
        GenerationError: they are not.
    """
    if [begins[token] for token in tokens if token in begins] != [*given]:
        raise GenerationError(
            "the prompt does not have each picture and sound once, in their order; leave out the names of their special tokens "
            "in texts, or correct the chat template"
        )


def _require_fit(n_positions: int, version: ModelVersion) -> None:
    if n_positions > (context := version.weights.model.config.context_length):
        raise APIError(
            f"the prompt with its pictures and sound takes more than {context:,} positions, the model's context; send fewer, "
            "shorter sounds, or a shorter text",
            code="context_length_exceeded",
        )


def filled(tokens: Sequence[int], begins: Mapping[int, Modality], ids: Sequence[range]) -> Iterator[int]:
    """Yield the ids of a prompt, with those of a medium after each begin token."""
    left = iter(ids)
    for token in tokens:
        yield token
        if token in begins:
            yield from next(left)
