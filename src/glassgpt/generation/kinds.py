"""Whether a value is what a type hint says, and how to say what is allowed. Free of torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

TYPE_NAMES: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path",
}  # fmt: skip
MANY = {int: "whole numbers", float: "numbers"}
NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
"""What counts as one: NumPy's numbers too, and a whole number where any is allowed. Truth does not."""


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; lists are taken for tuples, as a file has no others.

    Args:
        value: from a file or a caller.
        kind: a type hint: a plain type, `Literal`, `tuple`, `Mapping`, or several of them with `|`.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, (list, tuple)) and _all_fit(list(value), parts)  # pyright: ignore[reportUnknownArgumentType]
    if _is_mapping(origin):
        return isinstance(value, Mapping) and all(fits(number, parts[1]) for number in value.values())  # pyright: ignore[reportUnknownVariableType]
    if parts:  # a union
        return any(fits(value, part) for part in parts)
    return isinstance(value, NUMBERS.get(kind, kind)) and (kind is bool or not isinstance(value, bool))


def _all_fit(values: list[Any], parts: tuple[Any, ...]) -> bool:
    kinds = parts[:1] * len(values) if parts[-1] is Ellipsis else parts
    return len(values) == len(kinds) and all(map(fits, values, kinds))


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def allowed(kind: Any) -> str:
    """What is allowed, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(parts)
    if origin is tuple:
        each = [allowed(part) for part in parts if part is not Ellipsis]
        return f"a list of {MANY.get(parts[0], each[0])}" if parts[-1] is Ellipsis else f"[{', '.join(each)}]"
    if _is_mapping(origin):
        return "a table of numbers by text, or by #id"
    return TYPE_NAMES.get(kind) or " or ".join(allowed(part) for part in parts if part is not type(None))


def type_errors(options: object, kinds: Mapping[str, Any]) -> list[str]:
    """Attributes whose values are not of their kind: a line each, with what is allowed."""
    values = {name: getattr(options, name) for name in kinds}
    return [
        f"{name} is {value!r}; allowed is {allowed(kinds[name])}"
        for name, value in values.items()
        if not fits(value, kinds[name])
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Did-you-mean for a name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
