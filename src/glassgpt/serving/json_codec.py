"""JSON of requests and responses (extra: serve).

msgspec refuses what the standard library accepts although JSON does not allow it: NaN, Infinity, numbers that overflow
to them, and lone surrogates. It is also several times faster.
"""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import Any, cast

from glassgpt.errors import MissingExtraError
from glassgpt.serving.errors import APIError

SCALARS = frozenset((int, float, str, bool, NoneType))


@cache
def _library() -> Any:
    try:
        import msgspec.json
    except ImportError as error:
        raise MissingExtraError("msgspec", "serve", "the server") from error
    return msgspec.json


def encode(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    return _library().encode(value)


def decode_object(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        APIError: it is not valid JSON, not an object, or nested deeper than `max_depth`.
    """
    try:
        value = _library().decode(body)
    except RecursionError:
        raise _too_deep(max_depth) from None
    except ValueError as error:  # msgspec's errors derive from it
        raise APIError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise APIError("the body must be a JSON object", code="invalid_json")
    if _depth_exceeds(value, max_depth):
        raise _too_deep(max_depth)
    return cast("dict[str, Any]", value)


def _too_deep(max_depth: int) -> APIError:
    return APIError(f"the JSON is nested more than {max_depth} levels deep", code="invalid_json")


def _depth_exceeds(value: Any, most: int) -> bool:
    level: list[Any] = [value]
    for _ in range(most):
        containers = [each.values() if isinstance(each, dict) else each for each in level]
        level = [
            child
            for each in containers
            if not SCALARS.issuperset(map(type, each))  # a prompt has a thousand ids
            for child in each
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
