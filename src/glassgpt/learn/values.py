"""Compare results of a student's code: numbers, tensors, arrays, texts, and sequences and dictionaries of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

SHOWN_CHARACTERS = 200
"""Longest description of a value."""


@dataclass(frozen=True)
class Raised:
    """An exception in place of a result: two of the same type are equal."""

    kind: str


@dataclass(frozen=True)
class Difference:
    """The first difference between two values.

    Attributes:
        expected: description of the expected value.
        received: description of the other one.
        place: its index, such as `[0, 2]`; empty for the whole value.
        share: how many numbers of a tensor or array differ, such as "3/12".
    """

    expected: str
    received: str
    place: str = ""
    share: str = ""


def difference(expected: Any, received: Any, tolerance: float, place: str = "") -> Difference | None:
    """Return the first difference between two values, or None if they are equal.

    Numbers may differ by `tolerance`, absolutely and relative to the expected one; NaN equals NaN. The precision of
    numbers does not matter, but their kind does: integers, floating-point numbers and truth values differ. A number
    equals a tensor without dimensions, a list a tuple.
    """
    if _is_numeric(expected):
        return _numeric_difference(expected, received, tolerance, place)
    if isinstance(expected, Mapping):
        return _mapping_difference(cast(Mapping[Any, Any], expected), received, tolerance, place)
    if isinstance(expected, list | tuple):
        return _sequence_difference(cast(Sequence[Any], expected), received, tolerance, place)
    if type(expected) is type(received) and expected == received:
        return None
    return Difference(describe(expected), describe(received), place)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, bool | int | float | np.generic | np.ndarray | torch.Tensor)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
    return np.asarray(value)


def _kind(array: np.ndarray[Any, Any]) -> str:
    kind: str = array.dtype.kind
    return "i" if kind in "uO" else kind  # integers beyond 64 bits are objects


def _numeric_difference(expected: Any, received: Any, tolerance: float, place: str) -> Difference | None:
    whole = Difference(describe(expected), describe(received), place)
    if not _is_numeric(received):
        return whole
    one, other = _as_array(expected), _as_array(received)
    if one.shape != other.shape or _kind(one) != _kind(other):
        return whole
    if one.size == 0:
        return None
    if _kind(one) == "f":
        one, other = one.astype(np.float64), other.astype(np.float64)
        equal = np.isclose(other, one, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        equal = np.asarray(one == other)
    if bool(equal.all()):
        return None
    if one.ndim == 0:
        return whole
    share = f"{int((~equal).sum())}/{equal.size}"
    index = tuple(int(each) for each in np.argwhere(~equal)[0])
    return Difference(_number(one[index]), _number(other[index]), f"{place}[{', '.join(map(str, index))}]", share)


def _mapping_difference(expected: Mapping[Any, Any], received: Any, tolerance: float, place: str) -> Difference | None:
    if not isinstance(received, Mapping) or set(cast(Mapping[Any, Any], received)) != set(expected):
        return Difference(describe(expected), describe(received), place)
    for key, value in expected.items():
        if found := difference(value, received[key], tolerance, f"{place}[{key!r}]"):
            return found
    return None


def _sequence_difference(expected: Sequence[Any], received: Any, tolerance: float, place: str) -> Difference | None:
    if not isinstance(received, list | tuple) or len(cast(Sequence[Any], received)) != len(expected):
        return Difference(describe(expected), describe(received), place)
    for i, (one, other) in enumerate(zip(expected, cast(Sequence[Any], received), strict=True)):
        if found := difference(one, other, tolerance, f"{place}[{i}]"):
            return found
    return None


def _number(value: Any) -> str:
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, float):
        return str(number)
    return f"{number:.6g}" if math.isfinite(number) else str(number)


def describe(value: Any) -> str:
    """Describe a value in one line: small ones themselves, of a tensor or array its type and shape."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return " ".join(("Tensor", str(tuple(value.shape)), str(value.dtype).removeprefix("torch.")))
    if isinstance(value, np.ndarray) and value.ndim:
        return " ".join(("ndarray", str(value.shape), str(value.dtype)))
    if isinstance(value, Raised):
        return value.kind
    if _is_numeric(value):
        return _number(value)
    return shortened(_nested(value))


def _nested(value: Any) -> str:
    """Return the `repr` of a value in which tensors are described."""
    if isinstance(value, list | tuple):
        inner = ", ".join(describe(each) for each in cast(Sequence[Any], value))
        return (
            f"[{inner}]"
            if isinstance(value, list)
            else f"({inner}{',' if len(cast(Sequence[Any], value)) == 1 else ''})"
        )
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        return f"{{{', '.join(f'{key!r}: {describe(each)}' for key, each in pairs)}}}"
    if callable(value):  # its repr has an address
        return getattr(value, "__name__", type(value).__name__)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def shortened(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Return a text without what exceeds a number of characters."""
    return text if len(text) <= characters else f"{text[: characters - 2]} …"
