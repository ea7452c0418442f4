"""A run of the model that is listened to, and into which one may reach.

The model itself is never touched: the run is that of a *twin*, whose modules are copies and whose weights are the
very same memory. Listening hooks sit on the twin and go with it, so neither an exception nor a second thread can
leave anything behind. The computation is the model's own, by its own kernels; hooks only look at what passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.model.hook_points import HookLocation
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class Edit:
    """A change of what passes somewhere.

    Attributes:
        passage: where.
        change: from what the module takes and what passes to what passes instead; it changes neither in place.
    """

    passage: HookLocation
    change: Callable[[Tensor, Tensor], Tensor]


def twin(model: LanguageModel) -> LanguageModel:
    """A copy in evaluation mode that shares every weight and buffer with the model."""
    shared = [*model.parameters(), *model.buffers()]
    # What deepcopy finds in its memo it takes as already copied.
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared}).eval()


@torch.no_grad()
def record(
    model: LanguageModel, tokens: Tensor, passages: Iterable[HookLocation], edits: Iterable[Edit] = ()
) -> Mapping[HookLocation, Tensor]:
    """Run the model up to its last hidden state and keep what passes.

    Args:
        model: it stays as it is.
        tokens: (1, T) int64.
        passages: where to listen. Of a module that is used twice, the last time counts.
        edits: applied in their order, before anything is kept.

    Returns:
        What passed, (1, T, …) each: the run's own memory, not copies.

    Raises:
        IndexError: the tokens do not fit the model's context.
    """
    heard: dict[HookLocation, Tensor] = {}
    running = twin(model)
    modules = dict(running.named_modules())
    for edit in edits:
        _reach_into(modules[edit.passage[0]], edit)
    for passage in passages:
        _listen(modules[passage[0]], passage, heard)
    running.features(tokens)
    return heard


def _listen(module: nn.Module, passage: HookLocation, heard: dict[HookLocation, Tensor]) -> None:
    def before(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        heard[passage] = arguments[0]

    def after(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        heard[passage] = output

    if passage[1] == "input":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)


def _reach_into(module: nn.Module, edit: Edit) -> None:
    def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit.change(arguments[0], arguments[0]), *arguments[1:])

    def after(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return edit.change(arguments[0], output)

    if edit.passage[1] == "input":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)
