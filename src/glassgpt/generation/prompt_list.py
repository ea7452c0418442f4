"""The prompts of a command: their texts, and where they were given. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glassgpt.generation.engine.prompt import Prompt

SHOWN_UNREADABLE = 2
"""Lines of a file that are named if they cannot be read; others are counted."""


@dataclass(frozen=True)
class PromptList:
    """Prompts that are generated together.

    Attributes:
        texts: None begins a document.
        lines: line of the prompts file, counted from 1, by index in `texts`; those given otherwise are absent.
        file: name of that file, for messages.
        unreadable: messages about lines of the file that cannot be read.
        inputs: what the model gets instead of the texts, as ids, where these have pictures or sound; empty if none has.
    """

    texts: Sequence[str | None]
    lines: Mapping[int, int] = field(default_factory=dict[int, int])
    file: str = ""
    unreadable: Sequence[str] = ()
    inputs: Sequence[Prompt] = ()

    @property
    def given(self) -> Sequence[Prompt]:
        """The prompts as the model gets them."""
        return self.inputs or self.texts

    @property
    def problems(self) -> Sequence[str]:
        """Messages about the first unreadable lines, and the number of the others if there are several."""
        if (more := len(self.unreadable) - SHOWN_UNREADABLE) <= 1:
            return self.unreadable
        return [*self.unreadable[:SHOWN_UNREADABLE], f"{self.file}: {more:,} more lines are not UTF-8"]

    def name(self, index: int) -> str:
        """Return where a prompt was given, for a message about it."""
        if index in self.lines:
            return f"{self.file}, line {self.lines[index]}"
        return f"prompt {index + 1} of {len(self.texts)}"
