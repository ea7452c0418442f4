"""Documents of text and media, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glassgpt.data.chat.jinja_template import JinjaTemplate, unused_noncharacters
from glassgpt.data.chat.messages import Conversation, Message, Role
from glassgpt.data.chat.render import render
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import BPETokenizer
from glassgpt.data.tokenizers.library import LibraryTokenizer
from glassgpt.errors import DataError, WrongTokenizerError
from glassgpt.multimodal.media import BEGIN_TOKENS, MODALITIES, Modality
from glassgpt.multimodal.packing import Encoded, Place


class StoredMedium(NamedTuple):
    """A medium of a document.

    Attributes:
        modality: what it is.
        item: its number in the store.
        positions: number of its positions.
    """

    modality: Modality
    item: int
    positions: int


Part = str | StoredMedium


@dataclass(frozen=True)
class Turn:
    """A stretch of a document that is learned, or not.

    Attributes:
        parts: texts and media.
        learned: whether its text is learned.
        role: who says it; None in a document that is not a conversation.
    """

    parts: tuple[Part, ...]
    learned: bool = True
    role: Role | None = None


@dataclass(frozen=True)
class Document:
    """A document of text and media.

    Attributes:
        turns: its parts, in order; either all of them have a role or none has.
        origin: file and line, for error messages.
    """

    turns: tuple[Turn, ...]
    origin: str

    @property
    def media(self) -> list[StoredMedium]:
        """The media, in order."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, StoredMedium)]

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [part for turn in self.turns for part in turn.parts if isinstance(part, str)]

    @property
    def is_conversation(self) -> bool:
        """True for a conversation, which a chat template writes."""
        return self.turns[0].role is not None


def with_begin_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with the begin token of every modality after its other ids, unless it has them.

    Raises:
        WrongTokenizerError: special tokens cannot be added to a tokenizer of this kind.
    """
    missing = [name for name in BEGIN_TOKENS.values() if name not in tokenizer.special_tokens]
    if not missing:
        return tokenizer
    if not isinstance(tokenizer, BPETokenizer | LibraryTokenizer):
        raise WrongTokenizerError(
            f"special tokens cannot be added to the tokenizer {tokenizer.name}, a {tokenizer.kind}; for pictures and sound use "
            "--tokenizer bpe:SIZE, or gpt2"
        )
    return tokenizer.with_special_tokens(missing)


def begin_ids(tokenizer: Tokenizer) -> dict[Modality, int]:
    """Return the id of the begin token of each modality."""
    return {modality: tokenizer.special_tokens[BEGIN_TOKENS[modality]] for modality in MODALITIES}


def encode_document(document: Document, tokenizer: Tokenizer, template: JinjaTemplate) -> Encoded:
    """Return the tokens of a document.

    A document that is not a conversation begins and ends with the end-of-text token, of which the second is learned: a model
    is to stop there. Names of special tokens in its text are ordinary text.

    Args:
        document: the document.
        tokenizer: with begin tokens; see `with_begin_tokens`.
        template: writes conversations.

    Raises:
        DataError: the template leaves out a medium, or moves it.
        GenerationError: the template refuses the messages.
    """
    if document.is_conversation:
        tokens, supervised = _conversation(document, tokenizer, template)
    else:
        tokens, supervised = _plain(document, tokenizer)
    modalities = {token: modality for modality, token in begin_ids(tokenizer).items()}
    begins = [at for at, token in enumerate(tokens) if token in modalities]
    media = document.media
    if [modalities[tokens[at]] for at in begins] != [medium.modality for medium in media]:
        raise DataError(
            f"{document.origin}: {template.source} does not write each picture and sound once, in their order"
        )
    places = [Place(at, one.item, one.positions, one.modality) for at, one in zip(begins, media, strict=True)]
    return Encoded(np.array(tokens, dtype=np.uint32), np.array(supervised, dtype=bool), tuple(places))


def _plain(document: Document, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    begin = begin_ids(tokenizer)
    tokens, supervised = [tokenizer.end_of_text], [False]
    for turn in document.turns:
        for part in turn.parts:
            added = tokenizer.encode(part) if isinstance(part, str) else [begin[part.modality]]
            tokens += added
            supervised += [turn.learned and isinstance(part, str)] * len(added)
    return [*tokens, tokenizer.end_of_text], [*supervised, True]


def _conversation(
    document: Document, tokenizer: Tokenizer, template: JinjaTemplate
) -> tuple[Sequence[int], Sequence[bool]]:
    texts = [("", text) for text in document.texts]
    marks = dict(zip(MODALITIES, unused_noncharacters(texts, len(MODALITIES)), strict=True))
    messages = [
        Message(
            turn.role,
            "".join(part if isinstance(part, str) else marks[part.modality] for part in turn.parts),
            int(turn.learned),
        )
        for turn in document.turns
        if turn.role is not None
    ]
    inserted = {mark: BEGIN_TOKENS[modality] for modality, mark in marks.items()}
    rendered = render(tokenizer, template, Conversation(tuple(messages), document.origin), inserted)
    return rendered.tokens, rendered.supervised
