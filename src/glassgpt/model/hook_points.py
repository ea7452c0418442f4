"""Declaration of an architecture's activations: the named tensors of one forward pass.

Each architecture lists them in its own file (`LanguageModel.activations`), so that inspection tools need to know no
architecture by class. An activation is either captured at a hook point, the input or output of a module, or derived
from other activations by the functions that the model itself uses.

Shapes leave out the batch axis, because one text is inspected at a time. T positions, C channels of the residual stream,
H query heads, K key and value heads, D channels per head, M hidden units of the MLP, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Axis = Literal[
    "byte", "position", "query", "key", "channel", "head", "kv_head", "head_channel", "angle", "hidden", "vocabulary"
]
Side = Literal["input", "output"]
HookLocation = tuple[str, Side]
"""Name of a module, as in `named_modules`, and the side of it to hook."""
ReadActivation = Callable[[str], Tensor]
"""Return another activation of the same forward pass, by name."""
Derivation = Callable[[ReadActivation], Tensor]


@dataclass(frozen=True)
class HookPoint:
    """A place in the model that an activation passes through.

    Attributes:
        module: name of the module, as in `named_modules`.
        side: whether to capture the module's first input or its output.
        view: maps the captured tensor (1, T, …) to the activation. It must return a view: interventions write through it.
        read_only: whether other modules read the same tensor without passing this hook point, so that replacing it here
            would reach only some of its readers.
    """

    module: str
    side: Side
    view: Callable[[Tensor], Tensor]
    read_only: bool = False

    @property
    def location(self) -> HookLocation:
        """Return the module to hook, and whether its input or output."""
        return self.module, self.side


@dataclass(frozen=True)
class Activation:
    """Declaration of one named tensor.

    Attributes:
        axes: meaning of each dimension.
        unit: unit of the values.
        formula: how it is computed, in terms of other activations.
        source: the function or class of this package that computes it.
        origin: the hook point that captures it, or its derivation from other activations; None for the inputs, which are
            known before the forward pass.
    """

    axes: tuple[Axis, ...]
    unit: str
    formula: str
    source: Callable[..., Any]
    origin: HookPoint | Derivation | None
