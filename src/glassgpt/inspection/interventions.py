"""Causal interventions: ablate or scale a component, or patch an activation from another prompt.

    ablated = trace.intervene(ScaleHead(layer=3, head=1))
    ablated.difference("logits")

Each is a small immutable value that can be compared and serialized to JSON; several are applied in order. The model itself
is not modified, see `capture`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassgpt.errors import InspectionError, UsageError
from glassgpt.inspection.capture import ActivationEdit
from glassgpt.inspection.trace import Intervention, Trace
from glassgpt.model.hook_points import HookPoint

MAX_SCALE = 1e4
"""Largest magnitude; beyond it 16-bit models overflow."""


@dataclass(frozen=True)
class ScaleHead:
    """Scale the output of an attention head (its mixed values, before the output projection).

    Attributes:
        layer: index of the block.
        head: index of the head in it.
        scale: 0 ablates the head, 1 changes nothing.
    """

    layer: int
    head: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        _require("head", self.head, trace.model.config.n_head)
        yield _scaling(trace, f"blocks.{self.layer}.attention.mixed", self.scale, lambda mixed: mixed[self.head])


@dataclass(frozen=True)
class ScaleAttention:
    """Scale what the attention of a block adds to the residual stream; see `ScaleHead`."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        yield _scaling(trace, f"blocks.{self.layer}.attention.output", self.scale)


@dataclass(frozen=True)
class ScaleMLP:
    """Scale what the MLP of a block adds to the residual stream; see `ScaleHead`."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        yield _scaling(trace, f"blocks.{self.layer}.mlp.output", self.scale)


@dataclass(frozen=True)
class ScaleBlock:
    """Scale everything that a block adds to the residual stream; a scale of 0 removes the block."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        _require_scale(self.scale)
        passage = _patchable_point(trace, f"blocks.{self.layer}.output").location
        yield ActivationEdit(passage, lambda x, y: x if self.scale == 0 else x + self.scale * (y - x))


@dataclass(frozen=True)
class ScalePosition:
    """Scale the values that attention reads at a position.

    With a scale of 0, no query gets information from that token, although it may still attend to it. The token's own
    residual stream continues.

    Attributes:
        position: of the token; negative positions count from the end.
        scale: 0 ablates the position.
        layer: index of the block; None means all blocks.
    """

    position: int
    scale: float = 0.0
    layer: int | None = None

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        at = _position(trace, self.position)
        if self.layer is not None:
            _require_layer(trace, self.layer)
        for layer in range(trace.model.config.n_layer) if self.layer is None else [self.layer]:
            yield _scaling(trace, f"blocks.{layer}.attention.v", self.scale, lambda values: values[:, at])


@dataclass(frozen=True)
class Patch:
    """Activation patching: replace an activation by that of another prompt (Meng et al. 2022; Wang et al. 2022).

    Attributes:
        name: of a patchable activation, such as `blocks.3.output` or `blocks.3.attention.mixed`.
        text: the other prompt; the same model is run on it without interventions.
        positions: to replace; empty means all. Negative positions count from the end.
        sources: positions in the other prompt, as many as `positions`; empty means the same ones.
        head: replace only this head; None means all.
    """

    name: str
    text: str
    positions: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    head: int | None = None

    def edits(self, trace: Trace) -> Iterable[ActivationEdit]:
        """See `Intervention`."""
        point, other = _patchable_point(trace, self.name), trace.of_text(self.text)
        here = [_position(trace, at) for at in self.positions] or list(range(len(trace)))
        there = [_position(other, at) for at in self.sources or self.positions] or list(range(len(other)))
        if len(here) != len(there):
            raise InspectionError(
                f"cannot patch {len(here)} positions of {self.name} from {len(there)} positions; give equal numbers of "
                "positions and sources"
            )
        heads = self._heads(trace)
        new = other[self.name][..., there, :][heads]

        def replace(_: Tensor, original: Tensor) -> Tensor:
            raw = original.clone()
            point.view(raw)[heads][..., here, :] = new
            return raw

        yield ActivationEdit(point.location, replace)

    def _heads(self, trace: Trace) -> slice | int:
        if self.head is None:
            return slice(None)
        description = trace.describe(self.name)
        if "head" not in description.axes[0]:
            raise InspectionError(f"{self.name} has no heads; omit head")
        _require("head", self.head, description.shape[0])
        return self.head


KINDS: dict[str, type[Any]] = {
    "head": ScaleHead,
    "attention": ScaleAttention,
    "mlp": ScaleMLP,
    "block": ScaleBlock,
    "position": ScalePosition,
    "patch": Patch,
}
"""Interventions by their names in JSON and on the command line."""


def to_json(intervention: Intervention) -> dict[str, Any]:
    """Return an intervention as a JSON object: its `kind` and its attributes.

    Raises:
        InspectionError: it is not of one of the kinds defined here.
    """
    for kind, cls in KINDS.items():
        if type(intervention) is cls:
            return {"kind": kind, **vars(intervention)}
    raise InspectionError(f"{type(intervention).__name__} has no JSON form; it must be one of {', '.join(KINDS)}")


def from_json(value: Mapping[str, Any]) -> Intervention:
    """Return the intervention serialized by `to_json`.

    Raises:
        InspectionError: the kind is unknown, or an attribute is missing, unknown or of the wrong type.
    """
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InspectionError(f"the kind of an intervention must be one of {', '.join(KINDS)}, not {kind!r}")
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    given = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items() if name != "kind"}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    wrong = [name for name, item in given.items() if name not in fields or not _fits(item, str(fields[name].type))]
    if wrong or not needed <= given.keys():
        expected = ", ".join(f"{name} ({field.type})" for name, field in fields.items())
        raise InspectionError(f"the intervention {kind} takes {expected}; given: {', '.join(given) or 'nothing'}")
    return KINDS[kind](**given)


def parse_intervention(words: str) -> Intervention:
    """Parse an intervention of the command line: `head:3.1`, `mlp:3`, `position:5`, optionally followed by `=SCALE`.

    Raises:
        UsageError: the syntax is invalid.
    """
    found = _INTERVENTION.fullmatch(words)
    scale = _number(found[3] or "0") if found else None
    if found is None or scale is None:
        raise UsageError(
            f"{words!r} is not an intervention; expected head:LAYER.HEAD, attention:LAYER, mlp:LAYER, block:LAYER or "
            "position:POSITION, optionally followed by =SCALE (default 0)"
        )
    kind, _, layer = found[1].removesuffix(".").partition(":")
    numbers = [int(number) for number in (layer, found[2]) if number]
    return KINDS[kind](*numbers, scale=scale)


def parse_patch(words: str) -> Patch:
    """Parse a patch of the command line: `blocks.3.output=TEXT`, or `blocks.3.output@5,-1=TEXT` for some positions.

    Raises:
        UsageError: the syntax is invalid.
    """
    found = _PATCH.fullmatch(words)
    if found is None:
        raise UsageError(
            f"{words!r} is not a patch; expected NAME=TEXT or NAME@POSITIONS=TEXT with comma-separated positions, such as "
            "blocks.0.output@-1=the old queen"
        )
    positions = tuple(int(number) for number in (found[2] or "").split(",") if number)
    return Patch(found[1], found[3], positions)


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number below 2**53 in magnitude, so that a float can hold it; booleans are not."""
    return type(value) in (int, float) and abs(value) < 2**53


_INTERVENTION = re.compile(r"(head:[0-9]{1,6}\.|attention:|mlp:|block:|position:)([0-9]{1,6})(?:=(.+))?")

_PATCH = re.compile(r"([a-z0-9_.]+)(?:@(-?[0-9]{1,6}(?:,-?[0-9]{1,6})*))?=(.+)", re.DOTALL)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_FITS: dict[str, Callable[[Any], bool]] = {
    "int": lambda item: type(item) is int,
    "float": is_number,
    "str": lambda item: isinstance(item, str),
    "int | None": lambda item: item is None or type(item) is int,
    "tuple[int, ...]": lambda item: isinstance(item, tuple) and all(type(each) is int for each in item),
}


def _fits(item: Any, kind: str) -> bool:
    return _FITS[kind](item)


def _scaling(
    trace: Trace, name: str, scale: float, part: Callable[[Tensor], Tensor] = lambda whole: whole
) -> ActivationEdit:
    """Return an edit that scales part of an activation; a scale of 0 gives 0 even where it was NaN."""
    _require_scale(scale)
    point = _patchable_point(trace, name)

    def change(_: Tensor, given: Tensor) -> Tensor:
        raw = given.clone()
        target = part(point.view(raw))
        target.copy_(torch.zeros_like(target) if scale == 0 else target * scale)
        return raw

    return ActivationEdit(point.location, change)


def _patchable_point(trace: Trace, name: str) -> HookPoint:
    origin = trace.activation(name).origin
    if not isinstance(origin, HookPoint) or origin.read_only:
        raise InspectionError(
            f"{name} is read-only; replace an activation it is computed from, or one computed from it"
        )
    return origin


def _require_layer(trace: Trace, layer: int) -> None:
    _require("block", layer, trace.model.config.n_layer)


def _require(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InspectionError(f"there is no {what} {number}; the model has {what}s 0 to {count - 1}")


def _require_scale(scale: float) -> None:
    if not abs(scale) <= MAX_SCALE:
        raise InspectionError(f"the scale must be a number of magnitude up to {MAX_SCALE:g}, not {scale:.6g}")


def _position(trace: Trace, position: int) -> int:
    if not -len(trace) <= position < len(trace):
        raise InspectionError(f"there is no position {position}; the text has positions 0 to {len(trace) - 1}")
    return position % len(trace)
