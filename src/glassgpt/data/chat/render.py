"""A conversation to tokens, and to a mask of those that are learned: what the assistant wrote, with its stop token.

The ids are those of transformers' `apply_chat_template`, and the mask is that of its `return_assistant_tokens_mask`, for
templates that mark the assistant's text with `{% generation %}`. Templates without these marks are rendered up to each of
the assistant's messages: what the message adds is learned, up to the last special token in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from glassgpt.data.chat.jinja_template import JinjaTemplate, spelled_out, unused_noncharacters
from glassgpt.data.chat.messages import Conversation
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError

Span = tuple[int, int]
"""The first character, and the one after the last."""
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        tokens: the ids.
        supervised: for each id, whether it is learned.
        spans: of each of the assistant's messages, the first supervised token and the one after the last.
    """

    tokens: list[int]
    supervised: list[bool]
    spans: list[Span]


def render(
    tokenizer: Tokenizer, template: JinjaTemplate, conversation: Conversation, inserted: Mapping[str, str] | None = None
) -> Rendered:
    """Return the tokens of a conversation, and which of them are learned; a message of weight 0 is not.

    Args:
        tokenizer: the model's.
        template: writes the conversation.
        conversation: the messages.
        inserted: noncharacters in the messages, and the special token that replaces each; names of special tokens that are
            spelled out in the messages stay ordinary text.

    Raises:
        GenerationError: the template refuses the messages, or fails.
        DataError: it cannot be said what the assistant wrote, or the tokenizer changes the text.
    """
    breaker, *marks = unused_noncharacters([*conversation.pairs, ("", "".join(inserted or {}))], 3)
    pairs = spelled_out(tokenizer, conversation.pairs, breaker, inserted)
    marked = template.write(tokenizer, pairs, add_generation_prompt=False, marks=(marks[0], marks[1]))
    text, spans = _unmark(marked, marks[0], marks[1])
    if not spans:
        spans = _spans_by_prefixes(tokenizer, template, pairs, text, conversation.origin)
    weights = [message.weight for message in conversation.messages if message.role == "assistant"]
    if len(spans) != len(weights):
        raise DataError(
            f"{conversation.origin}: {template.source} marks {len(spans)} texts with {{% generation %}}, but the assistant "
            f"has {len(weights)} messages; mark each of them once"
        )
    tokens = tokenizer.encode_with_special_tokens(text, breaker)
    found = _token_spans(tokenizer, tokens, text, breaker, spans, conversation.origin)
    supervised = [False] * len(tokens)
    for (start, end), weight in zip(found, weights, strict=True):
        supervised[start:end] = [weight > 0] * (end - start)
    return Rendered(tokens, supervised, found)


def _unmark(marked: str, start: str, end: str) -> tuple[str, list[Span]]:
    """Return a text without the marks, and the spans between them."""
    parts = re.split(f"[{start}{end}]", marked)  # text, marked text, text, …
    ends = list(accumulate(map(len, parts)))
    return "".join(parts), [(ends[at - 1], ends[at]) for at in range(1, len(parts), 2)]


def _spans_by_prefixes(
    tokenizer: Tokenizer, template: JinjaTemplate, pairs: Pairs, text: str, origin: str
) -> list[Span]:
    """Return where the assistant's messages are in the text, from the texts of shorter conversations.

    Raises:
        DataError: a longer conversation does not begin with the text of a shorter one.
    """
    spans: list[Span] = []
    for at, (role, _) in enumerate(pairs):
        if role != "assistant":
            continue
        before = template.write(tokenizer, pairs[:at], add_generation_prompt=True)
        after = template.write(tokenizer, pairs[: at + 1], add_generation_prompt=False)
        if not after.startswith(before) or not text.startswith(after):
            raise DataError(
                f"{origin}, message {at + 1}: {template.source} writes earlier messages differently when others follow, so "
                "that the assistant's text cannot be found; mark it in the template with {% generation %} … {% endgeneration %}"
            )
        spans.append((len(before), _end_of_message(tokenizer, after, len(before))))
    return spans


def _end_of_message(tokenizer: Tokenizer, text: str, start: int) -> int:
    """Return the end of the last special token after `start`, or of the text: what follows it belongs to the template."""
    ends = [found + len(name) for name in tokenizer.special_tokens if (found := text.rfind(name)) >= start]
    return max(ends, default=len(text))


def _token_spans(
    tokenizer: Tokenizer, tokens: Sequence[int], text: str, breaker: str, spans: Sequence[Span], origin: str
) -> list[Span]:
    """Return the tokens of each span of characters; a token that is partly in it counts.

    Raises:
        DataError: the tokens are not the text.
    """
    pieces = [tokenizer.token_bytes(token) for token in tokens]
    if b"".join(pieces) != text.replace(breaker, "").encode():
        raise DataError(f"{origin}: the tokenizer {tokenizer.name} changes the text; use another one")
    token_of_byte = [at for at, piece in enumerate(pieces) for _ in piece]

    def bytes_before(character: int) -> int:
        return len(text[:character].replace(breaker, "").encode())

    found: list[Span] = []
    for start, end in spans:
        first, last = bytes_before(start), bytes_before(end)
        found.append((token_of_byte[first], token_of_byte[last - 1] + 1) if first < last else (0, 0))
    return found
