"""`processors`: custom functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.errors import GenerationFailedError
from glassgpt.generation.processors.base import (
    CONTENT,
    LogitsProcessor,
    ProcessorFunction,
    ProcessorOptions,
    TokenHistory,
)
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer

PARAMETERS = ("logits", "histories")
"""Arguments of a function, by position."""


@dataclass(frozen=True)
class CustomProcessorOptions(ProcessorOptions):
    """Settings for custom processors."""

    processors: tuple[ProcessorFunction, ...] = setting(
        (),
        help="Functions from logits and histories to logits, applied before the temperature; Python only.",
        group=CONTENT,
        must_be="a list of functions",
        python_only=True,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield each function under its name."""
        for function in self.processors:
            yield _checked(function)


def _never(history: TokenHistory) -> bool:
    return False


@dataclass(frozen=True)
class CustomProcessor(LogitsProcessor):
    """A custom function as a processor.

    Attributes:
        is_over: whether the function leaves all further logits of a sequence as they are; it stays so then, and a decoder need
            not call it for this sequence any more. That of the function, if it has such a method.
    """

    is_over: Callable[[TokenHistory], bool] = _never


def _checked(function: ProcessorFunction) -> CustomProcessor:
    """Return a processor that validates what the function returns."""
    name = getattr(function, "__name__", type(function).__name__)

    def apply(logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        result = function(logits.clone(), histories)  # a copy, because the function may write to it
        _require_logits(name, result, logits)
        return result

    return CustomProcessor(name, apply, is_over=getattr(function, "is_over", _never))


def _require_logits(name: str, result: object, logits: Tensor) -> None:
    from torch import Tensor

    if not isinstance(result, Tensor) or result.shape != logits.shape or not result.is_floating_point():
        what = f"a tensor {tuple(result.shape)} of {result.dtype}" if isinstance(result, Tensor) else repr(result)
        raise GenerationFailedError(
            f"the processor {name} returned {what}; it must return logits, {tuple(logits.shape)} of {logits.dtype}"
        )
    if bool(result.isnan().any()):
        raise GenerationFailedError(f"the processor {name} returned NaN logits")
