"""What is being written: a request asks for samples of one prompt, a row is one of them on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

from glassgpt.generation.options import GenerationOptions, TokenHistory
from glassgpt.generation.processors import LogitsProcessor


@dataclass(frozen=True, eq=False)
class Request:
    """Some continuations of one prompt.

    Attributes:
        id: what its results are told apart by.
        prompt: its tokens.
        options: how they are written.
        processors: what the options make of logits.
        seed: of the noise.
        limit: most tokens a row may draw.
    """

    id: int
    prompt: tuple[int, ...]
    options: GenerationOptions
    processors: tuple[LogitsProcessor, ...]
    seed: int
    limit: int


@dataclass(eq=False)
class SequenceState:
    """One sample on its way.

    Attributes:
        request: what it belongs to.
        index: which of the request's samples it is.
        drawn: its tokens so far.
        forgotten: tokens at its beginning that the model no longer sees, because the context was full.
        stay: counts its stays in the cache; what was drawn in an earlier one is not its any more.
        done: whether it is complete.
    """

    request: Request
    index: int
    drawn: list[int] = field(default_factory=list[int])
    forgotten: int = 0
    stay: int = 0
    done: bool = False

    @property
    def history(self) -> TokenHistory:
        """Prompt and output, as processors see them."""
        return TokenHistory(self.request.prompt, self.drawn)

    @property
    def visible(self) -> list[int]:
        """What the model is to see: all of prompt and output that is not forgotten."""
        return [*self.request.prompt, *self.drawn][self.forgotten :]

    @property
    def n_visible(self) -> int:
        """How many tokens that is."""
        return self.position - self.forgotten

    @property
    def last(self) -> int:
        """The newest token, which the model has yet to see."""
        return self.drawn[-1] if self.drawn else self.request.prompt[-1]

    @property
    def position(self) -> int:
        """Where in its text the next token will stand."""
        return len(self.request.prompt) + len(self.drawn)

    @property
    def is_full(self) -> bool:
        """Whether it has drawn all that it may."""
        return len(self.drawn) >= self.request.limit


def dropped_at(position: int, forgotten: int, capacity: int) -> int:
    """How many tokens at a text's beginning are not seen any more when the one at `position` is drawn.

    Args:
        position: how long the text is.
        forgotten: how many were not seen when the one before was drawn.
        capacity: most tokens in view; where there would be more, half of that is kept.
    """
    return forgotten if position - forgotten <= capacity else position - max(1, capacity // 2)
