"""Prompts with pictures and sounds as lists of ids, which everything that generates text takes.

Encoded media are added to the model's embedding as further rows (`VectorTable`), whose ids stand in the prompt.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import VectorTable, vector_table
from glassgpt.model.whole_media import WholeMedia
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.media import BEGIN_TOKENS, MODALITIES, MediaItem, Modality
from glassgpt.multimodal.model import MultimodalModel


@dataclass(frozen=True)
class MediaPrompt:
    """A text to continue, and the media before it or in it.

    Attributes:
        text: the text. Where it spells the begin token of a modality (`<|image|>`, `<|audio|>`), the next medium of that
            modality belongs; otherwise all of them come first.
        media: pictures and sounds, in order.
        has_marks: whether begin tokens that the text spells mark places; else they are text, as in documents for training.
    """

    text: str
    media: tuple[MediaItem, ...]
    has_marks: bool = True


def with_vector_table(model: LanguageModel, original: MultimodalModel, tokenizer: Tokenizer) -> LanguageModel:
    """Return a model prepared for decoding whose embedding takes further rows, and whose attention to them is as in training.

    Args:
        model: the prepared model, which is changed unless it is that of `original`.
        original: the model whose language model it was made from.
        tokenizer: of the model.
    """
    prepared = copy_sharing_weights(model) if model is original.language_model else model
    embedding = prepared.get_submodule("token_embedding")
    assert isinstance(embedding, torch.nn.Embedding)
    special = tokenizer.special_tokens
    begins = {special[name]: name for name in BEGIN_TOKENS.values() if name in special}
    prepared.add_module("token_embedding", VectorTable(embedding, begins))
    if original.multimodal.attention == "bidirectional":
        prepared.__class__ = type(f"WholeMedia{type(prepared).__name__}", (WholeMedia, type(prepared)), {})
    return prepared


class PromptEncoder:
    """Turns prompts with media into ids.

    Args:
        model: encodes the media.
        decoding_model: generates the text; see `with_vector_table`.
        tokenizer: of the model.
    """

    def __init__(self, model: MultimodalModel, decoding_model: LanguageModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._table = vector_table(decoding_model)

    @contextmanager
    def encoded(self, prompt: MediaPrompt, options: GenerationOptions) -> Generator[list[int]]:
        """Yield the ids of a prompt, which are valid within the `with` block.

        It begins like the documents that the model was trained on, with the token that begins a document.

        Raises:
            GenerationError: the model does not know a modality, the text marks other places than there are media, or the prompt
                is longer than the context.
        """
        self._require_known(prompt)
        parts = self._parts(prompt)
        with ExitStack() as held:
            tokens = [self._tokenizer.end_of_text]
            for part in parts:
                if isinstance(part, str):
                    tokens += self._encode_text(part, options)
                    continue
                ids = held.enter_context(self._table.holding(encode_medium(self._model, part)))
                tokens += [self._tokenizer.special_tokens[BEGIN_TOKENS[part.modality]], *ids]
            context = self._model.config.context_length
            if len(tokens) > context:
                raise GenerationError(
                    f"the prompt with its media takes {len(tokens):,} positions, more than the model's context of {context:,}; "
                    "shorten it, or give fewer or shorter media"
                )
            yield tokens

    def _encode_text(self, text: str, options: GenerationOptions) -> list[int]:
        parses = options.parse_special_tokens
        return (self._tokenizer.encode_with_special_tokens if parses else self._tokenizer.encode)(text)

    def _require_known(self, prompt: MediaPrompt) -> None:
        known = self._model.multimodal.names
        for item in prompt.media:
            if item.modality not in known:
                raise GenerationError(
                    f"the model was trained on {' and '.join(known)}, but not on {item.modality}; leave that out"
                )

    def _parts(self, prompt: MediaPrompt) -> list[str | MediaItem]:
        """Return texts and media in their order."""
        text = prompt.text
        if not prompt.has_marks:
            return [*prompt.media, *([text] if text else [])]
        marks: list[tuple[int, Modality]] = []
        for modality in MODALITIES:
            mark = BEGIN_TOKENS[modality]
            places = [at for at in range(len(text)) if text.startswith(mark, at)]
            n_media = sum(item.modality == modality for item in prompt.media)
            if places and len(places) != n_media:
                raise GenerationError(
                    f"the prompt has {mark} {len(places)} times, but there are {n_media} media of that kind; each marks the place "
                    "of one, and without any mark all come first"
                )
            for at in places:
                marks.append((at, modality))
        marked = {modality for _, modality in marks}
        parts: list[str | MediaItem] = [item for item in prompt.media if item.modality not in marked]
        waiting = {name: iter([item for item in prompt.media if item.modality == name]) for name in MODALITIES}
        end = 0
        for at, modality in sorted(marks):
            parts += [text[end:at], next(waiting[modality])]
            end = at + len(BEGIN_TOKENS[modality])
        return [part for part in (*parts, text[end:]) if part]


@torch.no_grad()
def encode_medium(model: MultimodalModel, item: MediaItem) -> Tensor:
    """Return the vectors of a medium, (positions, C), as training computes them.

    Args:
        model: in evaluation mode.
        item: the medium.
    """
    payload = payload_of(item, model.multimodal)
    inputs = assemble(np.zeros(len(payload), dtype=np.int64), [(0, item, payload)], payload_words(model.multimodal))
    return model.vectors(torch.from_numpy(inputs)[None].to(model.token_embedding.weight.device))[0]
