"""Run one micro-batch with other weights, precision or attention, and check whether it stays finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.diagnosis.replay_result import NonFiniteModule
from glassgpt.model.lora import trainable_parameters
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.rng import TorchRngState, preserved_rng, restore_torch_rng

Batch = tuple[Tensor, Tensor]


@dataclass
class Variant:
    """A way to run a micro-batch; each experiment replaces one part of it.

    Attributes:
        model: the weights.
        autocast: returns the context that sets the precision.
        rng: generators that dropout draws from; None runs without dropout.
        chunk_tokens: of the loss; see `TrainingLoss`.
        loss: returns the loss of a model; see `TrainingLoss.of`.
    """

    model: LanguageModel
    autocast: Callable[[], AbstractContextManager[object]]
    rng: TorchRngState | None
    chunk_tokens: int = 0
    loss: Callable[[LanguageModel, int], TrainingLoss] = TrainingLoss

    def is_finite(self, batch: Batch) -> bool:
        """Return whether loss and gradient norm of a micro-batch are finite. Random generators are left unchanged."""
        with self._as_in_training():
            loss = self._loss(batch)
            return bool(loss.isfinite()) and math.isfinite(_gradient_norm(self.model, loss))

    def find_non_finite_module(self, batch: Batch) -> NonFiniteModule | None:
        """Return the module in which the first non-finite value arises, or None."""
        with self._as_in_training(), _MagnitudeHooks(self.model) as hooks:
            loss = self._loss(batch)
            if not loss.isfinite():
                return hooks.first_bad or hooks.after_last_module("loss")
            gradients = _gradients(self.model, loss)
        names = list(trainable_parameters(self.model))
        bad = [name for name, g in zip(names, gradients, strict=True) if g is not None and not g.isfinite().all()]
        if hooks.first_bad is None and bad:
            return NonFiniteModule(bad[-1].rpartition(".")[0], "backward", None, hooks.last_good())
        return hooks.first_bad

    @contextmanager
    def _as_in_training(self) -> Generator[None]:
        """Run with dropout from `rng`, or without; mode and generators are restored afterwards."""
        was_training, device = self.model.training, next(self.model.parameters()).device
        with preserved_rng(device):
            self.model.train(self.rng is not None)
            if self.rng is not None:
                restore_torch_rng(self.rng, device)
            try:
                yield
            finally:
                self.model.train(was_training)

    def _loss(self, batch: Batch) -> Tensor:
        with self.autocast():
            return self.loss(self.model, self.chunk_tokens)(*batch)


class _MagnitudeHooks:
    """Hooks on every module that record the magnitudes of inputs, outputs and gradients, within a `with` block."""

    def __init__(self, model: nn.Module) -> None:
        self.first_bad: NonFiniteModule | None = None
        self._good: list[tuple[str, float]] = []
        self._good_gradients: list[tuple[str, float]] = []
        self._handles: list[Any] = []
        self._model = model

    def __enter__(self) -> _MagnitudeHooks:
        for name, module in self._model.named_modules():
            if name:
                self._handles.append(module.register_forward_hook(partial(self._on_forward, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def last_good(self) -> tuple[tuple[str, float], ...]:
        """Return the last few finite results."""
        return tuple(self._good[-3:])

    def after_last_module(self, name: str) -> NonFiniteModule:
        """Return what happened after the last module."""
        return NonFiniteModule(name, "forward", self._good[-1][1] if self._good else None, self.last_good())

    def _on_forward(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.first_bad is not None or not isinstance(output, Tensor):
            return
        size = _magnitude(output)
        if size is None:
            tensors = [x for x in inputs if isinstance(x, Tensor)]
            input_size = _magnitude(tensors[0]) if tensors else None
            # If the input is bad although no module before produced it, it arose in the parent, between its parts.
            culprit = name if input_size is not None else name.rpartition(".")[0] or name
            self.first_bad = NonFiniteModule(culprit, "forward", input_size, self.last_good())
            return
        self._good.append((name, size))
        if output.requires_grad:
            output.register_hook(partial(self._on_backward, name))

    def _on_backward(self, name: str, gradient: Tensor) -> None:
        if self.first_bad is not None:
            return
        size = _magnitude(gradient)
        if size is None:
            # The gradient of this output comes from the module whose gradient was seen last.
            culprit, input_size = self._good_gradients[-1] if self._good_gradients else ("loss", None)
            self.first_bad = NonFiniteModule(culprit, "backward", input_size, self.last_good())
        else:
            self._good_gradients.append((name, size))
            self._good.append((f"gradient of {name}", size))


def _gradients(model: nn.Module, loss: Tensor) -> Sequence[Tensor | None]:
    # Not backward(): a model that is wrapped for several ranks would exchange gradients with them.
    return torch.autograd.grad(loss, list(trainable_parameters(model).values()), allow_unused=True)


def _gradient_norm(model: nn.Module, loss: Tensor) -> float:
    return nn.utils.get_total_norm([g for g in _gradients(model, loss) if g is not None]).item()


def _magnitude(tensor: Tensor) -> float | None:
    """Return the largest absolute value, or None if not all values are finite."""
    size = tensor.detach().abs().max().float().item() if tensor.numel() else 0.0
    return size if math.isfinite(size) else None
