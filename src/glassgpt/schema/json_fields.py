"""Dataclasses of what files hold, such as the counts of a dataset, from JSON that somebody may have edited. Free of torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_type_hints

from glassgpt.schema.type_hints import describe_type, is_mapping, matches, normalizer_of

T = TypeVar("T")
END = 1 << 63
"""No number of things on disk is as large."""


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        ValueError: it holds none; the message continues after the name of the file.
    """
    try:
        found: Any = json.loads(raw)
    except RecursionError:
        raise ValueError("its content is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("its content must be an object of JSON")
    return cast("dict[str, Any]", found)


def from_json(kind: type[T], given: object, name: str = "", *, may_lack_defaults: bool = False) -> T:
    """Return a dataclass from JSON values, which must have its types; its integers are counts and ids, so at least 0.

    Args:
        kind: the dataclass; its fields may be dataclasses too.
        given: an object of JSON, with all fields and no others.
        name: of the field that holds it, for messages; empty at the top.
        may_lack_defaults: fields with a default may be left out, as earlier versions did.

    Raises:
        ValueError: it is none; the message continues after the name of the file.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"the value {name} must be an object" if name else "its content must be an object of JSON")
    fields = cast("Mapping[str, Any]", given)
    hints, place = _hints(kind), f"{name}." if name else ""
    own = {each.name: each for each in dataclasses.fields(cast("Any", kind))}
    if unknown := next((each for each in fields if each not in own), None):
        raise ValueError(f"it has the unknown value {place + unknown}")
    for each in own.values():
        may_lack = may_lack_defaults and each.default is not dataclasses.MISSING
        if each.name not in fields and not may_lack:
            raise ValueError(f"it lacks the value {place + each.name}")
    return kind(**{each: _value(hints[each], value, place + each, may_lack_defaults) for each, value in fields.items()})


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, value: Any, name: str, may_lack_defaults: bool) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(cast("type[object]", kind), value, name, may_lack_defaults=may_lack_defaults)
    if is_mapping(kind) and get_args(kind)[1] is Any:
        if not isinstance(value, dict):
            raise ValueError(f"the value {name} must be an object")
        return value
    if not matches(value, kind):
        raise ValueError(f"the value {name} must be {describe_type(kind)}")
    if not _counts(value):
        raise ValueError(f"the value {name} must be from 0 to {END - 1}")
    return normalizer_of(kind)(value)


def _counts(value: Any) -> bool:
    """Return whether all integers in a value are from 0 to END - 1."""
    if isinstance(value, int):
        return 0 <= value < END
    if isinstance(value, Mapping):
        return all(map(_counts, cast("Mapping[str, Any]", value).values()))
    return all(map(_counts, cast("list[Any]", value))) if isinstance(value, list | tuple) else True
