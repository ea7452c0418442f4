"""The page as one file that needs neither the program nor a network."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from glassgpt.data.files import write_atomically
from glassgpt.errors import CheckpointError, InspectionError
from glassgpt.inspection.checkpoint_traces import History
from glassgpt.inspection.details import LENS_TOKENS, detail, sources
from glassgpt.inspection.serialization import array
from glassgpt.inspection.service import page_overview
from glassgpt.inspection.trace import Trace

MODULES = (
    "words.js",
    "dom.js",
    "state.js",
    "source.js",
    "colour.js",
    "matrix.js",
    "token.js",
    "tokens.js",
    "embeddings.js",
    "block.js",
    "head.js",
    "mlp.js",
    "stream.js",
    "lens.js",
    "next.js",
    "cache.js",
    "changes.js",
    "history.js",
    "keys.js",
    "page.js",
)
"""Each after those that it imports."""
MAX_SAVED_VALUES = 6 << 20
"""Numbers in a saved page: 24 MiB, a third more as text."""
MOST_UNITS = 256
"""Tokens, times blocks, whose strongest hidden units are saved."""


def page_file(name: str) -> str:
    """The text of one of the page's files."""
    return (resources.files("glassgpt.inspection") / "page" / name).read_text(encoding="utf-8")


def save_page(found: Trace, file: Path, told: History | None = None) -> None:
    """Write one file that shows a trace without the program and without a network.

    What would make it too large is left out, the least needed first, and the page says what.

    Args:
        found: the trace.
        file: that is written.
        told: the same text through the run's checkpoints, which are held too if all of them find room.

    Raises:
        InspectionError: its attention weights alone are too many for a file, or it cannot be written.
    """
    try:
        write_atomically(file, _standalone(json.dumps(_held(found, told))).encode())
    except OSError as error:
        raise InspectionError(
            f"{file} cannot be written ({error.strerror}); choose another file with --save"
        ) from error


def _held(found: Trace, told: History | None) -> dict[str, Any]:
    """Everything that the page can ask for, in the form in which it would be answered."""
    arrays, left_out = _arrays(found)
    earlier, too_many = _earlier(told, arrays, left_out)
    if not _has_room_for_units(found):
        left_out.append("mlp units")
    main = _view("saved", found, arrays)
    main["details"]["sources"] = sources(found)
    for view in (main, *earlier.values()):
        view["overview"]["steps"] = [int(step) for step in earlier]
    return {**main, "left_out": left_out + too_many, "earlier": earlier}


def _view(key: str, found: Trace, arrays: dict[str, Any]) -> dict[str, Any]:
    """One trace under the id by which the page knows it."""
    details = {_key(what, arguments): detail(found, what, arguments) for what, arguments in _details(found)}
    return {"id": key, "overview": page_overview(found, found.options), "arrays": arrays, "details": details}


def _earlier(
    told: History | None, arrays: Mapping[str, Any], left_out: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The views of the checkpoints by their steps, and what is left out: all where not each finds room."""
    if told is None or not told.steps:
        return {}, []
    size = sum(math.prod(each["shape"]) for each in arrays.values())
    if left_out or size * (1 + len(told.steps)) > MAX_SAVED_VALUES:
        return {}, ["checkpoints"]
    earlier, missing = dict[str, Any](), list[str]()
    for step in told.steps:
        try:
            found = told[step]
        except CheckpointError as error:  # the page says which and why
            missing.append(f"checkpoint {step} ({error})")
        else:
            earlier[str(step)] = _view(str(step), found, _arrays(found)[0])
    return earlier, missing


def _has_room_for_units(found: Trace) -> bool:
    return len(found) * found.model.config.n_layer <= MOST_UNITS


def _details(found: Trace) -> Iterator[tuple[str, dict[str, int]]]:
    layers = found.model.config.n_layer
    yield from ((what, {}) for what in ("heads", "stream", "losses", "choice", "cache"))
    last = max(0, len(found) - LENS_TOKENS)  # only the last piece begins elsewhere than at a multiple
    pieces = sorted({min(first, last) for first in range(0, len(found), LENS_TOKENS)})
    yield from (("lens", {"depth": depth, "first": first}) for depth in range(layers + 1) for first in pieces)
    yield from (("nearest", {"position": position}) for position in range(len(found)))
    if _has_room_for_units(found):
        yield from (
            ("units", {"layer": layer, "position": position})
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
)
"""What the page asks of each block, the most needed first."""


def _arrays(found: Trace) -> tuple[dict[str, Any], list[str]]:
    """The tensors that there is room for, and the names of those that are left out."""
    room, kept, left_out = MAX_SAVED_VALUES, dict[str, Any](), list[str]()
    for told, names in _groups(found).items():
        size = sum(math.prod(found.describe(name).shape) for name in names)
        if size > room:
            left_out.append(told)
        else:
            room -= size
            kept |= {name: _saved(found, name) for name in names}
    if next(iter(_groups(found))) in left_out:
        raise InspectionError(
            f"the page would hold more than {MAX_SAVED_VALUES:,} numbers of attention alone; give a shorter text"
        )
    return kept, left_out


def _groups(found: Trace) -> dict[str, list[str]]:
    """Names that are kept together, under the one by which a person is told of them; the most needed first."""
    layers = range(found.model.config.n_layer)
    weights, *others = [
        (", ".join(group), [f"blocks.{layer}.{part}" for layer in layers for part in group]) for group in GROUPS
    ]
    embeddings = [name for name in found.names() if name.startswith(("embedding", "rotary"))]
    return dict([weights, (", ".join(embeddings), embeddings), *others])


def _saved(found: Trace, name: str) -> dict[str, Any]:
    raw, shape = array(found, name, most=MAX_SAVED_VALUES)
    return {"values": base64.b64encode(raw).decode(), "shape": shape}


def _standalone(data: str) -> str:
    # Inside a script element only "<" could end it; JSON may spell it otherwise.
    held = f'<script type="application/json" id="saved">{data.replace("<", chr(92) + "u003c")}</script>'
    style = f"<style>{page_file('page.css')}</style>"
    page = page_file("index.html").replace('<link rel="stylesheet" href="page.css">', style)
    return page.replace(
        '<script type="module" src="page.js"></script>', f'{held}\n<script type="module">{_joined()}</script>'
    )


def _joined() -> str:
    """The modules as one script, each in a scope of its own that gives back what it exports."""
    return "\n".join(["const modules = {};", *map(_scope, MODULES)])


def _scope(name: str) -> str:
    code = page_file(name)
    exported = re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", code, re.MULTILINE)
    code = re.sub(r'^import (\{.*\}) from "\./(.*)";$', r'const \1 = modules["\2"];', code, flags=re.MULTILINE)
    code = re.sub(r"^export ", "", code, flags=re.MULTILINE)
    return f'modules["{name}"] = (() => {{\n{code}\nreturn {{ {", ".join(exported)} }};\n}})();'
