"""Lexical similarity of texts: BLEU (Papineni et al. 2002), computed by sacrebleu (Post 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glassgpt.errors import MissingExtraError
from glassgpt.evaluation.diversity import mean

MAX_SELF_BLEU_TEXTS = 100
"""Texts compared by self-BLEU. Each is compared with all others, so that the time grows quadratically."""


def bleu_metric(*, sentence: bool) -> Any:
    """Return sacrebleu's BLEU: 4-grams, `13a` tokenization, exponential smoothing.

    Args:
        sentence: ignore n-gram orders longer than the text (effective order), as is usual for single sentences.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "eval", "BLEU of generated text") from error
    return BLEU(effective_order=sentence)


def reference_bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU of texts against one reference each: 0 to 100; NaN if there are no texts.

    Args:
        texts: generated texts.
        references: the true continuations, in the same order.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metric = bleu_metric(sentence=False)
    return metric.corpus_score(list(texts), [list(references)]).score if texts else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all others (Zhu et al. 2018).

    Only the first `MAX_SELF_BLEU_TEXTS` texts are compared.

    Returns:
        0 to 100, where 100 means that all texts are equal; NaN for fewer than two texts. Grows with the number of texts.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metric = bleu_metric(sentence=True)
    if len(texts) < 2:
        return math.nan
    texts = texts[:MAX_SELF_BLEU_TEXTS]
    others = ([*texts[:at], *texts[at + 1 :]] for at in range(len(texts)))
    return mean(metric.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True))
