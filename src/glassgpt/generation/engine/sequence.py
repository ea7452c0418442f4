"""The state of generation: a request asks for samples of one prompt, a sequence is one of these samples."""

from __future__ import annotations

from dataclasses import dataclass, field

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import LogitsProcessor, TokenHistory


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt to continue with one or more samples.

    Attributes:
        id: identifies the request in the engine's output.
        prompt: token ids.
        options: generation options.
        processors: logits processors built from the options.
        seed: seed of the sampling noise.
        max_new_tokens: most tokens that each sequence may get.
        end_of_text: id of the token that ends a text; -1 if there is none, or if it should not end this one.
        logprobs: number of the most probable tokens to report with each token's log-probability; None reports nothing.
        adapter: name of the adapter of the weights that generates it, where the decoder has several; empty for none.
    """

    id: int
    prompt: tuple[int, ...]
    options: GenerationOptions
    processors: tuple[LogitsProcessor, ...]
    seed: int
    max_new_tokens: int
    end_of_text: int = -1
    logprobs: int | None = None
    adapter: str = ""


@dataclass(eq=False)
class SequenceState:
    """The state of one sample during generation.

    Attributes:
        request: the request that it belongs to.
        index: its index among the request's samples.
        output_ids: the tokens generated so far.
        n_dropped: leading tokens that no longer fit the context and that the model does not see any more.
        n_evictions: how often it lost its cache slot; tokens computed in an earlier slot are stale.
        is_finished: True once it needs no more tokens.
        logprobs: log-probabilities of the newest token, if the request asks for them.
    """

    request: Request
    index: int
    output_ids: list[int] = field(default_factory=list[int])
    n_dropped: int = 0
    n_evictions: int = 0
    is_finished: bool = False
    logprobs: TokenLogprobs | None = None

    @property
    def history(self) -> TokenHistory:
        """Prompt and output, as logits processors see them."""
        return TokenHistory(self.request.prompt, self.output_ids)

    @property
    def visible_ids(self) -> list[int]:
        """The tokens in the model's context: prompt and output without the dropped tokens."""
        return [*self.request.prompt, *self.output_ids][self.n_dropped :]

    @property
    def n_visible(self) -> int:
        """Number of tokens in the model's context."""
        return self.position - self.n_dropped

    @property
    def last_token(self) -> int:
        """The newest token; the model has not processed it yet."""
        return self.output_ids[-1] if self.output_ids else self.request.prompt[-1]

    @property
    def position(self) -> int:
        """Position of the next token, counted from the start of the prompt."""
        return len(self.request.prompt) + len(self.output_ids)

    @property
    def is_full(self) -> bool:
        """True if it has reached its maximum number of tokens."""
        return len(self.output_ids) >= self.request.max_new_tokens

    def fit_context(self, capacity: int) -> bool:
        """Drop leading tokens if the context is full; return whether any were dropped."""
        if self.n_visible <= capacity:
            return False
        self.n_dropped = dropped_at(self.position, self.n_dropped, capacity)
        return True


def dropped_at(position: int, dropped: int, capacity: int) -> int:
    """Return how many leading tokens the model does not see when it predicts the token at `position`.

    Args:
        position: number of tokens before it.
        dropped: how many were not seen for the token before.
        capacity: tokens that fit into the context; where there would be more, the last half of it is kept.
    """
    return dropped if position - dropped <= capacity else position - max(1, capacity // 2)
