"""The engine: requests in, pieces of text out, any number of them at once.

`stream` and `generate` serve one prompt, `generate_many` several; all three are an `Engine` that runs until it
is idle. A server keeps one and submits as requests come.

Read `Engine.submit` and `Engine.step` first, then `_read`, which says when a text ends. A token is drawn in
`decoding.py` (`StepwiseDecoder`): the model's logits, the functions of `processors.py`, the noise of `sampling.py`.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.device import unless_out_of_memory
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.engine.decoding import Decoder, StepwiseDecoder
from glassgpt.generation.engine.scheduler import Scheduler
from glassgpt.generation.engine.sequence import Request, SequenceState
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.engine.streaming import TextStream
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors import build_processors
from glassgpt.model.transformer import LanguageModel

FinishReason = Literal["length", "stop", "end_of_text"]
DEFAULT_SLOTS = 64
"""Rows written at once unless told otherwise."""
MAX_PREFILL_TOKENS = 4096
"""Tokens of prompts that a GPU reads together."""


@dataclass(slots=True)
class TokenChunk:
    """What one sample gained by one token.

    Attributes:
        request: which request, by the number that `Engine.submit` gave.
        index: which of its samples.
        token: the token drawn.
        text: what became certain of the text; often a word, sometimes nothing.
        finish_reason: with the sample's last piece; None before.
    """

    request: int
    index: int
    token: int
    text: str
    finish_reason: FinishReason | None


@dataclass
class Sample:
    """One continuation.

    Attributes:
        index: which sample of its request it is.
        text: the continuation alone, cut before a stop string.
        tokens: the ids it was decoded from: those that completed a stop string, or a stop token, are among
            them, end-of-text is not.
        finish_reason: `length` (max_tokens or the context is used up), `stop` or `end_of_text`.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason = "length"

    def add(self, piece: TokenChunk) -> None:
        """Take what came with one token."""
        self.text += piece.text
        if piece.finish_reason != "end_of_text":
            self.tokens.append(piece.token)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason


def random_seed() -> int:
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
    _require_text(prompt)
    if not prompt:
        raise GenerationError("the prompt is empty; give it some text, or leave it out to begin a new document")
    tokens = tokenizer.encode(prompt)
    context = model.config.context_length
    if len(tokens) > context and not options.truncate:
        raise GenerationError(
            f"the prompt has {len(tokens):,} tokens, the model sees {context:,} at once; shorten it, or keep only "
            f"its end with --truncate"
        )
    return tokens if len(tokens) <= context else tokens[-_room_for_prompt(context, options) :]


def _room_for_prompt(context: int, options: GenerationOptions) -> int:
    """How much is left of a prompt that is cut: a full context would leave room for one new token only."""
    if options.overflow == "re-prefill":
        return context
    return max(1, context // 2, context - options.max_tokens)


def _require_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise GenerationError(f"the prompt is {prompt!r}; allowed is text, or None to begin a new document")


def select_decoder(model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> Decoder:
    """CUDA graphs of hand-written kernels where there are a GPU, Triton and a model that they know.

    In float32 their products would not use the chip's matrix units, so that is left to PyTorch.
    """
    parameter = next(model.parameters())
    if parameter.device.type == "cuda" and parameter.dtype != torch.float32 and find_spec("triton"):
        from glassgpt.generation.gpu.fused import can_fuse  # Triton is there with PyTorch for GPUs only
        from glassgpt.generation.gpu.graphs import GraphDecoder

        if can_fuse(model):
            return GraphDecoder(model, vocab_size, slots, capacity)
    return StepwiseDecoder(model, vocab_size, slots, capacity)


def _with_slots(make: Callable[[int], Decoder], slots: int) -> Decoder:
    """A decoder with so many slots, or with as many as memory has room for."""
    asked = slots
    while (decoder := unless_out_of_memory(functools.partial(make, slots))) is None:
        if slots == 1:
            raise GenerationError("memory does not suffice for one text; use a smaller model or --device cpu")
        slots //= 2
    if slots < asked:
        console.warn(f"out of memory with {asked} texts at once: going on with {slots}; no text changes")
    return decoder


class Engine:
    """Writes many texts at once: each row begins when there is room and ends when it is complete.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        slots: rows written at once, at most.
        capacity: most tokens that a row may have in view; by default the model's context.
        decoder: what draws, made of model, vocabulary size, slots and capacity.

    Raises:
        GenerationError: there is not one slot or no room in it, or memory does not suffice for a single row.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        slots: int = DEFAULT_SLOTS,
        capacity: int | None = None,
        decoder: Callable[[LanguageModel, int, int, int], Decoder] = select_decoder,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        context = model.config.context_length
        self._capacity = context if capacity is None else min(capacity, context)
        if slots < 1 or self._capacity < 1:
            raise GenerationError(f"slots is {slots} and capacity {self._capacity}; allowed is at least 1 for both")
        on_cpu = next(model.parameters()).device.type == "cpu"
        draws = _with_slots(lambda count: decoder(model, tokenizer.vocab_size, count, self._capacity), slots)
        # Filling up short prompts costs a CPU as much as reading them.
        self._scheduler = Scheduler(model, draws, max_prefill_tokens=1 if on_cpu else MAX_PREFILL_TOKENS)
        self._texts: dict[SequenceState, tuple[TextStream, dict[int, FinishReason]]] = {}
        self._requests = 0

    @property
    def is_idle(self) -> bool:
        """Whether every request is complete."""
        return self._scheduler.is_idle

    def submit(self, prompt: Sequence[int], options: GenerationOptions) -> int:
        """Ask for continuations; the number that their pieces will carry.

        Args:
            prompt: tokens, as `encode_prompt` makes them.
            options: checked settings; without a seed, a fresh one is drawn.

        Raises:
            GenerationError: the prompt has no token, or more than a slot holds; a setting does not fit the tokenizer.
        """
        if not 1 <= len(prompt) <= self._capacity:
            raise GenerationError(f"the prompt has {len(prompt):,} tokens; allowed are 1 to {self._capacity:,} here")
        seed = random_seed() if options.seed is None else options.seed
        limit = token_limit(self._model, len(prompt), options, self._capacity)
        processors = tuple(build_processors(options, self._tokenizer))
        request = Request(self._requests, tuple(prompt), options, processors, seed, limit)
        self._requests += 1
        ends = _ends(self._tokenizer, options)
        for index in range(options.num_samples):
            row = SequenceState(request, index)
            self._texts[row] = TextStream(self._tokenizer, options.stop, options.min_tokens), ends
            self._scheduler.add(row)
        return request.id

    def cancel(self, request: int) -> None:
        """Nobody waits for a request's text any more."""
        for row in [row for row in self._texts if row.request.id == request]:
            self._finish(row)

    def step(self) -> Iterator[TokenChunk]:
        """Do a little of everything that there is to do; what became of it.

        Raises:
            RequestError: a request's settings leave it no token. It is over; the next step goes on with the others, whose
                texts are the same.
            GenerationError: the model's logits are no numbers, or memory does not suffice for a single row.
        """
        try:
            for row, token in self._scheduler.step():
                stream, ends = self._texts[row]
                text, reason = _read(stream, token, ends, is_full=row.is_full)
                if reason is not None:
                    self._finish(row)
                yield TokenChunk(row.request.id, row.index, token, text, reason)
        except RequestError as error:
            self.cancel(error.request)
            raise

    def _finish(self, row: SequenceState) -> None:
        self._scheduler.finish(row)
        del self._texts[row]


def token_limit(
    model: LanguageModel, prompt_tokens: int, options: GenerationOptions, capacity: int | None = None
) -> int:
    """How many tokens a sample may get: what was asked for, or what the context (or the slot's capacity) leaves."""
    if options.overflow == "re-prefill":
        return options.max_tokens
    # The last token drawn is never fed, so a full context still yields one token more.
    return min(options.max_tokens, (capacity or model.config.context_length) - prompt_tokens + 1)


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None,
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> Iterator[TokenChunk]:
    """All samples of one prompt, as their text comes.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: text to continue, or None to begin a document.
        options: the settings; without a seed, a fresh one is drawn.
        speculation: guess tokens and check several in one pass; changes no text.

    Raises:
        GenerationError: the prompt or a setting cannot be used.
    """
    return stream_many(model, tokenizer, [prompt], options, speculation)


def stream_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> Iterator[TokenChunk]:
    """All samples of several prompts, as their text comes; a piece's `request` is the prompt's number.

    Raises:
        GenerationError: a prompt or a setting cannot be used.
    """
    options.check()
    encoded = [encode_prompt(model, tokenizer, prompt, options) for prompt in prompts]
    needed = max((len(prompt) + token_limit(model, len(prompt), options) - 1 for prompt in encoded), default=1)
    rows = len(prompts) * options.num_samples
    decoder = speculation.decoder if speculation else select_decoder
    engine = Engine(model, tokenizer, slots=max(1, min(rows, DEFAULT_SLOTS)), capacity=needed, decoder=decoder)
    for prompt in encoded:
        engine.submit(prompt, options)
    return _until_idle(engine)


def _until_idle(engine: Engine) -> Iterator[TokenChunk]:
    while not engine.is_idle:
        yield from engine.step()


def _ends(tokenizer: Tokenizer, options: GenerationOptions) -> dict[int, FinishReason]:
    """Tokens that end a text, and with which reason."""
    return {**dict.fromkeys(options.stop_tokens, "stop"), tokenizer.end_of_text: "end_of_text"}


def _read(
    text: TextStream, token: int, ends: dict[int, FinishReason], *, is_full: bool
) -> tuple[str, FinishReason | None]:
    """What a token adds to a sample's text, and whether it is the sample's last."""
    if token in ends:
        return text.finish(), ends[token]
    piece = text.push(token)
    if text.stopped:
        return piece, "stop"
    if is_full:
        return piece + text.finish(), "length"
    return piece, None


def generate(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None,
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> list[Sample]:
    """All samples of one prompt, complete; see `stream`."""
    return generate_many(model, tokenizer, [prompt], options, speculation)[0]


def generate_many(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> list[list[Sample]]:
    """All samples of each prompt, complete; written together, each as if it were alone.

    Raises:
        GenerationError: a prompt or a setting cannot be used.
    """
    return list(iter_samples(model, tokenizer, prompts, options, speculation))


def iter_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> Iterator[list[Sample]]:
    """All samples of each prompt, in the prompts' order, as soon as they are complete; see `generate_many`."""
    samples = [[Sample(index) for index in range(options.num_samples)] for _ in prompts]
    missing = [options.num_samples for _ in prompts]
    told = 0
    for piece in stream_many(model, tokenizer, prompts, options, speculation):
        samples[piece.request][piece.index].add(piece)
        missing[piece.request] -= piece.finish_reason is not None
        while told < len(prompts) and missing[told] == 0:
            yield samples[told]
            told += 1


def sample_from_tokens(tokenizer: Tokenizer, options: GenerationOptions, index: int, tokens: Sequence[int]) -> Sample:
    """A sample whose tokens are all known, the one that ended it included."""
    sample, text, ends = (
        Sample(index),
        TextStream(tokenizer, options.stop, options.min_tokens),
        _ends(tokenizer, options),
    )
    for at, token in enumerate(tokens, start=1):
        piece, reason = _read(text, token, ends, is_full=at == len(tokens))
        sample.add(TokenChunk(0, index, token, piece, reason))
    return sample
