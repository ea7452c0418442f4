"""How alike texts are in their words: BLEU (Papineni et al. 2002), as sacrebleu computes it (Post 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glassgpt.errors import MissingExtraError
from glassgpt.evaluation.diversity import mean

MAX_SELF_BLEU_TEXTS = 100
"""Texts that self-BLEU looks at: each against each, so that the time grows with the square of their number."""


def bleu_metric(*, sentence: bool) -> Any:
    """sacrebleu's BLEU: 4-grams, its `13a` tokens, exponential smoothing.

    Args:
        sentence: count only n-grams that a text is long enough for, as is usual for single sentences.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "eval", "BLEU of generated text") from error
    return BLEU(effective_order=sentence)


def reference_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of texts against the true ones, over all together: 0 to 100; nan of none.

    Args:
        texts: what was written.
        references: as many, what stands there in truth.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metric = bleu_metric(sentence=False)
    return metric.corpus_score(list(texts), [list(references)]).score if texts else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """How alike texts are among themselves: each against all others, averaged (Zhu et al. 2018).

    Of more than `MAX_SELF_BLEU_TEXTS` texts, the first so many.

    Returns:
        0 to 100, 100 where all are the same; nan of fewer than two texts. Rises with the number of texts.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metric = bleu_metric(sentence=True)
    if len(texts) < 2:
        return math.nan
    texts = texts[:MAX_SELF_BLEU_TEXTS]
    others = ([*texts[:at], *texts[at + 1 :]] for at in range(len(texts)))
    return mean(metric.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True))
