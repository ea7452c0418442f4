"""The generation loop: prefill once, then one token a row and step, from the cache.

`stream` gives the text of all samples as it comes, `generate` when it is complete; `_Rows` is the loop below both.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors import process
from glassgpt.generation.sampling import draw, sample
from glassgpt.generation.streaming import TextStream
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

FinishReason = Literal["length", "stop", "end_of_text"]


@dataclass
class Sample:
    """One continuation.

    Attributes:
        index: which sample of its request it is.
        text: the continuation alone, cut before a stop string.
        tokens: the ids it was decoded from: those that completed a stop string are among them, end-of-text
            is not.
        finish_reason: `length` (max_tokens or the context is used up), `stop` or `end_of_text`.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason = "length"


@dataclass(frozen=True)
class Piece:
    """What one sample gained by one token.

    Attributes:
        index: which sample.
        token: the token drawn.
        text: what became certain of the text; often a word, sometimes nothing.
        finish_reason: with the sample's last piece; None before.
    """

    index: int
    token: int
    text: str
    finish_reason: FinishReason | None


def fresh_seed() -> int:
    """A seed that nobody chose."""
    return secrets.randbits(32)


def encode_prompt(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions
) -> list[int]:
    """The prompt's tokens; without a prompt, the token that begins a document.

    Raises:
        GenerationError: the prompt is empty, or longer than the context and not to be truncated.
    """
    if prompt is None:
        return [tokenizer.end_of_text]
    if not prompt:
        raise GenerationError("the prompt is empty; give it some text, or leave it out to begin a new document")
    tokens = tokenizer.encode(prompt)
    context = model.config.context_length
    if len(tokens) > context and not options.truncate:
        raise GenerationError(
            f"the prompt has {len(tokens):,} tokens, the model sees {context:,} at once; shorten it, or keep only "
            f"its end with --truncate"
        )
    return tokens[-context:]


def stream(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions
) -> Iterator[Piece]:
    """All samples of one prompt, as their text comes.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: text to continue, or None to begin a document.
        options: the settings; without a seed, a fresh one is drawn.

    Raises:
        GenerationError: the prompt or a setting cannot be used.
    """
    options.check()
    prompt_tokens = encode_prompt(model, tokenizer, prompt, options)
    return _pieces(_Rows(model, prompt_tokens, options, tokenizer.vocab_size), tokenizer, options)


def _pieces(rows: _Rows, tokenizer: Tokenizer, options: GenerationOptions) -> Iterator[Piece]:
    texts = [TextStream(tokenizer, options.stop) for _ in range(options.num_samples)]
    while rows.active:
        for index, token in rows.step():
            text, reason = _read(texts[index], token, tokenizer.end_of_text, is_full=rows.is_full(index))
            if reason is not None:
                rows.finish(index)
            yield Piece(index, token, text, reason)


def _read(text: TextStream, token: int, end_of_text: int, *, is_full: bool) -> tuple[str, FinishReason | None]:
    """What a token adds to a sample's text, and whether it is the sample's last."""
    if token == end_of_text:
        return text.finish(), "end_of_text"
    piece = text.push(token)
    if text.stopped:
        return piece, "stop"
    if is_full:
        return piece + text.finish(), "length"
    return piece, None


class _Rows:
    """The samples still growing: one cache slot each."""

    def __init__(self, model: LanguageModel, prompt: list[int], options: GenerationOptions, vocab_size: int) -> None:
        self._model, self._options = model, options
        self._vocab_size = vocab_size
        self._prompt = prompt
        # The last token drawn is never fed, so a full context still yields one token more.
        self._limit = min(options.max_tokens, model.config.context_length - len(prompt) + 1)
        self._seed = fresh_seed() if options.seed is None else options.seed
        self._drawn: dict[int, list[int]] = {index: [] for index in range(options.num_samples)}
        self.active = list(self._drawn)
        self._slots: list[int] = []
        parameter = next(model.parameters())
        self._device = parameter.device
        self._cache = KVCache(
            model.config, 1, len(prompt) + self._limit - 1, dtype=parameter.dtype, device=self._device
        )

    def is_full(self, index: int) -> bool:
        return len(self._drawn[index]) >= self._limit

    def finish(self, index: int) -> None:
        self.active.remove(index)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Draw one token for each active sample: (index, token)."""
        logits = self._prefill() if not self._slots else self._decode()
        histories = [self._prompt + self._drawn[index] for index in self.active]
        logits = process(logits, self._options, histories)
        drawn = self._draw(logits).tolist()
        for index, token in zip(self.active, drawn, strict=True):
            self._drawn[index].append(token)
        return list(zip(self.active, drawn, strict=True))

    def _prefill(self) -> Tensor:
        """Read the prompt once, whatever the number of samples: logits (B, V)."""
        tokens = torch.tensor([self._prompt], device=self._device)
        features = self._model.features(tokens, self._cache)[:, -1:]
        if len(self.active) > 1:
            self._cache.select([0] * len(self.active))
        self._slots = list(self.active)
        return self._known(self._model.head(features)).expand(len(self.active), -1)

    def _decode(self) -> Tensor:
        """Feed each active sample its last token: logits (B, V)."""
        if self._slots != self.active:
            self._cache.select([self._slots.index(index) for index in self.active])
            self._slots = list(self.active)
        last = torch.tensor([[self._drawn[index][-1]] for index in self.active], device=self._device)
        return self._known(self._model(last, self._cache))

    def _known(self, logits: Tensor) -> Tensor:
        """(B, 1, V) -> (B, V) on the CPU, without the rows that pad a vocabulary to a round size."""
        return logits[:, 0, : self._vocab_size].float().cpu()

    def _draw(self, logits: Tensor) -> Tensor:
        if self._options.temperature == 0:
            return sample(logits, None)
        positions = [len(self._prompt) + len(self._drawn[index]) for index in self.active]
        return draw(logits, self._seed, self.active, positions)


def generate(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions
) -> list[Sample]:
    """All samples of one prompt, complete; see `stream`."""
    samples = [Sample(index) for index in range(options.num_samples)]
    for piece in stream(model, tokenizer, prompt, options):
        sample = samples[piece.index]
        sample.text += piece.text
        if piece.finish_reason != "end_of_text":
            sample.tokens.append(piece.token)
        if piece.finish_reason is not None:
            sample.finish_reason = piece.finish_reason
    return samples
