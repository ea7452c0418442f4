"""Shared by all searches: prefill, logits of the next tokens, the end of a text, and batches of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.device import halve_until_it_fits
from glassgpt.errors import GenerationError, GenerationFailedError
from glassgpt.generation.engine.decoding import ChunkedPrefill, nan_logits_error, pad_right
from glassgpt.generation.engine.engine import DEFAULT_SLOTS
from glassgpt.generation.engine.memory import warn_of_smaller_batch
from glassgpt.generation.engine.output import Sample, sample_from_tokens
from glassgpt.generation.engine.prompt import Prompt as GivenPrompt
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
    """A model, its tokenizer and the options of a search.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        options: everything but sampling: length, penalties, words, constraints.
        search: the search's name, for error messages.

    Raises:
        GenerationError: an option is out of range or cannot be combined with a search.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, options: GenerationOptions, search: str) -> None:
        options.check()
        reject_sampling_options(options, search)
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.processors = build_processors(options, tokenizer)
        self._end_tokens = {tokenizer.end_of_text, *options.stop_tokens}
        self._parameter = next(model.parameters())

    @property
    def n_end_tokens(self) -> int:
        """Number of different tokens that end a text."""
        return len(self._end_tokens)

    def is_end(self, token: int) -> bool:
        """Return whether a token ends a text; it is not part of it."""
        return token in self._end_tokens

    def encode(self, prompts: Sequence[GivenPrompt]) -> list[Prompt]:
        """Return the tokens of each prompt; see `encode_prompt`."""
        return [tuple(encode_prompt(self.model, self.tokenizer, prompt, self.options)) for prompt in prompts]

    def limit(self, prompt: Prompt) -> int:
        """Return the maximum number of new tokens after a prompt."""
        return token_limit(self.model, len(prompt), self.options)

    def new_cache(self, slots: int, capacity: int) -> KVCache:
        """Return an empty cache."""
        return self.model.new_cache(slots, capacity)

    def prefill(self, prompts: Sequence[Prompt]) -> KVCache:
        """Return a cache with all but the last token of each prompt, and space for the new tokens."""
        cache = self.new_cache(len(prompts), max(len(prompt) + self.limit(prompt) - 1 for prompt in prompts))
        # A prompt of one token has nothing to prefill: it is processed as padding, and none of it is used.
        prefill = ChunkedPrefill(self.model, [prompt[:-1] or prompt for prompt in prompts])
        while not prefill.step():
            pass
        for slot, prompt in enumerate(prompts):
            cache.copy_slot(slot, prefill.cache, slot, len(prompt) - 1)
        return cache

    def features(self, tokens: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Process new tokens of each sequence, padded on the right; return their features: (B, T, C)."""
        return self.model.features(pad_right(tokens, self._parameter.device), cache)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits after features (B, C): (B, V) float32 on the CPU.

        Raises:
            GenerationError: they contain NaN.
        """
        logits = self.model.head(features[:, None])[:, 0, : self.tokenizer.vocab_size].float().cpu()
        if bool(logits.isnan().any()):
            raise nan_logits_error()
        return logits

    def process(self, scores: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        """Apply the logits processors. Unlike in sampling, they may forbid every token: that text is abandoned."""
        for processor in self.processors:
            scores = processor.apply(scores, histories)
        return scores

    def is_complete(self, output: Sequence[int]) -> bool:
        """Return whether a text ends with its last token."""
        return self.is_end(output[-1]) or (bool(self.options.stop) and self._has_stop_string(output))

    def _has_stop_string(self, output: Sequence[int]) -> bool:
        text = TextStream(self.tokenizer, self.options.stop, self.options.min_tokens)
        for token in output:
            text.push(token)
        return text.stopped

    def sample(self, index: int, output: Sequence[int]) -> Sample:
        """Return the sample of a complete text."""
        return sample_from_tokens(self.tokenizer, self.options, index, output)

    def text_key(self, output: Sequence[int]) -> tuple[bytes, int]:
        """Return a key that is equal for token sequences with the same text: its bytes, and the token that ended it."""
        end = output[-1] if output[-1] in self._end_tokens else -1
        inner = output[:-1] if end >= 0 else output
        return b"".join(map(self.tokenizer.token_bytes, inner)), end

    def no_text_error(self, more: Sequence[str] = ()) -> GenerationError:
        """Return the error to raise if no text is complete and none can be continued.

        Args:
            more: options of the search that contribute to it.
        """
        names = ", ".join([*(processor.name for processor in self.processors), *more])
        return GenerationFailedError(f"these options together allow no text: {names}; relax one of them")


def prompts_per_batch(sequences_per_prompt: int) -> int:
    """Return how many prompts are searched together."""
    return max(1, DEFAULT_SLOTS // sequences_per_prompt)


def search_in_batches(
    prompts: Sequence[Prompt], sequences_per_prompt: int, search: Callable[[Sequence[Prompt]], list[T]]
) -> list[T]:
    """Search for several prompts at a time, and for half as many each time memory runs out; results do not change.

    Args:
        prompts: token ids of each prompt.
        sequences_per_prompt: cache slots that each prompt takes.
        search: returns a result for each of some prompts.

    Raises:
        GenerationError: memory runs out with a single prompt.
    """
    results: list[T] = []
    batch_size = prompts_per_batch(sequences_per_prompt)
    while len(results) < len(prompts):
        start, count = len(results), min(batch_size, len(prompts) - len(results))
        found = halve_until_it_fits(lambda n, start=start: search(prompts[start : start + n]), count)
        if found is None:
            raise GenerationFailedError("out of memory with a single prompt; use fewer beams or --device cpu")
        batch_results, fitting = found
        results += batch_results
        if fitting < count:
            warn_of_smaller_batch("prompts", count, fitting)
            batch_size = fitting
    return results
