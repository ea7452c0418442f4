"""Choose a text on which a model shows something: one that makes a head continue a repetition."""

from __future__ import annotations

from collections.abc import Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GlassGPTError
from glassgpt.inspection.analysis import head_scores, token_losses
from glassgpt.inspection.trace import trace
from glassgpt.model.transformer import LanguageModel

TEXTS = (
    "Anna gave the book to Peter. Then Anna gave the",
    "The king spoke to Romeo, and Romeo spoke to the king, and the king spoke to",
    "the old king saw the old king",
    "철수는 영희를 보았다. 그리고 철수는",
    "봄이 오면 꽃이 피고 봄이 오면",
)
"""Texts that repeat a name or a phrase, for models of either language."""


def telling_text(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS) -> str | None:
    """Return the text on which a head's induction score is highest; None if the model can trace none of them.

    Only the half of the texts that the model predicts best per byte are considered, so that none is in a language that it
    does not know. Induction (`HeadScores`) needs a repetition and a model that uses it: a high score is worth looking at.
    """
    found = [(text, *scores) for text in texts if (scores := _scores(model, tokenizer, text)) is not None]
    known = sorted(found, key=lambda each: each[1])[: (len(found) + 1) // 2]
    return max(known, key=lambda each: each[2])[0] if known else None


def _scores(model: LanguageModel, tokenizer: Tokenizer, text: str) -> tuple[float, float] | None:
    """Return the loss in nats per byte, and the highest induction score of a head."""
    try:
        found = trace(model, tokenizer, text)
    except GlassGPTError:  # longer than the context, or not in the vocabulary
        return None
    if len(found) < 2:
        return None
    loss = float(token_losses(found).sum()) / len(text.encode())
    return loss, float(head_scores(found).induction.nan_to_num(0.0).max())
