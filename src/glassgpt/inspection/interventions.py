"""Changes to a run, to see what depends on what: switch a part off, scale it, or patch it from another prompt.

    without = trace.intervene(ScaleHead(layer=3, head=1))
    without.difference("logits")

Each is a small value that can be compared, kept and sent as JSON; several apply one after the other. The model is
not changed: an intervention says what passes through a twin that shares its weights.
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
from glassgpt.inspection.capture import Edit
from glassgpt.inspection.trace import Intervention, Trace
from glassgpt.model.hook_points import HookPoint

MAX_SCALE = 1e4
"""Beyond it, in either direction, 16-bit models overflow and nothing is to be learned."""


@dataclass(frozen=True)
class ScaleHead:
    """Multiply what a head mixed, before the heads are put together.

    Attributes:
        layer: the block, 0 is the first.
        head: the head in it.
        scale: 0 switches it off, 1 changes nothing.
    """

    layer: int
    head: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        _require("head", self.head, trace.model.config.n_head)
        yield _scaling(trace, f"blocks.{self.layer}.attention.mixed", self.scale, lambda mixed: mixed[self.head])


@dataclass(frozen=True)
class ScaleAttention:
    """Multiply what a block's attention adds to the residual stream; see `ScaleHead`."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        yield _scaling(trace, f"blocks.{self.layer}.attention.output", self.scale)


@dataclass(frozen=True)
class ScaleMLP:
    """Multiply what a block's MLP adds to the residual stream; see `ScaleHead`."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        yield _scaling(trace, f"blocks.{self.layer}.mlp.output", self.scale)


@dataclass(frozen=True)
class ScaleBlock:
    """Multiply everything that a block adds to the residual stream; switched off, the block might not be there."""

    layer: int
    scale: float = 0.0

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        _require_layer(trace, self.layer)
        _require_number(self.scale)
        passage = _port(trace, f"blocks.{self.layer}.output").location
        yield Edit(passage, lambda taken, given: taken if self.scale == 0 else taken + self.scale * (given - taken))


@dataclass(frozen=True)
class ScalePosition:
    """Multiply the values that attention reads at a position, its own reading included.

    Switched off, nobody learns anything from that token, though they may still look at it; its own residual stream
    goes on.

    Attributes:
        position: of the token; negative counts from the end.
        scale: 0 switches it off.
        layer: the block where this happens; None is everywhere.
    """

    position: int
    scale: float = 0.0
    layer: int | None = None

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        at = _position(trace, self.position)
        if self.layer is not None:
            _require_layer(trace, self.layer)
        for layer in range(trace.model.config.n_layer) if self.layer is None else [self.layer]:
            yield _scaling(trace, f"blocks.{layer}.attention.v", self.scale, lambda values: values[:, at])


@dataclass(frozen=True)
class Patch:
    """Put in place of an activation that of another prompt (Meng et al. 2022; Wang et al. 2022).

    Attributes:
        name: of a tensor that passes in the run, such as `blocks.3.output` or `blocks.3.attention.mixed`.
        text: the other prompt, run undisturbed by the same model.
        positions: where to put it; empty is everywhere. Negative ones count from the end.
        sources: the positions in the other prompt, as many; empty are the same.
        head: only this head of a tensor that has heads.
    """

    name: str
    text: str
    positions: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    head: int | None = None

    def edits(self, trace: Trace) -> Iterable[Edit]:
        """See `Intervention`."""
        port, other = _port(trace, self.name), trace.of(self.text)
        here = [_position(trace, at) for at in self.positions] or list(range(len(trace)))
        there = [_position(other, at) for at in self.sources or self.positions] or list(range(len(other)))
        if len(here) != len(there):
            raise InspectionError(
                f"{self.name} is to be patched at {len(here)} positions from {len(there)}; name as many, in "
                "positions and sources"
            )
        heads = self._heads(trace)
        new = other[self.name][..., there, :][heads]

        def replace(_: Tensor, given: Tensor) -> Tensor:
            raw = given.clone()
            port.view(raw)[heads][..., here, :] = new
            return raw

        yield Edit(port.location, replace)

    def _heads(self, trace: Trace) -> slice | int:
        if self.head is None:
            return slice(None)
        description = trace.describe(self.name)
        if "head" not in description.axes[0]:
            raise InspectionError(f"{self.name} has no heads; leave head out")
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
"""By the names that JSON and the command line have for them."""


def to_json(intervention: Intervention) -> dict[str, Any]:
    """An intervention as a JSON object: its `kind` and its attributes.

    Raises:
        InspectionError: it is none of those here.
    """
    for kind, cls in KINDS.items():
        if type(intervention) is cls:
            return {"kind": kind, **vars(intervention)}
    raise InspectionError(f"{type(intervention).__name__} has no JSON form; allowed are {', '.join(KINDS)}")


def from_json(value: Mapping[str, Any]) -> Intervention:
    """The intervention that `to_json` wrote.

    Raises:
        InspectionError: the kind is unknown, or an attribute is missing, unknown or of the wrong type.
    """
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InspectionError(f"an intervention's kind is {kind!r}; allowed are {', '.join(KINDS)}")
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    given = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items() if name != "kind"}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    wrong = [name for name, item in given.items() if name not in fields or not _fits(item, str(fields[name].type))]
    if wrong or not needed <= given.keys():
        allowed = ", ".join(f"{name} ({field.type})" for name, field in fields.items())
        raise InspectionError(f"the intervention {kind} has {', '.join(given) or 'nothing'}; allowed are {allowed}")
    return KINDS[kind](**given)


def parse_intervention(words: str) -> Intervention:
    """An intervention as the command line spells it: `head:3.1`, `mlp:3`, `position:5`, each with `=SCALE` if not 0.

    Raises:
        UsageError: it is spelled otherwise.
    """
    found = _SPELLING.fullmatch(words)
    scale = _number(found[3] or "0") if found else None
    if found is None or scale is None:
        raise UsageError(
            f"{words!r} is no intervention; allowed are head:LAYER.HEAD, attention:LAYER, mlp:LAYER, block:LAYER and "
            "position:NUMBER, each switched off, or scaled with =NUMBER"
        )
    kind, _, layer = found[1].removesuffix(".").partition(":")
    numbers = [int(number) for number in (layer, found[2]) if number]
    return KINDS[kind](*numbers, scale=scale)


def parse_patch(words: str) -> Patch:
    """A patch as the command line spells it: `blocks.3.output=TEXT`, or `blocks.3.output@5,-1=TEXT` at positions.

    Raises:
        UsageError: it is spelled otherwise.
    """
    found = _PATCH.fullmatch(words)
    if found is None:
        raise UsageError(
            f"{words!r} is no patch; allowed are NAME=TEXT and NAME@POSITION=TEXT, several positions with commas, such "
            "as blocks.0.output@-1=the old queen"
        )
    positions = tuple(int(number) for number in (found[2] or "").split(",") if number)
    return Patch(found[1], found[3], positions)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float holds as it is written: no truth value, NaN or infinity."""
    return type(value) in (int, float) and abs(value) < 2**53


_SPELLING = re.compile(r"(head:[0-9]{1,6}\.|attention:|mlp:|block:|position:)([0-9]{1,6})(?:=(.+))?")

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


def _scaling(trace: Trace, name: str, scale: float, part: Callable[[Tensor], Tensor] = lambda whole: whole) -> Edit:
    """Multiply a part of what passes; by nothing, it becomes 0 even where it was not a number."""
    _require_number(scale)
    port = _port(trace, name)

    def change(_: Tensor, given: Tensor) -> Tensor:
        raw = given.clone()
        target = part(port.view(raw))
        target.copy_(torch.zeros_like(target) if scale == 0 else target * scale)
        return raw

    return Edit(port.location, change)


def _port(trace: Trace, name: str) -> HookPoint:
    origin = trace.site(name).origin
    if not isinstance(origin, HookPoint) or origin.read_only:
        raise InspectionError(
            f"{name} cannot be replaced in a run, only looked at; replace what it is computed from, or what is "
            "computed from it"
        )
    return origin


def _require_layer(trace: Trace, layer: int) -> None:
    _require("block", layer, trace.model.config.n_layer)


def _require(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise InspectionError(f"there is no {what} {number}; the model has 0 to {count - 1}")


def _require_number(scale: float) -> None:
    if not abs(scale) <= MAX_SCALE:
        raise InspectionError(f"the scale is {scale:.6g}; allowed is up to {MAX_SCALE:g}, or 0 to switch off")


def _position(trace: Trace, position: int) -> int:
    if not -len(trace) <= position < len(trace):
        raise InspectionError(f"there is no position {position}; the text has 0 to {len(trace) - 1}")
    return position % len(trace)
