"""Base classes of options and logits processors. Free of torch, like every processor's file.

A processor's file declares its settings in a frozen dataclass derived from `ProcessorOptions` and builds the
processor in `build`. Its line in `registry` adds it to `GenerationOptions`, and with that to Python arguments,
command-line flags, presets, traces and the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from glassgpt.errors import GenerationError
from glassgpt.schema import range_errors, type_errors

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer

LENGTH = "Length and stopping"
SAMPLING = "Sampling"
REPETITION = "Repetition"
CONTENT = "Words and format"
OUTPUT = "Prompt and output"
GROUPS = (LENGTH, SAMPLING, REPETITION, CONTENT, OUTPUT)
"""Headings of the settings in help and documentation, in order."""

BEAM_SEARCH: str = "beam search"
CONTRASTIVE_SEARCH: str = "contrastive search"
SEARCHES_DO_NOT_SAMPLE: dict[str, str] = {BEAM_SEARCH: "it does not sample", CONTRASTIVE_SEARCH: "it does not sample"}
"""For the settings that shape sampling alone; see `schema.setting`."""


@dataclass(frozen=True)
class TokenHistory:
    """The tokens of one sequence so far, as logits processors see them.

    Attributes:
        prompt: ids of the prompt; those beyond the vocabulary stand for positions of pictures and sound.
        output: ids generated so far.
    """

    prompt: Sequence[int]
    output: Sequence[int]


@runtime_checkable
class ProcessorFunction(Protocol):
    """Maps logits to logits."""

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        """Return the processed logits, (B, V).

        Args:
            logits: (B, V) float32; a forbidden token gets minus infinity.
            histories: one for each sequence of the batch.
        """
        ...


@dataclass(frozen=True)
class LogitsProcessor:
    """A logits processor and the name under which settings, traces and errors refer to it.

    Attributes:
        name: of its setting.
        apply: the function.
        reads_history: whether the function depends on the sequences' tokens; one that does not can be captured in a
            CUDA graph.
    """

    name: str
    apply: ProcessorFunction
    reads_history: bool = True


class CheckedOptions:
    """Base of dataclasses whose fields are declared with `schema.setting`."""

    def conflicts(self) -> Iterator[str]:
        """Yield a message for each combination of values that is not allowed."""
        yield from ()

    def check(self) -> None:
        """Validate all values.

        Raises:
            GenerationError: lists every value of the wrong type; if there is none, every value out of range and every
                conflict.
        """
        # Types first: a single string where a list is expected would be read letter by letter.
        if errors := type_errors(self) or [*range_errors(self), *self.conflicts()]:
            raise GenerationError("\n".join(errors))


class ProcessorOptions(CheckedOptions):
    """Base of a logits processor's settings."""

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the processors for these settings; none if they change nothing.

        Args:
            tokenizer: the model's, to turn words into tokens.
        """
        yield from ()

    def named_tokens(self) -> Iterator[tuple[str, int]]:
        """Yield the token ids that settings name, each with the setting's name; they must be in the vocabulary."""
        yield from ()
