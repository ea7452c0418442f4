"""What the arguments of several commands share. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from glassgpt.cli.generation_flags import Flags, LogitsProcessorFlags, whole
from glassgpt.cli.strategy_flags import StrategyFlags
from glassgpt.errors import UsageError

Texts = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""Arguments without a name, among which - stands for standard input."""
Overrides = Annotated[dict[str, str], Parameter(parse=False)]
"""Dotted settings (`--train.learning-rate 3e-4`), taken from the command line by `main`."""
GenerationArguments = Annotated[Flags, Parameter(name="*")]
"""The settings of a generation that were given, each an option of its own."""
StrategyArguments = Annotated[StrategyFlags, Parameter(name="*")]
"""The settings of a search or of speculation that were given."""
LogitsProcessorArguments = Annotated[LogitsProcessorFlags, Parameter(name="*")]
"""Those of them that shape the probabilities of a single token."""
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""An option without a value, off unless it is given."""
Integer = Annotated[int, Parameter(converter=whole)]
"""A whole number; one with a fraction is refused, not rounded."""
Run = Annotated[Path, Parameter(help="Folder of the run, made by glassgpt train or import.")]
Checkpoint = Annotated[str, Parameter(help="best, latest or step-NNNNNN.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="Where to run.")]
PresetOption = Annotated[
    str | None,
    Parameter(
        help="Ready settings by purpose (chat, code, creative, technical) or a TOML file with one's own; options win."
    ),
]


def reject_unknown_options(words: Sequence[str]) -> None:
    """Texts that begin like an option are none: who wrote them meant an option that does not exist."""
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):
            raise UsageError(f"unknown option {word}; see: glassgpt --help")
