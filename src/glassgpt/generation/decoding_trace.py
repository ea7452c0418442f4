"""What a text's tokens were chosen from: probabilities before and after each processor.

Nothing is recorded while a text is written. Its tokens are read once more, all at once, and the processors applied
as they were: the same figures within float tolerance, at the price of one more pass and of none for those who do
not ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.sequence import dropped_at
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import LogitsProcessor, TokenHistory
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.transformer import LanguageModel

FIRST_STAGE = "model"
"""Before any processor."""
MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not know."""
POSITIONS_AT_ONCE = 64
"""Whose logits over the whole vocabulary are held in memory together."""


@dataclass(frozen=True)
class TokenCandidate:
    """A token that could have been drawn.

    Attributes:
        token: its id.
        logprobs: its log-probability at each stage of the trace, `MIN_LOGPROB` where it was impossible.
    """

    token: int
    logprobs: tuple[float, ...]

    @property
    def raw(self) -> float:
        """Before penalties and temperature: what the model thinks."""
        return self.logprobs[0]

    @property
    def processed(self) -> float:
        """After all processors: what was drawn from. In greedy text, after the penalties and rules."""
        return self.logprobs[-1]


@dataclass(frozen=True)
class DecodingStep:
    """The choice of one token.

    Attributes:
        drawn: the token that was taken.
        candidates: the most probable ones before and after the processors, the drawn one always among them; sorted
            by their final probability, then by the model's.
    """

    drawn: TokenCandidate
    candidates: tuple[TokenCandidate, ...]


@dataclass(frozen=True)
class DecodingTrace:
    """How a sample was chosen.

    Attributes:
        stages: `model`, then the names of the processors, in order.
        steps: one for each token, end-of-text included.
    """

    stages: tuple[str, ...]
    steps: tuple[DecodingStep, ...]


def explain(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions, *, top: int
) -> list[tuple[Sample, DecodingTrace]]:
    """Write, and tell what each token of each sample was chosen from; see `trace`.

    Raises:
        GenerationError: the prompt or a setting cannot be used.
    """
    samples, tokens = generate(model, tokenizer, prompt, options), encode_prompt(model, tokenizer, prompt, options)
    return [(sample, trace(model, tokenizer, tokens, sample, options, top=top)) for sample in samples]


def trace(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    sample: Sample,
    options: GenerationOptions,
    *,
    top: int,
) -> DecodingTrace:
    """What each token of a sample was chosen from.

    Args:
        model: that wrote it.
        tokenizer: the model's.
        prompt: the prompt's tokens, as `encode_prompt` makes them.
        sample: what was written.
        options: with which it was written.
        top: how many of the most probable tokens before and after the processors are candidates.

    Raises:
        GenerationError: prompt and sample together are longer than the context, and nothing was forgotten.
    """
    output = [*sample.tokens, *([tokenizer.end_of_text] if sample.finish_reason == "end_of_text" else [])]
    if options.overflow == "stop":
        _require_all_in_view(len(prompt) + len(output) - 1, model.config.context_length)
    processors = build_processors(options, tokenizer)
    stages = _replay(model, prompt, output, processors, tokenizer.vocab_size)
    steps = [_step(at, token, top) for at, token in zip(stages, output, strict=True)]
    return DecodingTrace((FIRST_STAGE, *(processor.name for processor in processors)), tuple(steps))


@torch.inference_mode()
def _replay(
    model: LanguageModel,
    prompt: Sequence[int],
    output: Sequence[int],
    processors: Sequence[LogitsProcessor],
    vocab_size: int,
) -> Iterator[Tensor]:
    """For each token of the output, the log-probabilities it was chosen from: (stages, V)."""
    text, device = [*prompt, *output], next(model.parameters()).device
    for forgotten, first, behind in _views(len(prompt), len(output), model.config.context_length):
        seen = torch.tensor([text[forgotten : len(prompt) + behind - 1]], device=device)
        features = model.features(seen)[:, first - behind :]  # (1, T, C)
        for start in range(first, behind, POSITIONS_AT_ONCE):
            some = features[:, start - first : start - first + POSITIONS_AT_ONCE]
            logits = model.head(some)[0, :, :vocab_size].float().cpu()
            histories = [TokenHistory(prompt, output[:at]) for at in range(start, start + logits.size(0))]
            yield from _stages(logits, processors, histories)


def _stages(logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]) -> Tensor:
    """Log-probabilities before and after each processor: (T, stages, V)."""
    stages = [logits]
    for processor in processors:
        stages.append(processor.apply(stages[-1], histories))
    return torch.stack(stages, dim=1).log_softmax(dim=-1)


def _views(prompt: int, output: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Tokens of an output that were drawn after the same beginning was forgotten: (forgotten, first, behind the last).

    Args:
        prompt: its tokens.
        output: its tokens.
        context: most tokens in view.
    """
    positions = range(prompt, prompt + output)
    forgotten = [*itertools.accumulate(positions, lambda seen, at: dropped_at(at, seen, context), initial=0)][1:]
    for seen, same in itertools.groupby(range(output), key=forgotten.__getitem__):
        members = list(same)
        yield seen, members[0], members[-1] + 1


def _require_all_in_view(tokens: int, context: int) -> None:
    if tokens > context:
        raise GenerationError(
            f"prompt and text have {tokens:,} tokens, the model sees {context:,} at once: their probabilities cannot "
            "be told; write less"
        )


def _step(logprobs: Tensor, drawn: int, top: int) -> DecodingStep:
    first, last = logprobs[0], logprobs[-1]
    count = min(top, first.numel())
    tokens = dict.fromkeys([*last.topk(count).indices.tolist(), *first.topk(count).indices.tolist(), drawn])
    candidates = [TokenCandidate(token, _clamped(logprobs[:, token])) for token in tokens]
    candidates.sort(key=lambda one: (-one.processed, -one.raw, one.token))
    return DecodingStep(next(one for one in candidates if one.token == drawn), tuple(candidates))


def _clamped(logprobs: Tensor) -> tuple[float, ...]:
    return tuple(logprobs.clamp(min=MIN_LOGPROB).tolist())
