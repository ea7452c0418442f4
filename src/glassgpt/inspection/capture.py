"""Run a model with hooks that capture activations or replace them.

The model itself is never modified: hooks are registered on a copy whose modules are new but whose weights are the same
memory. The hooks disappear with the copy, so that neither an exception nor another thread can leave any behind. The
forward pass and its kernels are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.hook_points import HookLocation
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class ActivationEdit:
    """A change to a tensor during the forward pass.

    Attributes:
        location: where to hook.
        change: maps the module's input and the hooked tensor to the replacement; it must modify neither in place.
    """

    location: HookLocation
    change: Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def capture_activations(
    model: LanguageModel, tokens: Tensor, locations: Iterable[HookLocation], edits: Iterable[ActivationEdit] = ()
) -> Mapping[HookLocation, Tensor]:
    """Run a model up to its last hidden state and return the tensors at the given locations.

    Args:
        model: is not modified.
        tokens: (1, T) int64.
        locations: where to capture. For a module that is called twice, the last call counts.
        edits: applied in order, before anything is captured.

    Returns:
        The captured tensors, (1, T, …) each; not copies.

    Raises:
        IndexError: the tokens do not fit the model's context.
    """
    captured: dict[HookLocation, Tensor] = {}
    hooked = copy_sharing_weights(model).eval()
    modules = dict(hooked.named_modules())
    for edit in edits:
        _register_edit(modules[edit.location[0]], edit)
    for location in locations:
        _register_capture(modules[location[0]], location, captured)
    hooked.features(tokens)
    return captured


def _register_capture(module: nn.Module, location: HookLocation, captured: dict[HookLocation, Tensor]) -> None:
    def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        captured[location] = arguments[0]

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        captured[location] = output

    if location[1] == "input":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)


def _register_edit(module: nn.Module, edit: ActivationEdit) -> None:
    def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit.change(arguments[0], arguments[0]), *arguments[1:])

    def after(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return edit.change(arguments[0], output)

    if edit.location[1] == "input":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)
