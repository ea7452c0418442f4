"""`processors`: custom functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def _checked(function: ProcessorFunction) -> LogitsProcessor:
    """Return a processor that validates what the function returns."""
    name = getattr(function, "__name__", type(function).__name__)

    def apply(logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        result = function(logits.clone(), histories)  # a copy, because the function may write to it
        _require_logits(name, result, logits)
        return result

    return LogitsProcessor(name, apply)


def _require_logits(name: str, result: object, logits: Tensor) -> None:
    from torch import Tensor

    if not isinstance(result, Tensor) or result.shape != logits.shape or not result.is_floating_point():
        what = f"a tensor {tuple(result.shape)} of {result.dtype}" if isinstance(result, Tensor) else repr(result)
        raise GenerationFailedError(
            f"the processor {name} returned {what}; it must return logits, {tuple(logits.shape)} of {logits.dtype}"
        )
    if bool(result.isnan().any()):
        raise GenerationFailedError(f"the processor {name} returned NaN logits")
