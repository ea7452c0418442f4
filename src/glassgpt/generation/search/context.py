"""What searches share: prompts read into a cache, log-probabilities of the next tokens, and when a text ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.device import unless_out_of_memory
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.decoding import ChunkedPrefill, pad_right
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.engine.output import Sample, sample_from_tokens
from glassgpt.generation.engine.prompt import encode_prompt, token_limit
from glassgpt.generation.engine.streaming import TextStream
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.generation.strategy_options import reject_sampling_options
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

T = TypeVar("T")
Prompt = tuple[int, ...]


class SearchContext:
    """A model, its tokenizer and the settings that a search goes by.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        options: length, penalties, words, form; nothing of sampling.
        search: what the search is called, for errors.

    Raises:
        GenerationError: a setting is out of range or has no meaning in a search.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, options: GenerationOptions, search: str) -> None:
        options.check()
        reject_sampling_options(options, search)
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.processors = build_processors(options, tokenizer)
        self._ends = {tokenizer.end_of_text, *options.stop_tokens}
        self._parameter = next(model.parameters())

    @property
    def n_ends(self) -> int:
        """How many different tokens end a text."""
        return len(self._ends)

    def encode(self, prompts: Sequence[str | None]) -> list[Prompt]:
        """See `encode_prompt`."""
        return [tuple(encode_prompt(self.model, self.tokenizer, prompt, self.options)) for prompt in prompts]

    def limit(self, prompt: Prompt) -> int:
        """Most tokens that may follow a prompt."""
        return token_limit(self.model, len(prompt), self.options)

    def cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache."""
        weights = self._parameter
        return KVCache(self.model.config, rows, capacity, dtype=weights.dtype, device=weights.device)

    def read(self, prompts: Sequence[Prompt]) -> KVCache:
        """A cache with all but the last token of each prompt, and room for what may follow."""
        cache = self.cache(len(prompts), max(len(prompt) + self.limit(prompt) - 1 for prompt in prompts))
        # Nothing to read in a prompt of one token: any token will do, none of it is taken over.
        reading = ChunkedPrefill(self.model, [prompt[:-1] or prompt for prompt in prompts])
        while not reading.step():
            pass
        for row, prompt in enumerate(prompts):
            cache.copy_slot(row, reading.cache, row, len(prompt) - 1)
        return cache

    def features(self, texts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Read some tokens a row, shorter ones filled up on the right: (B, T, C)."""
        return self.model.features(pad_right(texts, self._parameter.device), cache)

    def logits(self, features: Tensor) -> Tensor:
        """What follows, of features (B, C): (B, V) float32 on the CPU."""
        return self.model.head(features[:, None])[:, 0, : self.tokenizer.vocab_size].float().cpu()

    def process(self, scores: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        """Apply the processors; unlike in sampling, a row may be left with nothing: it is followed no further."""
        for processor in self.processors:
            scores = processor.apply(scores, histories)
        return scores

    def is_end(self, output: Sequence[int]) -> bool:
        """Whether a text ends with its last token."""
        return output[-1] in self._ends or (bool(self.options.stop) and self._has_stopped(output))

    def _has_stopped(self, output: Sequence[int]) -> bool:
        text = TextStream(self.tokenizer, self.options.stop, self.options.min_tokens)
        for token in output:
            text.push(token)
        return text.stopped

    def sample(self, index: int, output: Sequence[int]) -> Sample:
        """A finished text."""
        return sample_from_tokens(self.tokenizer, self.options, index, output)

    def spelling(self, output: Sequence[int]) -> tuple[bytes, int]:
        """What is the same for texts that differ in their tokens only: their bytes, and the token that ended them."""
        end = output[-1] if output[-1] in self._ends else -1
        inner = output[:-1] if end >= 0 else output
        return b"".join(map(self.tokenizer.token_bytes, inner)), end

    def dead_end(self, more: Sequence[str] = ()) -> GenerationError:
        """No text is left to be followed and none is complete.

        Args:
            more: settings of the search that have a part in it.
        """
        names = ", ".join([*(processor.name for processor in self.processors), *more])
        return GenerationError(f"the settings together ({names}) leave no text to be found; loosen one of them")


def prompts_per_batch(rows: int) -> int:
    """How many prompts are searched together, if each takes so many rows."""
    return max(1, DEFAULT_SLOTS // rows)


def in_batches(prompts: Sequence[Prompt], rows: int, search: Callable[[Sequence[Prompt]], list[T]]) -> list[T]:
    """Search for some prompts at a time; where memory does not suffice, for half as many, with the same results.

    Args:
        prompts: tokens of each.
        rows: that each prompt takes in the cache.
        search: for some of them.

    Raises:
        GenerationError: memory does not suffice for one prompt.
    """
    found: list[T] = []
    at_once = prompts_per_batch(rows)
    while len(found) < len(prompts):
        batch = prompts[len(found) : len(found) + at_once]
        results = unless_out_of_memory(functools.partial(search, batch))
        if results is not None:
            found += results
            continue
        if len(batch) == 1:
            raise GenerationError("memory does not suffice for one prompt; use fewer beams or --device cpu")
        at_once = len(batch) // 2
        console.warn(f"out of memory with {len(batch)} prompts at once: going on with {at_once}; no text changes")
    return found
