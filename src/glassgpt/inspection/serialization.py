"""A trace as it travels to a page: one JSON object to begin with, then arrays, each when a panel needs it.

What no text may do to a page is the page's to see to, as everything here is data: pieces of text are JSON strings,
with controls made visible and broken characters told by their bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.errors import InspectionError
from glassgpt.inspection.interventions import to_json
from glassgpt.inspection.tokenization import PreToken
from glassgpt.inspection.trace import Trace, source_of

MAX_RESPONSE_VALUES = 1 << 22
"""Numbers in one answer: 16 MiB. All weights of one block of GPT-2 at its full context are three times that."""


def overview(trace: Trace) -> dict[str, Any]:
    """What a page shows first, and the names of all that it may ask for: JSON values only, NaN as None.

    Keys: `text`, `model` (its shape), `tokenizer` (its fingerprint), `tokens` (id, piece, bytes), `pretokens` (start,
    bytes, merges, tokens), `tensors` (see `Description`), `replaceable` (names that a patch can replace),
    `interventions`. What takes longer is a `detail`.
    """
    return {
        "text": trace.text,
        "model": {**vars(trace.model.config), "kv_heads": trace.model.config.kv_heads},
        "tokenizer": trace.tokenizer.fingerprint,
        "tokens": [token_json(trace.tokenizer, token) for token in trace.tokens],
        "pretokens": [_pretoken_json(part) for part in trace.pretokens],
        "tensors": [_description_json(trace, name) for name in trace.names()],
        "replaceable": trace.replaceable(),
        "interventions": [to_json(intervention) for intervention in trace.interventions],
    }


def array(trace: Trace, name: str, *index: int, most: int = MAX_RESPONSE_VALUES) -> tuple[bytes, tuple[int, ...]]:
    """A tensor, or a part of it, as little-endian float32, row by row.

    Args:
        trace: of the text.
        name: of the tensor.
        index: into its first axes: of `blocks.3.attention.weights`, `(1,)` is head 1.
        most: numbers that the answer may hold.

    Returns:
        The bytes and the shape.

    Raises:
        InspectionError: there is no such tensor or part, or it holds too much.
    """
    shape = trace.describe(name).shape
    if len(index) > len(shape) or any(not 0 <= at < size for at, size in zip(index, shape, strict=False)):
        raise InspectionError(f"{name} has the shape {list(shape)}; it has no part {list(index)}")
    part = shape[len(index) :]
    if (count := math.prod(part)) > most:
        raise InspectionError(
            f"{name}{list(index)} holds {count:,} numbers, one answer at most {most:,}; ask for a part"
        )
    values = trace[name][index].float().cpu().contiguous().numpy()
    return values.astype("<f4", copy=sys.byteorder != "little").tobytes(), part


def token_json(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """Id, text for the eye, and bytes in hexadecimal."""
    raw = tokenizer.token_bytes(token)
    return {"id": token, "piece": printable(raw), "bytes": raw.hex()}


def numbers(values: Tensor) -> Any:
    """Nested lists of numbers, with None for what is not finite, which JSON does not know."""
    return _finite(values.tolist())


def _finite(value: float | Sequence[Any]) -> Any:
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    return [_finite(each) for each in value]


def _pretoken_json(part: PreToken) -> dict[str, Any]:
    merges = [[merge.start, len(merge.left), len(merge.right), merge.rank] for merge in part.merges]
    return {"start": part.start, "bytes": part.raw.hex(), "merges": merges, "tokens": list(part.tokens)}


def _description_json(trace: Trace, name: str) -> dict[str, Any]:
    description = trace.describe(name)
    plain = {key: getattr(description, key) for key in ("name", "unit", "formula")}
    lists = {"axes": list(description.axes), "shape": list(description.shape)}
    return {**plain, **lists, "place": source_reference(trace.site(name).source)}


def source_reference(function: Callable[..., Any]) -> str:
    """Where a function of ours is written, as a page names it: `glassgpt/model/attention.py:78–82`."""
    source = source_of(function)
    return f"{source.file}:{source.first}–{source.last}"
