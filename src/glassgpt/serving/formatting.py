"""Tokens, log-probabilities and usage in OpenAI's shapes."""

from __future__ import annotations

import codecs
import functools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.engine.output import FinishReason
from glassgpt.serving.jobs import Burst

MIN_LOGPROB = -9999.0
"""Represents minus infinity, which JSON cannot express."""


def finish_reason(reason: FinishReason | None) -> str | None:
    """Return OpenAI's name of a finish reason, which does not distinguish stop strings from end-of-text."""
    return reason if reason in (None, "length") else "stop"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the number of tokens of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@functools.lru_cache(maxsize=1 << 16)
def token_text(tokenizer: Tokenizer, token: int) -> str:
    r"""Return a token's text; one that is not valid UTF-8 alone as `bytes:\xe1\x84`, as OpenAI does."""
    piece = tokenizer.token_bytes(token)
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


class LogprobsWriter:
    """Aligns the log-probabilities of one sample with its text.

    A token is reported when its text is: what is held back because it may be part of a stop string stays hidden, and
    so do the tokens of a stop string.

    Args:
        tokenizer: decodes the tokens.
        offset: characters of the text before the sample's first token.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = self._released = offset
        self._held: deque[tuple[int, TokenLogprobs]] = deque()

    def push(self, burst: Burst) -> list[tuple[int, TokenLogprobs]]:
        """Return (offset, log-probabilities) of the tokens whose text is final with this burst."""
        for each in burst.logprobs:
            self._held.append((self._offset, each))
            self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(each.token)))
        self._released += len(burst.text)
        final: list[tuple[int, TokenLogprobs]] = []
        while self._held and (self._held[0][0] < self._released or burst.finish_reason in ("length", "end_of_text")):
            final.append(self._held.popleft())
        return final


def prompt_offsets(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Return the number of characters before each token."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, offset = [], 0
    for token in tokens:
        offsets.append(offset)
        offset += len(decoder.decode(tokenizer.token_bytes(token)))
    return offsets


def completion_logprobs(
    tokenizer: Tokenizer,
    entries: Iterable[tuple[int, TokenLogprobs]],
    prompt: tuple[Sequence[int], Sequence[TokenLogprobs]] | None = None,
) -> dict[str, Any]:
    """Return the field `logprobs` of a completion.

    Args:
        tokenizer: decodes the tokens.
        entries: (offset, log-probabilities) of generated tokens.
        prompt: the prompt's ids and their log-probabilities but the first's, to precede them.
    """
    result: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    if prompt is not None:
        ids, scores = prompt
        offsets = prompt_offsets(tokenizer, ids)
        result["tokens"].append(token_text(tokenizer, ids[0]))
        result["token_logprobs"].append(None)
        result["top_logprobs"].append(None)
        result["text_offset"].append(0)
        entries = [*zip(offsets[1:], scores, strict=True), *entries]
    for offset, each in entries:
        result["tokens"].append(token_text(tokenizer, each.token))
        result["token_logprobs"].append(_finite(each.logprob))
        result["top_logprobs"].append(_top(tokenizer, each))
        result["text_offset"].append(offset)
    return result


def _top(tokenizer: Tokenizer, each: TokenLogprobs) -> dict[str, float]:
    top: dict[str, float] = {}
    for token, logprob in (*each.top, (each.token, each.logprob)):
        text = token_text(tokenizer, token)
        top[text] = max(_finite(logprob), top.get(text, MIN_LOGPROB))
    return top


def chat_logprobs(tokenizer: Tokenizer, entries: Iterable[tuple[int, TokenLogprobs]]) -> dict[str, Any]:
    """Return the field `logprobs` of a chat completion."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        piece = list(tokenizer.token_bytes(token))
        return {"token": token_text(tokenizer, token), "logprob": _finite(logprob), "bytes": piece}

    content = [
        one(each.token, each.logprob) | {"top_logprobs": [one(*pair) for pair in each.top]} for _, each in entries
    ]
    return {"content": content, "refusal": None}


def prompt_logprobs(tokenizer: Tokenizer, tokens: Sequence[int], scores: Sequence[TokenLogprobs]) -> list[Any]:
    """Return the field `prompt_logprobs` as vLLM does: for each token the candidates by id, null for the first."""
    entries: list[Any] = [None]
    for token, each in zip(tokens[1:], scores, strict=True):
        ranked = {candidate: (logprob, rank) for rank, (candidate, logprob) in enumerate(each.top, start=1)}
        ranked.setdefault(token, (each.logprob, None))  # pyright: ignore[reportArgumentType]
        entries.append(
            {
                str(candidate): {
                    "logprob": _finite(logprob),
                    "rank": rank,
                    "decoded_token": token_text(tokenizer, candidate),
                }
                for candidate, (logprob, rank) in ranked.items()
            }
        )
    return entries
