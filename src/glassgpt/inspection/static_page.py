"""Export the page as one HTML file that needs neither a server nor a network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glassgpt.data.files import write_atomically
from glassgpt.errors import WRONG_PATH, CheckpointError, GlassGPTError, InspectionError
from glassgpt.inspection.checkpoint_traces import CheckpointTraces
from glassgpt.inspection.details import LENS_TOKENS, detail, sources
from glassgpt.inspection.page_files import standalone
from glassgpt.inspection.serialization import tensor_bytes
from glassgpt.inspection.service import page_overview
from glassgpt.inspection.trace import Trace
from glassgpt.locale import to_korean

MAX_SAVED_VALUES = 6 << 20
"""Values in a saved page: 24 MiB, a third more in base64."""
MAX_SAVED_UNITS = 256
"""Limit for tokens × blocks; beyond it, the strongest hidden units are not saved."""


def save_page(found: Trace, file: Path, checkpoints: CheckpointTraces | None = None) -> None:
    """Write one HTML file that shows a trace without a server and without a network.

    If it would be too large, the least important parts are left out, and the page says which.

    Args:
        found: the trace.
        file: to write.
        checkpoints: the same text through the run's checkpoints and snapshots, of which as many are included as fit.

    Raises:
        InspectionError: the attention weights alone are too large, or the path of the file is wrong.
        GlassGPTError: the file cannot be written.
    """
    try:
        write_atomically(file, standalone(json.dumps(_page_data(found, checkpoints))).encode())
    except OSError as error:
        kind = InspectionError if isinstance(error, WRONG_PATH) else GlassGPTError
        raise kind(f"{file} cannot be written ({error.strerror}); choose another file with --save") from error


def _page_data(found: Trace, checkpoints: CheckpointTraces | None) -> dict[str, Any]:
    """Return everything that the page can request, in the form of the server's responses."""
    arrays, left_out = _arrays(found)
    earlier, too_many = _earlier(checkpoints, arrays, left_out)
    if not _units_fit(found):
        left_out.append("the hidden units of the MLP")
    main = _view("saved", found, arrays)
    main["details"]["sources"] = sources(found)
    for view in (main, *earlier.values()):
        view["overview"]["steps"] = [int(step) for step in earlier]
    missing = left_out + too_many
    return {**main, "left_out": {"en": missing, "ko": [*map(to_korean, missing)]}, "earlier": earlier}


def _view(key: str, found: Trace, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the overview of a trace under the id that the page uses for it."""
    details = {_key(what, arguments): detail(found, what, arguments) for what, arguments in _details(found)}
    return {"id": key, "overview": page_overview(found, found.options), "arrays": arrays, "details": details}


def _earlier(
    checkpoints: CheckpointTraces | None, arrays: Mapping[str, Any], left_out: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the overviews of as many checkpoints as fit, by step, and notes of those that were left out."""
    if checkpoints is None or not checkpoints.steps:
        return {}, []
    size = sum(math.prod(each["shape"]) for each in arrays.values())
    n_fitting = 0 if left_out else MAX_SAVED_VALUES // size - 1
    if n_fitting < 1:
        return {}, ["all checkpoints"]
    chosen = _spread(checkpoints.steps, n_fitting)
    earlier, missing = dict[str, Any](), [f"checkpoint {step}" for step in checkpoints.steps if step not in chosen]
    for step in chosen:
        try:
            found = checkpoints[step]
        except CheckpointError as error:  # the page says which, and why
            missing.append(f"checkpoint {step} ({error})")
        else:
            earlier[str(step)] = _view(str(step), found, _arrays(found)[0])
    return earlier, missing


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the steps at equal distances in the list, the last one included."""
    if count == 1:
        return [*steps[-1:]]
    last = len(steps) - 1
    return [*steps] if count > last else [steps[round(i * last / (count - 1))] for i in range(count)]


def _units_fit(found: Trace) -> bool:
    return len(found) * found.model.config.n_layer <= MAX_SAVED_UNITS


def _details(found: Trace) -> Iterator[tuple[str, dict[str, int]]]:
    layers = found.model.config.n_layer
    yield from ((what, {}) for what in ("sizes", "heads", "stream", "losses", "choice", "cache"))
    last = max(0, len(found) - LENS_TOKENS)  # only the last piece may start between multiples
    pieces = sorted({min(first, last) for first in range(0, len(found), LENS_TOKENS)})
    yield from (("lens", {"depth": depth, "first": first}) for depth in range(layers + 1) for first in pieces)
    yield from ((what, {"position": position}) for what in ("components", "nearest") for position in range(len(found)))
    yield from ((what, {"layer": layer}) for what in ("norms", "sums") for layer in range(layers))
    if _units_fit(found):
        yield from (
            (what, {"layer": layer, "position": position})
            for what in ("units", "projection")
            for layer in range(layers)
            for position in range(len(found))
        )


def _key(what: str, arguments: dict[str, int]) -> str:
    return "/".join([what, *map(str, arguments.values())])


GROUPS = (
    ("attention.weights", "attention.mask"),
    ("attention.mixed", "attention.q", "attention.k", "attention.v"),
    ("attention.scores",),
    ("mlp.hidden", "output"),
    ("norm1", "attention.output", "middle", "norm2", "mlp.output"),
)
"""Activations that the page requests of each block, most important first."""


def _arrays(found: Trace) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors that fit, and the names of those left out."""
    available, kept, left_out = MAX_SAVED_VALUES, dict[str, Any](), list[str]()
    for group, names in _groups(found).items():
        size = sum(math.prod(found.describe(name).shape) for name in names)
        if size > available:
            left_out.append(group)
        else:
            available -= size
            kept |= {name: _saved(found, name) for name in names}
    if next(iter(_groups(found))) in left_out:
        raise InspectionError(f"the attention weights alone exceed {MAX_SAVED_VALUES:,} values; use a shorter text")
    return kept, left_out


def _groups(found: Trace) -> dict[str, list[str]]:
    """Return the activations that are saved together, by the name shown to the user; most important first."""
    layers = range(found.model.config.n_layer)
    weights, *others = [
        (", ".join(group), [f"blocks.{layer}.{part}" for layer in layers for part in group]) for group in GROUPS
    ]
    embeddings = [name for name in found.names() if name.startswith(("embedding", "rotary"))]
    return dict([weights, (", ".join(embeddings), embeddings), *others])


def _saved(found: Trace, name: str) -> dict[str, Any]:
    raw, shape = tensor_bytes(found, name, max_values=MAX_SAVED_VALUES)
    return {"values": base64.b64encode(raw).decode(), "shape": shape}
