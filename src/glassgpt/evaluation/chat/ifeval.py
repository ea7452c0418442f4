"""IFEval (Zhou et al. 2023): prompts with instructions that a program can check. Free of torch.

Strict: the reply as it is. Loose: an instruction is also followed if it is after removing the first line, the last line,
both, or all asterisks, so that an introduction ("Sure, here it is:") or bold type does not count as a failure. A prompt is
followed if all its instructions are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from glassgpt.errors import WrongDataError
from glassgpt.evaluation.chat.instructions import CHECKS
from glassgpt.evaluation.chat.rows import read_rows, text_of
from glassgpt.schema import describe_type, did_you_mean, matches


@dataclass(frozen=True)
class Instruction:
    """One instruction of a prompt.

    Attributes:
        name: a key of `CHECKS`.
        arguments: for its function.
    """

    name: str
    arguments: Mapping[str, Any]

    def is_followed(self, reply: str) -> bool:
        """Return whether a reply follows it; an empty reply follows nothing."""
        return bool(reply.strip()) and CHECKS[self.name](reply, **self.arguments)


@dataclass(frozen=True)
class InstructedPrompt:
    """A prompt of the benchmark.

    Attributes:
        text: the user's message.
        instructions: in it, at least one.
    """

    text: str
    instructions: tuple[Instruction, ...]

    def followed(self, reply: str, *, loose: bool = False) -> list[bool]:
        """Return for each instruction whether a reply follows it."""
        versions = loose_versions(reply) if loose else [reply]
        return [any(each.is_followed(version) for version in versions) for each in self.instructions]


def loose_versions(reply: str) -> list[str]:
    """Return a reply, and what remains without its first line, its last line and both, each also without asterisks."""
    lines = reply.split("\n")
    cut = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def load_ifeval(path: Path) -> list[InstructedPrompt]:
    """Return the prompts in a JSONL file with the fields `prompt`, `instruction_id_list` and `kwargs`.

    Raises:
        DataError: the file cannot be read, or a row is not a prompt of IFEval; names the line.
    """
    return [_prompt(row, origin) for row, origin in read_rows(path)]


def _prompt(row: dict[str, object], origin: str) -> InstructedPrompt:
    text = text_of(row, "prompt", origin)
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(arguments, list) or not names or len(names) != len(arguments):
        raise WrongDataError(
            f"{origin}: instruction_id_list and kwargs must be lists of the same length; this is not a prompt of IFEval"
        )
    pairs = zip(cast("list[object]", names), cast("list[object]", arguments), strict=True)
    return InstructedPrompt(text, tuple(_instruction(name, given, origin) for name, given in pairs))


def _instruction(name: object, given: object, origin: str) -> Instruction:
    if not isinstance(name, str) or name not in CHECKS:
        raise WrongDataError(f"{origin}: unknown instruction {name}{did_you_mean(str(name), list(CHECKS))}")
    if not isinstance(given, dict):
        raise WrongDataError(f"{origin}: the arguments of {name} must be an object, not {given!r:.40}")
    # Some versions of the file name every argument of every instruction, with null where it does not apply.
    arguments = {key: value for key, value in cast("dict[str, Any]", given).items() if value is not None}
    hints = get_type_hints(CHECKS[name])
    wanted = [each for each in inspect.signature(CHECKS[name]).parameters if each != "reply"]
    if sorted(arguments) != sorted(wanted):
        raise WrongDataError(
            f"{origin}: {name} takes {', '.join(wanted) or 'no arguments'}, not {', '.join(arguments) or 'none'}"
        )
    for key, value in arguments.items():
        if not matches(value, hints[key]):
            raise WrongDataError(f"{origin}: {key} of {name} must be {describe_type(hints[key])}, not {value!r:.40}")
    return Instruction(name, arguments)
