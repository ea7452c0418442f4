"""Score texts for a gap: their likelihood in it, and that of the text after the gap when it is read after them.

A model that fills gaps looks at the text after a gap while it writes, and still writes lines that do not fit it, as one that
opens a block before a line that is not indented. By the rule of Bayes, p(text | before, after) is proportional to
p(text, after | before), which the model also knows from reading from left to right, where all of its training is. Both estimate the
same quantity, so that candidates are ordered by their mean. A model without the special tokens of fill-in-the-middle has the
second one only, which lets it, too, see the text after the gap.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.likelihood import batched_token_logprobs
from glassgpt.model.transformer import LanguageModel

AFTER_CHARACTERS = 300
"""Most characters of the text after a gap that are read: some eight lines."""


def token_logprobs(model: LanguageModel, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the log-probabilities in nats of the tokens of several texts after one prompt, (tokens of the text,) each.

    A text that does not fit the context is cut off.

    Args:
        model: in evaluation mode.
        prompt: token ids, not empty.
        texts: token ids of each text; may be empty.
    """
    space = model.config.context_length - len(prompt) + 1
    return batched_token_logprobs(model, [(prompt, text[:space]) for text in texts], model.config.vocab_size)


def head_of(after: str) -> str:
    """Return the beginning of the text after a gap, up to the end of a line if there is one within `AFTER_CHARACTERS`."""
    head = after[:AFTER_CHARACTERS]
    return head if len(after) <= AFTER_CHARACTERS else head[: head.rfind("\n", 1) + 1] or head


def joint_logprobs(
    model: LanguageModel, tokenizer: Tokenizer, before: str, texts: Sequence[str], after: str
) -> list[float]:
    """Return log p(text, head of the text after it | text before it) in nats, read from left to right, of each text.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        before: the text before the gap; its end is kept if it does not fit the context with the rest.
        texts: for the gap.
        after: the text after the gap.
    """
    prefix = [tokenizer.end_of_text, *tokenizer.encode(before)]
    head = head_of(after)
    filled = [tokenizer.encode(text + head) for text in texts]
    space = max(1, model.config.context_length - max(map(len, filled)) + 1)
    return [float(logprobs.sum()) for logprobs in token_logprobs(model, prefix[-space:], filled)]
