"""A model goes on from held-out prompts, and says how surprising the results are to itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glassgpt import console
from glassgpt.data.shards import TokenArray
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.held_out import Continuation
from glassgpt.evaluation.perplexity import Span, span_nats
from glassgpt.generation.engine.engine import DEFAULT_SLOTS, Engine
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.engine.prompt import token_limit
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class Job:
    """A text to be written.

    Attributes:
        prompt: tokens to go on from.
        options: with the seed of this text.
    """

    prompt: tuple[int, ...]
    options: GenerationOptions


def generation_jobs(
    prompts: Sequence[Continuation], options: GenerationOptions, seed: int, first: int = 0
) -> list[Job]:
    """One text for each prompt.

    The prompt with number i (from `first`) has the seed `seed + i`: with one seed for all, the same words would be
    favoured at the same places of every text, and the texts would be more alike than the model makes them.
    """
    return [
        Job(prompt.prompt, dataclasses.replace(options, seed=seed + first + at)) for at, prompt in enumerate(prompts)
    ]


def write(
    model: LanguageModel, tokenizer: Tokenizer, jobs: Sequence[Job], *, label: str = "writing"
) -> list[Continuation]:
    """Write all texts, together in one engine, each as `generate` would alone.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        jobs: prompts that fit the context, with settings for one sample each.
        label: what the progress bar says.

    Raises:
        GenerationError: a setting cannot be used.
    """
    limits = [token_limit(model, len(job.prompt), job.options) for job in jobs]
    needed = max(len(job.prompt) + limit - 1 for job, limit in zip(jobs, limits, strict=True))
    engine = Engine(model, tokenizer, slots=min(len(jobs), DEFAULT_SLOTS), capacity=needed)
    numbers = {engine.submit(job.prompt, job.options): at for at, job in enumerate(jobs)}
    growing = [_Growing(limit) for limit in limits]
    # In tokens: texts of one length all come to their end together, and nothing would move until then.
    with console.progress(label, sum(limits), unit="tokens") as meter:
        while not engine.is_idle:
            for piece in engine.step():
                meter.advance(growing[numbers[piece.request]].add(piece))
    written = zip(jobs, growing, strict=True)
    return [Continuation(job.prompt, tuple(one.tokens), one.text, one.ended) for job, one in written]


@dataclass
class _Growing:
    """A text while it is written.

    Attributes:
        left: tokens that it may still get.
        tokens: so far, without end-of-text.
        text: what they stand for, as far as it is certain.
        ended: whether end-of-text came.
    """

    left: int
    tokens: list[int] = field(default_factory=list[int])
    text: str = ""
    ended: bool = False

    def add(self, piece: TokenChunk) -> int:
        """Take a piece.

        Returns:
            How many tokens fewer there are to wait for: one, and with the last piece all that will not come any more.
        """
        self.text += piece.text
        self.ended = piece.finish_reason == "end_of_text"
        self.tokens += [] if self.ended else [piece.token]
        done = 1 if piece.finish_reason is None else self.left
        self.left -= done
        return done


def surprisals(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[Continuation]) -> list[tuple[float, int]]:
    """Nats that each continuation costs after its prompt, and for how many tokens, end-of-text included if it ended.

    Raw: of the model's own probabilities, before any setting. Texts longer than the context are read by a window
    that moves on by half of it.
    """
    rows = [[*text.prompt, *text.tokens, *([tokenizer.end_of_text] if text.ended else [])] for text in texts]
    starts = np.cumsum([0, *map(len, rows)])
    spans = [
        Span(int(start), len(row), len(text.prompt)) for start, row, text in zip(starts, rows, texts, strict=False)
    ]
    array = TokenArray([np.array([token for row in rows for token in row], dtype=np.int64)])
    context = model.config.context_length
    nats = span_nats(model, array, spans, context=context, stride=max(1, context // 2))
    return [(float(cost), span.targets) for cost, span in zip(nats, spans, strict=True)]
