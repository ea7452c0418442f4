"""An independent model on the weights of a run, to compute losses and gradients again.

It is built from the configuration, so it has none of the hooks, replaced kernels or changed modules of the model that is
trained. Its parameters share the memory of the run's, so it costs no memory beside its gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.diagnosis.audit.record import MicroBatch
from glassgpt.diagnosis.tensor_samples import Samples, sample_all
from glassgpt.model.attention import attend_readable
from glassgpt.model.lora import build_like, trainable_parameters
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.attention_modules import attention_modules
from glassgpt.training.loop import Trainer
from glassgpt.training.rng import preserved_rng, restore_torch_rng

HEAD = "head"
"""Name of the last stage, the logits, which is not a module everywhere."""


class ReferenceModel:
    """Computes losses and gradients of a run's micro-batches again.

    Args:
        trainer: the run; its model must not be sharded.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._device = trainer, trainer.hardware.device
        with preserved_rng(self._device):
            # Drawing weights, which are replaced at once, would take a second of the run for 100 million of them.
            self._model = build_like(trainer.model, draws_weights=False)
        self._bind()
        self._model.to(self._device)  # only buffers still have to move
        self._choose_attention()

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return self._model.config.vocab_size

    def missing_parameters(self) -> set[str]:
        """Return the names of parameters that only one of the two models has."""
        return {name for name, _ in self._model.named_parameters()} ^ {
            name for name, _ in self._trainer.model.named_parameters()
        }

    def loss_and_gradients(self, micro_batch: MicroBatch, micro_steps: int) -> tuple[Tensor, Samples]:
        """Return the mean loss of a micro-batch and samples of its gradients, with the same dropout.

        The backward pass begins with the loss that training began it with, divided by `micro_steps` and scaled in fp16:
        without the scale, gradients of large micro-batches are too small for fp16, and are rounded to zero.
        """
        self._bind()
        self._model.train(self._trainer.model.training)
        named = trainable_parameters(self._model)
        chunk_tokens = self._trainer.train_step.memory_plan.loss_chunk_tokens
        with preserved_rng(self._device), self._trainer.hardware.autocast():
            if micro_batch.rng is not None:
                restore_torch_rng(micro_batch.rng, self._device)
            audited = self._trainer.train_step.loss.of(self._model, chunk_tokens)
            loss = audited(micro_batch.inputs, micro_batch.targets)
        scale = self._trainer.train_step.scaler.get_scale()
        scaled = torch.autograd.grad(loss / micro_steps * scale, list(named.values()), allow_unused=True)
        samples = sample_all(dict(zip(named, scaled, strict=True)))
        return loss.detach(), {name: values * (micro_steps / scale) for name, values in samples.items()}

    @torch.no_grad()
    def loss_of(self, inputs: Tensor, targets: Tensor) -> float:
        """Return the mean loss without dropout."""
        self._bind()
        self._model.eval()
        with self._trainer.hardware.autocast():
            return self._trainer.train_step.loss.of(self._model)(inputs, targets).item()

    def dropouts(self) -> list[tuple[str, float, float]]:
        """Return the name of each module with dropout, its probability in the run and the configured one."""
        found: list[tuple[str, float, float]] = []
        configured = dict(self._model.named_modules())
        for name, module in self._trainer.model.named_modules():
            other = configured.get(name)
            for attribute in ("p", "dropout"):
                mine, due = getattr(module, attribute, None), getattr(other, attribute, None)
                if isinstance(mine, float | int) and isinstance(due, float | int):
                    found.append((name, float(mine), float(due)))
        return found

    def first_difference(self, inputs: Tensor, limit: float) -> tuple[str, float] | None:
        """Return the first module that computes something else than its architecture, and the relative difference.

        Where its input differs already, the difference arose in the module around it, between its parts.
        """
        self._bind()
        mine, reference = self._outputs(self._trainer.model, inputs), self._outputs(self._model, inputs)
        for name, (given, output) in reference.items():
            if name not in mine or (difference := _difference(mine[name][1], output)) <= limit:
                continue
            is_inside = name == HEAD or _difference(mine[name][0], given) <= limit
            return (name if is_inside else name.rpartition(".")[0] or "model"), difference
        return None

    @torch.no_grad()
    def _outputs(self, model: LanguageModel, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the first input and output of every module in a pass without dropout, in order of completion."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
                if isinstance(output, Tensor) and name not in found and given and isinstance(given[0], Tensor):
                    found[name] = given[0].detach().clone(), output.detach().clone()

            return hook

        was_training = model.training
        handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules()]
        model.eval()
        try:
            with self._trainer.hardware.autocast():
                found[HEAD] = inputs, model(inputs)
        finally:
            model.train(was_training)
            for handle in handles:
                handle.remove()
        found.pop("", None)
        return found

    def _bind(self) -> None:
        """Point the parameters at the run's weights, which may have been replaced since."""
        weights = dict(self._trainer.model.named_parameters())
        for name, parameter in list(self._model.named_parameters()):
            if name in weights and weights[name].data_ptr() != parameter.data_ptr():
                owner, _, attribute = name.rpartition(".")
                module = self._model.get_submodule(owner)
                setattr(module, attribute, nn.Parameter(weights[name].detach(), parameter.requires_grad))

    def _choose_attention(self) -> None:
        """Use the kernel that the configuration gives, or the readable one where recovery chose it."""
        kernel = self._trainer.hardware.attention(self._model.config)
        live = attention_modules(self._trainer.model)
        for number, module in enumerate(attention_modules(self._model)):
            replaced = number < len(live) and live[number].attend is attend_readable
            module.attend = attend_readable if replaced else kernel


def _difference(output: Tensor, expected: Tensor) -> float:
    """Return the relative distance of two outputs; infinite if their shapes differ."""
    if output.shape != expected.shape:
        return float("inf")
    size = expected.float().norm().item()
    distance = (output.float() - expected.float()).norm().item()
    return distance / size if size else float(distance > 0)
