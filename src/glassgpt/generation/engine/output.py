"""Output of the engine: chunks while a text grows, samples when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.engine.streaming import TextStream
from glassgpt.generation.options import GenerationOptions

FinishReason = Literal["length", "stop", "end_of_text"]
"""`length`: max_tokens or the context is used up. `stop`: a stop string or stop token. `end_of_text`: that token."""


@dataclass(slots=True)
class TokenChunk:
    """A new token of a sample and the text that became final with it.

    Attributes:
        request: the request's id, as returned by `Engine.submit`.
        index: the sample's index within its request.
        token: the token's id.
        text: the text that is now final; often a word, sometimes empty.
        finish_reason: set in the sample's last chunk, None before.
        logprobs: the token's log-probabilities, if the request asks for them.
    """

    request: int
    index: int
    token: int
    text: str
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None


@dataclass
class Sample:
    """One continuation of a prompt.

    Attributes:
        index: its index within its request.
        text: the continuation without the prompt, cut before a stop string.
        tokens: the generated token ids, including those of a stop string and a stop token, excluding end-of-text.
        finish_reason: see `FinishReason`.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason = "length"

    def add(self, chunk: TokenChunk) -> None:
        """Append a chunk."""
        self.text += chunk.text
        if chunk.finish_reason != "end_of_text":
            self.tokens.append(chunk.token)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason


@dataclass(frozen=True)
class Completion:
    """A prompt with all its samples.

    Attributes:
        index: position of the prompt in the list that was given.
        prompt: as given; None began a document.
        samples: the continuations, one unless `num_samples` or a strategy asks for several.
    """

    index: int
    prompt: str | None
    samples: list[Sample]

    @property
    def text(self) -> str:
        """The text of the first sample."""
        return self.samples[0].text


class SampleCollector:
    """Collects chunks of several requests until all samples of a request are complete.

    Args:
        n_requests: number of requests, which chunks refer to by index.
        n_samples: samples of each.
    """

    def __init__(self, n_requests: int, n_samples: int) -> None:
        self._samples = [[Sample(index) for index in range(n_samples)] for _ in range(n_requests)]
        self._n_missing = [n_samples] * n_requests

    def add(self, chunk: TokenChunk) -> tuple[int, list[Sample]] | None:
        """Add a chunk; return the request's index and samples if it was the last one of the request."""
        samples = self._samples[chunk.request]
        samples[chunk.index].add(chunk)
        self._n_missing[chunk.request] -= chunk.finish_reason is not None
        return (chunk.request, samples) if self._n_missing[chunk.request] == 0 else None


class OutputStream:
    """Turns a sample's tokens into text and detects its end.

    Args:
        tokenizer: decodes the tokens.
        options: stop strings and tokens.
        ignore_end: end-of-text neither ends the text nor appears in it.
    """

    def __init__(self, tokenizer: Tokenizer, options: GenerationOptions, *, ignore_end: bool = False) -> None:
        self._text = TextStream(tokenizer, options.stop, options.min_tokens)
        self._end_tokens: dict[int, FinishReason] = {
            **dict.fromkeys(options.stop_tokens, "stop"),
            **({} if ignore_end else {tokenizer.end_of_text: "end_of_text"}),
        }
        self._silent = tokenizer.end_of_text if ignore_end else None

    def push(self, token: int, *, is_full: bool) -> tuple[str, FinishReason | None]:
        """Add a token; return the text that is now final, and the finish reason if the sample ends here.

        Args:
            token: the next token.
            is_full: whether the sample may get no further token.
        """
        if token in self._end_tokens:
            return self._text.finish(), self._end_tokens[token]
        text = "" if token == self._silent else self._text.push(token)
        if self._text.stopped:
            return text, "stop"
        if is_full:
            return text + self._text.finish(), "length"
        return text, None


def sample_from_tokens(tokenizer: Tokenizer, options: GenerationOptions, index: int, tokens: Sequence[int]) -> Sample:
    """Return the sample of a complete token list, which includes the token that ended it."""
    sample, stream = Sample(index), OutputStream(tokenizer, options)
    for count, token in enumerate(tokens, start=1):
        text, reason = stream.push(token, is_full=count == len(tokens))
        sample.add(TokenChunk(0, index, token, text, reason))
    return sample
