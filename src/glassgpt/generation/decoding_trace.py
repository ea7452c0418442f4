"""The candidates that each token of a text was chosen from: probabilities before and after each logits processor.

Nothing is recorded during generation. The finished text is fed to the model once more, all tokens at once, and the
processors are applied as they were: the same values within float tolerance, for one additional pass and only on
request.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import Prompt, encode_prompt
from glassgpt.generation.engine.sequence import dropped_at
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import LogitsProcessor, TokenHistory
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.transformer import LanguageModel

FIRST_STAGE = "model"
"""Name of the stage before any processor."""
MIN_LOGPROB = -9999.0
"""Represents minus infinity, which JSON cannot express."""
POSITIONS_PER_BATCH = 64
"""Positions whose logits over the whole vocabulary are in memory at the same time."""


@dataclass(frozen=True)
class TokenCandidate:
    """A token that could have been chosen.

    Attributes:
        token: its id.
        logprobs: its log-probability at each stage of the trace, `MIN_LOGPROB` if it was impossible.
    """

    token: int
    logprobs: tuple[float, ...]

    @property
    def raw(self) -> float:
        """Log-probability that the model assigns, before any processor."""
        return self.logprobs[0]

    @property
    def processed(self) -> float:
        """Log-probability after all processors, from which the token was sampled."""
        return self.logprobs[-1]


@dataclass(frozen=True)
class DecodingStep:
    """The choice of one token.

    Attributes:
        chosen: the token that was generated.
        candidates: the most probable tokens before and after the processors and the chosen one, sorted by their final
            probability, then by the model's.
    """

    chosen: TokenCandidate
    candidates: tuple[TokenCandidate, ...]


@dataclass(frozen=True)
class DecodingTrace:
    """The choices of a sample's tokens.

    Attributes:
        stages: `model`, then the names of the processors in order.
        steps: one per token, end-of-text included.
    """

    stages: tuple[str, ...]
    steps: tuple[DecodingStep, ...]


def generate_with_traces(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Prompt, options: GenerationOptions, *, top: int
) -> list[tuple[Sample, DecodingTrace]]:
    """Generate the samples of a prompt and return each with its trace; see `trace_decoding`.

    Raises:
        GenerationError: the prompt or an option is invalid.
    """
    samples = generate(model, tokenizer, prompt, options)
    return next(trace_samples(model, tokenizer, [prompt], options, [samples], top=top))


def trace_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    options: GenerationOptions,
    results: Iterable[list[Sample]],
    *,
    top: int,
) -> Iterator[list[tuple[Sample, DecodingTrace]]]:
    """Yield the samples of each prompt with their traces.

    Args:
        model: that generated them.
        tokenizer: the model's.
        prompts: of the samples.
        options: with which they were generated.
        results: the samples of each prompt, in the order of the prompts; none if it failed.
        top: see `trace_decoding`.

    Raises:
        GenerationError: see `trace_decoding`.
    """
    for prompt, samples in zip(prompts, results, strict=True):
        tokens = encode_prompt(model, tokenizer, prompt, options) if samples else []
        yield [(each, trace_decoding(model, tokenizer, tokens, each, options, top=top)) for each in samples]


def trace_decoding(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sample: Sample,
    options: GenerationOptions,
    *,
    top: int,
) -> DecodingTrace:
    """Return the candidates of each token of a sample.

    Args:
        model: that generated it.
        tokenizer: the model's.
        prompt: the prompt's token ids, from `encode_prompt`.
        sample: the sample.
        options: with which it was generated.
        top: number of the most probable tokens before and after the processors that become candidates.

    Raises:
        GenerationError: prompt and sample together exceed the context, and nothing was dropped from it.
    """
    output = [*sample.tokens, *([tokenizer.end_of_text] if sample.finish_reason == "end_of_text" else [])]
    if options.overflow == "stop":
        _require_fits_context(len(prompt) + len(output) - 1, model.config.context_length)
    processors = build_processors(options, tokenizer)
    stages = _replay(model, prompt, output, processors, tokenizer.vocab_size)
    steps = [_step(logprobs, token, top) for logprobs, token in zip(stages, output, strict=True)]
    return DecodingTrace((FIRST_STAGE, *(processor.name for processor in processors)), tuple(steps))


@torch.inference_mode()
def _replay(
    model: LanguageModel,
    prompt: Sequence[int],
    output: Sequence[int],
    processors: Sequence[LogitsProcessor],
    vocab_size: int,
) -> Iterator[Tensor]:
    """Yield, for each token of the output, the log-probabilities at each stage: (stages, V)."""
    text, device = [*prompt, *output], next(model.parameters()).device
    for dropped, first, stop in _views(len(prompt), len(output), model.config.context_length):
        visible = torch.tensor([text[dropped : len(prompt) + stop - 1]], device=device)
        features = model.features(visible)[:, first - stop :]  # (1, T, C)
        for start in range(first, stop, POSITIONS_PER_BATCH):
            batch = features[:, start - first : start - first + POSITIONS_PER_BATCH]
            logits = model.head(batch)[0, :, :vocab_size].float().cpu()
            histories = [TokenHistory(prompt, output[:at]) for at in range(start, start + logits.size(0))]
            yield from _stages(logits, processors, histories)


def _stages(logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]) -> Tensor:
    """Return log-probabilities before and after each processor: (T, stages, V)."""
    stages = [logits]
    for processor in processors:
        stages.append(processor.apply(stages[-1], histories))
    return torch.stack(stages, dim=1).log_softmax(dim=-1)


def _views(prompt: int, output: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Group the tokens of an output by the number of tokens dropped from the context when they were generated.

    Args:
        prompt: number of tokens in the prompt.
        output: number of tokens in the output.
        context: context length.

    Yields:
        Tokens dropped, and the range (first, stop) of output tokens.
    """
    positions = range(prompt, prompt + output)
    dropped = [*itertools.accumulate(positions, lambda before, at: dropped_at(at, before, context), initial=0)][1:]
    for count, same in itertools.groupby(range(output), key=dropped.__getitem__):
        members = list(same)
        yield count, members[0], members[-1] + 1


def _require_fits_context(tokens: int, context: int) -> None:
    if tokens > context:
        raise GenerationError(
            f"prompt and text have {tokens:,} tokens, more than the model's context of {context:,}, so that their "
            "probabilities cannot be computed; generate fewer tokens"
        )


def _step(logprobs: Tensor, chosen: int, top: int) -> DecodingStep:
    first, last = logprobs[0], logprobs[-1]
    count = min(top, first.numel())
    tokens = dict.fromkeys([*last.topk(count).indices.tolist(), *first.topk(count).indices.tolist(), chosen])
    candidates = [TokenCandidate(token, _finite(logprobs[:, token])) for token in tokens]
    candidates.sort(key=lambda each: (-each.processed, -each.raw, each.token))
    return DecodingStep(next(each for each in candidates if each.token == chosen), tuple(candidates))


def _finite(logprobs: Tensor) -> tuple[float, ...]:
    return tuple(logprobs.clamp(min=MIN_LOGPROB).tolist())
