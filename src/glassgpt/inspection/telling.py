"""Choose a text on which a model shows something: one that makes a head continue a repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GlassGPTError
from glassgpt.inspection.analysis import head_patterns, token_losses
from glassgpt.inspection.repetitions import MAX_TOKENS, repeated_passages
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.accounting import count_parameters
from glassgpt.model.transformer import LanguageModel

TEXTS = (
    "Anna gave the book to Peter. Then Anna gave the",
    "The king spoke to Romeo, and Romeo spoke to the king, and the king spoke to",
    "the old king saw the old king",
    "철수는 영희를 보았다. 그리고 철수는",
    "봄이 오면 꽃이 피고 봄이 오면",
)
"""Texts that repeat a name or a phrase, for models of either language and whatever they were trained on."""
WORSE = 2.0
"""Largest ratio of a text's loss per byte to that of the text that the model predicts best."""
PASSAGES = 3, 8
"""Smallest and largest number of passages of the validation text that are traced."""
FLOPS = 1e11
"""Limit for tracing these passages, above the smallest number: about a second on a few cores."""


@dataclass(frozen=True)
class TextCandidate:
    """A text that was traced to see whether a head continues its repetition.

    Attributes:
        text: the text; it ends where something is repeated.
        source: where it is from.
        loss: in nats per byte.
        layer: block of the head that continues the repetition best.
        head: its number.
        share: of that head's attention from the last token that goes to what followed its earlier occurrences (0 to 1).
        is_known: whether the model predicts it at most `WORSE` times as badly as the best one; the text is chosen of these.
    """

    text: str
    source: Literal["validation", "built-in"]
    loss: float
    layer: int
    head: int
    share: float
    is_known: bool = False


def choose_text(
    model: LanguageModel, tokenizer: Tokenizer, dataset: TokenDataset | None = None, texts: Sequence[str] = TEXTS
) -> list[TextCandidate]:
    """Return the texts that were tried, best first; none if the model can trace none of them.

    Only texts that the model predicts about as well as the best one are considered, so that none is in a language that it
    does not know. Of these the one comes first on which a head attends most from the last token to what followed it
    before: with a high share, there is something to see. The same run gives the same text.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        dataset: of the model's run; passages of its validation text are tried, too.
        texts: that are tried in any case.

    Raises:
        DataError: the dataset's validation text is damaged.
    """
    passages = [] if dataset is None else repeated_passages(dataset, _n_passages(model), model.config.context_length)
    tried = [_candidate(model, tokenizer, text, "validation") for text in passages]
    tried += [_candidate(model, tokenizer, text, "built-in") for text in texts if text not in passages]
    found = [each for each in tried if each is not None]
    limit = WORSE * min((each.loss for each in found), default=0.0)
    marked = [replace(each, is_known=each.loss <= limit) for each in found]
    return sorted(marked, key=lambda each: (not each.is_known, -each.share))


def _n_passages(model: LanguageModel) -> int:
    fewest, most = PASSAGES
    return max(fewest, min(most, int(FLOPS // (2 * MAX_TOKENS * count_parameters(model.config)))))


def _candidate(
    model: LanguageModel, tokenizer: Tokenizer, text: str, source: Literal["validation", "built-in"]
) -> TextCandidate | None:
    try:
        found = trace(model, tokenizer, text)
    except GlassGPTError:  # longer than the context, or not in the vocabulary
        return None
    if len(found) < 2:
        return None
    loss = float(token_losses(found).sum()) / len(text.encode())
    return TextCandidate(text, source, loss, *_continuing_head(found))


def _continuing_head(found: Trace) -> tuple[int, int, float]:
    """Return block and number of the head that attends most from the last token to what followed it before, and the share."""
    followed = head_patterns(found["tokens"])["induction"][-1]
    shares = [
        found[f"blocks.{layer}.attention.weights"][:, -1, followed].sum(-1)
        for layer in range(found.model.config.n_layer)
    ]
    best = [(float(each.max()), layer, int(each.argmax())) for layer, each in enumerate(shares)]
    share, layer, head = max(best, key=lambda each: each[0])
    return layer, head, share
