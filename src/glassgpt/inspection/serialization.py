"""Serialize a trace for the page: one JSON overview, then binary arrays as panels request them.

Everything is plain data. Token texts are JSON strings in which control characters and invalid UTF-8 are made printable; that
no text becomes markup is ensured by the page.
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
from glassgpt.inspection.media import piece_at
from glassgpt.inspection.tokenization import PreToken
from glassgpt.inspection.trace import Trace, source_of

MAX_RESPONSE_VALUES = 1 << 22
"""Values per response: 16 MiB. The attention weights of one GPT-2 block at full context are three times that."""


def overview(trace: Trace) -> dict[str, Any]:
    """Return the initial content of the page and the names of everything it can request, as JSON values (NaN as None).

    Keys: `text`, `model` (its configuration), `tokenizer` (its fingerprint), `tokens` (id, piece, bytes), `pretokens`
    (start, bytes, merges, tokens), `tensors` (see `ActivationDescription`), `replaceable` (names of patchable activations),
    `interventions`, `media` (see `TracedMedium`). Everything that takes longer to compute is a detail.
    """
    return {
        "text": trace.text,
        "model": {**vars(trace.model.config), "kv_heads": trace.model.config.kv_heads},
        "tokenizer": trace.tokenizer.fingerprint,
        "tokens": [position_json(trace, position) for position in range(len(trace))],
        "pretokens": [_pretoken_json(part) for part in trace.pretokens],
        "tensors": [_description_json(trace, name) for name in trace.names()],
        "replaceable": trace.patchable(),
        "interventions": [to_json(intervention) for intervention in trace.interventions],
        "media": [medium.to_json() for medium in trace.media],
    }


def tensor_bytes(
    trace: Trace, name: str, *index: int, max_values: int = MAX_RESPONSE_VALUES
) -> tuple[bytes, tuple[int, ...]]:
    """Return a tensor, or a slice of it, as little-endian float32 in row-major order.

    Args:
        trace: of the text.
        name: of the activation.
        index: into its first axes: for `blocks.3.attention.weights`, `(1,)` selects head 1.
        max_values: maximum number of values in the response.

    Returns:
        The bytes and the shape.

    Raises:
        InspectionError: there is no such activation or slice, or it is too large.
    """
    shape = trace.describe(name).shape
    if len(index) > len(shape) or any(not 0 <= at < size for at, size in zip(index, shape, strict=False)):
        raise InspectionError(f"index {list(index)} is out of range for {name} of shape {list(shape)}")
    part = shape[len(index) :]
    if (count := math.prod(part)) > max_values:
        raise InspectionError(
            f"{name}{list(index)} has {count:,} values, more than {max_values:,} per response; request a slice"
        )
    values = trace[name][index].float().cpu().contiguous().numpy()
    return values.astype("<f4", copy=sys.byteorder != "little").tobytes(), part


def token_json(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """Return id, printable text, and bytes in hexadecimal."""
    raw = tokenizer.token_bytes(token)
    return {"id": token, "piece": printable(raw), "bytes": raw.hex()}


def position_json(trace: Trace, position: int) -> dict[str, Any]:
    """Return what `token_json` does of the token at a position; at one of a picture or sound, there is no id."""
    if (piece := piece_at(trace.media, position)) is not None:
        return {"id": None, "piece": piece, "bytes": ""}
    return token_json(trace.tokenizer, trace.tokens[position])


def nested_lists(values: Tensor) -> Any:
    """Return a tensor as nested lists, with None for values that are not finite, which JSON cannot represent."""
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
    return {**plain, **lists, "place": source_reference(trace.activation(name).source)}


def source_reference(function: Callable[..., Any]) -> str:
    """Return the source location of a function as shown on the page: `glassgpt/model/attention.py:78–82`."""
    source = source_of(function)
    return f"{source.file}:{source.first}–{source.last}"
