"""Generate continuations of prompts, and measure how likely a model finds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glassgpt.data.shards import TokenArray
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.held_out import Continuation
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.perplexity import Span, span_nats
from glassgpt.generation.engine.engine import DEFAULT_SLOTS, Engine
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.engine.prompt import token_limit
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class GenerationJob:
    """One text to generate.

    Attributes:
        prompt: tokens of the prompt.
        options: for one sample, with the seed of this text.
    """

    prompt: tuple[int, ...]
    options: GenerationOptions


def generation_jobs(
    prompts: Sequence[Continuation], options: GenerationOptions, seed: int, first: int = 0
) -> list[GenerationJob]:
    """Return one job for each prompt.

    Prompt number i, counted from `first`, gets the seed `seed + i`. With one seed for all, the same tokens would be favored
    at the same positions of every text, and the texts would be more alike than the model makes them.
    """
    return [
        GenerationJob(prompt.prompt, dataclasses.replace(options, seed=seed + first + at))
        for at, prompt in enumerate(prompts)
    ]


def generate_continuations(
    model: LanguageModel,
    tokenizer: Tokenizer,
    jobs: Sequence[GenerationJob],
    *,
    label: str = "generating",
    observer: EvaluationObserver = SILENT,
) -> list[Continuation]:
    """Generate all texts in one batch; each is the same as if `generate` had been called for it alone.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        jobs: prompts that fit the context, with options for one sample each.
        label: of the progress.
        observer: receives progress.

    Raises:
        GenerationError: the options cannot be used with this model.
    """
    limits = [token_limit(model, len(job.prompt), job.options) for job in jobs]
    capacity = max(len(job.prompt) + limit - 1 for job, limit in zip(jobs, limits, strict=True))
    engine = Engine(model, tokenizer, slots=min(len(jobs), DEFAULT_SLOTS), capacity=capacity)
    indices = {engine.submit(job.prompt, job.options): at for at, job in enumerate(jobs)}
    texts = [_PartialText(limit) for limit in limits]
    # Progress counts tokens, not texts: texts of equal length all finish at the end.
    with observer.progress(label, sum(limits)) as advance:
        while not engine.is_idle:
            for chunk in engine.step():
                advance(texts[indices[chunk.request]].add(chunk))
    finished = zip(jobs, texts, strict=True)
    return [Continuation(job.prompt, tuple(text.tokens), text.text, text.ended) for job, text in finished]


@dataclass
class _PartialText:
    """A text during generation.

    Attributes:
        remaining: tokens it may still get.
        tokens: so far, without end-of-text.
        text: decoded so far.
        ended: whether end-of-text was generated.
    """

    remaining: int
    tokens: list[int] = field(default_factory=list[int])
    text: str = ""
    ended: bool = False

    def add(self, chunk: TokenChunk) -> int:
        """Append a token chunk.

        Returns:
            By how many tokens the remaining work shrinks: one, or with the last chunk all that will not be generated.
        """
        self.text += chunk.text
        self.ended = chunk.finish_reason == "end_of_text"
        self.tokens += [] if self.ended else [chunk.token]
        done = 1 if chunk.finish_reason is None else self.remaining
        self.remaining -= done
        return done


def continuation_nats(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[Continuation]
) -> list[tuple[float, int]]:
    """Return the negative log-likelihood in nats of each continuation given its prompt, and its number of tokens.

    Uses the model's own probabilities, before any logits processor. End-of-text counts as a token if the text ended. Texts
    longer than the context are evaluated by a window that advances by half of it.
    """
    sequences = [[*text.prompt, *text.tokens, *([tokenizer.end_of_text] if text.ended else [])] for text in texts]
    starts = np.cumsum([0, *map(len, sequences)])
    spans = [
        Span(int(start), len(sequence), len(text.prompt))
        for start, sequence, text in zip(starts, sequences, texts, strict=False)
    ]
    array = TokenArray([np.array([token for sequence in sequences for token in sequence], dtype=np.int64)])
    context = model.config.context_length
    nats = span_nats(model, array, spans, context=context, stride=max(1, context // 2))
    return [(float(cost), span.targets) for cost, span in zip(nats, spans, strict=True)]
