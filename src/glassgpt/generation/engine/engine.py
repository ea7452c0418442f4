"""The engine: requests in, tokens and text out, any number of requests concurrently.

`stream` and `generate` in `generate.py` run an `Engine` until it is idle. A server keeps one engine and submits
requests as they arrive. The path of a token: `Engine.step` -> `Scheduler.step` -> `StepwiseDecoder.decode` (logits,
processors, sampling) -> `OutputStream.push` (text, end of the sample).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.generation.engine.memory import ShrinkingScheduler, build_decoder
from glassgpt.generation.engine.output import OutputStream, TokenChunk
from glassgpt.generation.engine.request import new_request
from glassgpt.generation.engine.sequence import Request, SequenceState
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

DEFAULT_SLOTS = 64
"""Sequences that are decoded at once by default."""
MAX_PREFILL_TOKENS = 8192
"""Prompt tokens, padding included, that a GPU processes together."""


class Engine:
    """Generates many texts concurrently with continuous batching.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        slots: most sequences decoded at once.
        capacity: most tokens of a sequence in the cache; by default the model's context length.
        decoder: builds what generates the tokens; by default the fastest decoder for the model's device.
        max_prefill_tokens: process prompts together up to this many tokens; by default, only on a GPU.

    Raises:
        GenerationError: `slots` or `capacity` is below 1, or memory runs out with a single slot.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        slots: int = DEFAULT_SLOTS,
        capacity: int | None = None,
        decoder: DecoderFactory = select_decoder,
        max_prefill_tokens: int | None = None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        context = model.config.context_length
        self._capacity = context if capacity is None else min(capacity, context)
        if slots < 1 or self._capacity < 1:
            raise GenerationError(f"slots is {slots} and capacity is {self._capacity}; both must be at least 1")
        built = build_decoder(decoder, model, tokenizer.vocab_size, slots, self._capacity)
        # On a CPU, padding short prompts costs as much as processing them one by one.
        on_cpu = next(model.parameters()).device.type == "cpu"
        together = max_prefill_tokens or (1 if on_cpu else MAX_PREFILL_TOKENS)
        self._scheduler = ShrinkingScheduler(model, built, together)
        self._outputs: dict[SequenceState, OutputStream] = {}
        self._ids = itertools.count()

    @property
    def is_idle(self) -> bool:
        """True if every request is complete."""
        return self._scheduler.is_idle

    def submit(self, prompt: Sequence[int], options: GenerationOptions) -> int:
        """Queue a request and return its id, which its chunks carry; see `prepare`."""
        return self.add(self.prepare(prompt, options))

    def prepare(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        logprobs: int | None = None,
        ignore_end: bool = False,
    ) -> Request:
        """Return a validated request for `add`; see `new_request`, which explains arguments and errors."""
        number, model, tokenizer = next(self._ids), self._model, self._tokenizer
        return new_request(
            number, model, tokenizer, prompt, options, self._capacity, logprobs=logprobs, ignore_end=ignore_end
        )

    def add(self, request: Request) -> int:
        """Queue a prepared request and return its id."""
        for index in range(request.options.num_samples):
            sequence = SequenceState(request, index)
            self._outputs[sequence] = OutputStream(
                self._tokenizer, request.options, ignore_end=request.end_of_text != self._tokenizer.end_of_text
            )
            self._scheduler.add(sequence)
        return request.id

    def cancel(self, request: int) -> None:
        """Cancel a request."""
        for sequence in [sequence for sequence in self._outputs if sequence.request.id == request]:
            self._finish(sequence)

    def step(self) -> Iterator[TokenChunk]:
        """Run one step of the scheduler and yield the new tokens.

        Raises:
            RequestError: a request's options forbid every token, or a processor fails. That request is cancelled; the
                next step continues with the others, whose texts do not change.
            GenerationError: the model's logits contain NaN, or memory runs out with a single sequence.
        """
        try:
            for sequence, token in self._scheduler.step():
                text, reason = self._outputs[sequence].push(token, is_full=sequence.is_full)
                if reason is not None:
                    self._finish(sequence)
                yield TokenChunk(sequence.request.id, sequence.index, token, text, reason, sequence.logprobs)
        except RequestError as error:
            self.cancel(error.request)
            raise

    def _finish(self, sequence: SequenceState) -> None:
        self._scheduler.finish(sequence)
        del self._outputs[sequence]
