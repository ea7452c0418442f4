"""`regex`, `choices`, `json_schema`: the whole output matches a pattern or schema (extra: structured); see `constrained.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import CONTENT, LogitsProcessor, ProcessorOptions
from glassgpt.schema import setting

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer


def _read_schema(text: str) -> str:
    """Return JSON text as given, or the contents of the file that a path names."""
    if text.lstrip().startswith("{"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{text!r} cannot be read: {error}") from error


@dataclass(frozen=True)
class ConstraintOptions(ProcessorOptions):
    """Settings of constrained output."""

    regex: str | None = setting(
        None, help="Make the whole output match this regular expression (extra: structured).", group=CONTENT
    )
    choices: tuple[str, ...] = setting(
        (),
        help="Make the output one of these texts (extra: structured).",
        group=CONTENT,
        is_valid=all,
        must_be="a list of strings that are not empty",
        flag="choice",
        flag_help="may be repeated",
    )
    json_schema: str | None = setting(
        None,
        help="Make the output JSON that follows this JSON schema, given as JSON text (extra: structured).",
        group=CONTENT,
        flag_help="a path is read as a file",
        metavar="a JSON object or the path of a readable file",
        from_text=_read_schema,
    )

    def conflicts(self) -> Iterator[str]:
        """Yield a message if several constraints are given."""
        if (self.regex is not None) + bool(self.choices) + (self.json_schema is not None) > 1:
            yield "regex, choices and json_schema cannot be combined; give only one of them"

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the constraint, if there is one."""
        if self.regex is None and not self.choices and self.json_schema is None:
            return
        from glassgpt.generation import constrained

        if self.regex is not None:
            yield LogitsProcessor("regex", constrained.regex_constraint(self.regex, tokenizer))
        if self.choices:
            yield LogitsProcessor("choices", constrained.choices_constraint(self.choices, tokenizer))
        if self.json_schema is not None:
            yield LogitsProcessor("json_schema", constrained.json_schema_constraint(self.json_schema, tokenizer))
