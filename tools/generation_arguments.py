"""Write `glassgpt/generation/arguments.py` from the schema: `make arguments`.

Type checkers and editors do not run code, so the keyword arguments of `generate` have to stand in a file. A test
compares the file with the schema.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import wrap

from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import GROUPS
from glassgpt.schema import Setting, settings_of

FILE = Path(__file__).parents[1] / "src" / "glassgpt" / "generation" / "arguments.py"
HEADER = '''"""Keyword arguments of the functions that generate text, for editors and type checkers.

Written by `make arguments` from the settings of `GenerationOptions`; change those instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from glassgpt.generation.processors.base import ProcessorFunction


class GenerationArguments(TypedDict, total=False):
    """The settings of `GenerationOptions` as keyword arguments; those that are left out have its defaults."""
'''


def source() -> str:
    """Return the content of the file."""
    annotations = _annotations(GenerationOptions)
    settings = sorted(settings_of(GenerationOptions), key=lambda each: GROUPS.index(each.details.group))
    return HEADER + "".join(_key(each, annotations[each.name]) for each in settings)


def _key(each: Setting, annotation: str) -> str:
    expected = each.expected[0].upper() + each.expected[1:]
    lines = "\n".join(
        wrap(
            f'"""{expected}, by default {each.default!r}. {each.help}"""',
            120,
            initial_indent="    ",
            subsequent_indent="    ",
        )
    )
    return f"\n    {each.name}: {_accepted(annotation)}\n{lines}\n"


def _accepted(annotation: str) -> str:
    """Return what a caller may pass for a declared type, as the check at run time allows.

    A list passes for a tuple of any length. Not any `Sequence`, which a string is too: `stop="end"` would be read letter
    by letter. The keys of a mapping may be of one type only, which `Mapping[int | str, …]` alone does not accept.
    """
    annotation = annotation.replace("'", '"')
    if variadic := re.fullmatch(r"tuple\[(.*), \.\.\.\]", annotation):
        return f"{annotation} | list[{variadic[1]}]"
    if mapping := re.fullmatch(r"Mapping\[(\w+) \| (\w+), (\w+)\]", annotation):
        return " | ".join(f"Mapping[{key}, {mapping[3]}]" for key in (mapping[1], mapping[2])) + f" | {annotation}"
    return annotation


def _annotations(component: type) -> dict[str, str]:
    """Return the annotations of a class and its bases as they are written."""
    found: dict[str, str] = {}
    for base in reversed(component.__mro__):
        found |= vars(base).get("__annotations__", {})
    return found


if __name__ == "__main__":
    FILE.write_text(source(), encoding="utf-8")
