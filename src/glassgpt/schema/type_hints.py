"""Check, convert and describe values by type hints: classes, `Literal`, `tuple`, `Mapping`, and unions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

TYPE_NAMES: dict[Any, str] = {
    int: "an integer", float: "a number", str: "a string", bool: "true or false", Path: "a path",
}  # fmt: skip
PLURALS: dict[Any, str] = {int: "integers", float: "numbers", str: "strings", Path: "paths"}
NUMBERS: dict[Any, Any] = {int: Integral, float: Real}
"""Abstract types that NumPy's numbers satisfy too. An integer is a number; a bool is neither."""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def matches(value: Any, kind: Any) -> bool:
    """Return whether a value has a type. Lists pass for tuples.

    Args:
        value: from a file or a caller.
        kind: a type hint: a class, `Literal`, `tuple`, `Mapping`, or a union of them; `object` is anything.
    """
    return predicate_of(kind)(value)


@cache
def predicate_of(kind: Any) -> Callable[[Any], bool]:
    """Return a function that checks a value; reading a type hint takes longer than checking a value."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is object:
        return lambda value: True
    if origin is Literal:
        return lambda value: value in parts
    if origin is tuple and parts[-1] is Ellipsis:
        return _list_predicate(parts[0])
    if origin is tuple:
        return _tuple_predicate([predicate_of(part) for part in parts])
    if is_mapping(kind):
        has_key, has_value = map(predicate_of, parts)
        return lambda value: (
            isinstance(value, Mapping)
            and all(has_key(key) and has_value(each) for key, each in cast("Mapping[Any, Any]", value).items())
        )
    if parts:
        members = [predicate_of(part) for part in parts]
        return lambda value: any(member(value) for member in members)
    allowed = NUMBERS.get(kind, kind)
    return lambda value: (
        type(value) is kind or (isinstance(value, allowed) and (kind is bool or not isinstance(value, bool)))
    )


def _list_predicate(kind: Any) -> Callable[[Any], bool]:
    is_member = predicate_of(kind)
    usual = frozenset((kind,)) if isinstance(kind, type) else frozenset[Any]()

    def check(value: Any) -> bool:
        # A prompt has a thousand ids: asking for their types alone is fast.
        return isinstance(value, (list, tuple)) and (
            usual.issuperset(map(type, cast("Sequence[Any]", value))) or all(map(is_member, value))
        )

    return check


def _tuple_predicate(members: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, (list, tuple)):
            return False
        values = cast("Sequence[Any]", value)
        return len(values) == len(members) and all(member(each) for member, each in zip(members, values, strict=True))

    return check


def is_mapping(kind: Any) -> bool:
    """Return whether a type hint is a `Mapping[…]`."""
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def describe_type(kind: Any) -> str:
    """Return a type hint in words: "an integer", "a list of strings", "stop or re-prefill"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple and parts[-1] is Ellipsis:
        if is_mapping(parts[0]):
            return "a list of tables"
        return f"a list of {PLURALS.get(parts[0]) or describe_type(parts[0]) + ' pairs'}"
    if origin is tuple:
        return f"[{', '.join(describe_type(part).removeprefix('an ').removeprefix('a ') for part in parts)}]"
    if is_mapping(kind):
        return f"a table of {PLURALS.get(parts[1], 'values')}"
    words = [word for each in alternatives(kind) for word in _words(each)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _words(kind: Any) -> tuple[str, ...]:
    if kind is NoneType:
        return ()
    if get_origin(kind) is Literal:
        return get_args(kind)
    return ("true", "false") if kind is bool else (TYPE_NAMES.get(kind) or describe_type(kind),)


def is_number(value: Any) -> bool:
    """Return whether a value is a number. Python counts True as 1; as a setting it is not a number."""
    # The usual types first: asking for Real takes longer.
    return type(value) in (int, float) or (not isinstance(value, bool) and isinstance(value, Real))


@cache
def normalizer_of(kind: Any) -> Callable[[Any], Any]:
    """Return a function that converts a value that matches a type: integers to floats where only those are allowed, lists
    to tuples.
    """
    kinds = alternatives(kind)
    if kind is object:
        return lambda value: value

    def convert(value: Any) -> Any:
        if type(value) in kinds:
            return value
        if isinstance(value, (list, tuple, Mapping)):
            return _container_normalizer(next(each for each in kinds if matches(value, each)))(value)
        if is_number(value):
            return int(value) if int in kinds and isinstance(value, Integral) else float(value)
        return value

    return convert


@cache
def _container_normalizer(kind: Any) -> Callable[[Any], Any]:
    parts = get_args(kind)
    if is_mapping(kind):
        normalize_value = normalizer_of(parts[1])
        return lambda value: {key: normalize_value(each) for key, each in value.items()}
    if parts[-1] is Ellipsis:
        member, usual = normalizer_of(parts[0]), frozenset(parts[:1])
        return lambda value: tuple(value if usual.issuperset(map(type, value)) else map(member, value))
    members = [normalizer_of(part) for part in parts]
    return lambda value: tuple(member(each) for member, each in zip(members, value, strict=True))
