"""Samples every layer at intervals: gradients, updates, attention, MLP units, the residual stream.

Sampling changes no weight and draws no random number, so a monitored run ends with the same bits as one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.tensor_samples import read_scalars, root_mean_square, subsample
from glassgpt.model.attention import attention_scores, attention_weights, causal_mask
from glassgpt.model.lora import trainable_parameters
from glassgpt.training.attention_modules import attention_modules
from glassgpt.training.distributed import full_tensor
from glassgpt.training.loop import Trainer

PROBE_SEQUENCES, PROBE_TOKENS = 4, 1024
"""Sequences of the extra forward pass, which costs a fraction of a training step, and tokens that they must have at
least: sparse units are silent on a hundred tokens without being dead."""
DEAD_BELOW = 1e-3
"""A unit that never exceeds this on any token counts as dead."""
UNTOUCHED = 1e20
"""AdamW's epsilon over the root of a mean squared gradient that is zero, or larger."""


class LayerProbe:
    """Takes a `LayerSample` every `every` steps; the caller adds it to the train step's probes.

    Args:
        trainer: the run.
        every: steps between two samples.
        on_sample: called with each sample.
    """

    def __init__(self, trainer: Trainer, every: int, on_sample: Callable[[LayerSample], None]) -> None:
        self._trainer, self._every, self._on_sample = trainer, every, on_sample
        self._gradients: dict[str, float | None] = {}
        self._staleness: dict[str, float] = {}
        self._epsilon: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}
        kinds = trainer.model.parameter_kinds()
        self._matrices = [name for name in trainable_parameters(trainer.model) if kinds[name] == "matrix"]

    def before_update(self, step: int) -> None:
        """See `Probe`."""
        if step % self._every:
            return
        named = trainable_parameters(self._trainer.model)
        present = {name: p.grad for name, p in named.items() if p.grad is not None}
        norms = read_scalars({name: full_tensor(gradient.norm()) for name, gradient in present.items()})
        self._gradients = {name: norms.get(name) for name in named}
        self._staleness = _staleness(self._trainer, named)
        self._epsilon = _epsilon_share(self._trainer, named)
        self._before = {name: subsample(named[name]).clone() for name in self._matrices}

    def after_update(self, step: int) -> None:
        """See `Probe`."""
        if step % self._every:
            return
        named = dict(self._trainer.model.named_parameters())
        updates = read_scalars({name: _ratio(subsample(named[name]), before) for name, before in self._before.items()})
        self._before = {}
        if all(norm is None or math.isfinite(norm) for norm in self._gradients.values()):
            self._on_sample(
                LayerSample(
                    step,
                    gradients=self._gradients,
                    updates={name: ratio for name, ratio in updates.items() if math.isfinite(ratio)},
                    staleness=self._staleness,
                    epsilon=self._epsilon,
                    **sample_activations(self._trainer),
                )
            )


@torch.no_grad()
def sample_activations(trainer: Trainer) -> dict[str, Any]:
    """Run a few sequences of the training text, spread over it, without dropout and return the statistics recorded by hooks.

    Returns:
        The fields of `LayerSample` that come from activations.
    """
    train_step = trainer.train_step
    batches, device = train_step.batches, trainer.hardware.device
    available = (len(batches.tokens) - 1) // batches.context_length
    wanted = max(min(PROBE_SEQUENCES, train_step.micro_batch_size), -(-PROBE_TOKENS // batches.context_length))
    windows = np.linspace(0, available - 1, max(1, min(wanted, available))).astype(np.int64)
    inputs, targets = batches.read(windows * batches.context_length)
    was_training = trainer.model.training
    trainer.model.eval()
    with _ActivationHooks(trainer) as hooks, trainer.hardware.autocast():
        train_step.loss.validate(inputs.to(device), targets.to(device))
    trainer.model.train(was_training)
    return hooks.results()


class _ActivationHooks:
    """Hooks on blocks, MLP units and attention, removed at the end of the `with` block."""

    def __init__(self, trainer: Trainer) -> None:
        self._model, self._is_sharded = trainer.model, trainer.train_step.loss.is_sharded
        self._handles: list[Any] = []
        self._original_attend: list[tuple[Any, Any]] = []
        self._entropies: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._dead: list[Tensor] = []
        self._activations: list[Tensor] = []
        self._residual: list[Tensor] = []
        self._log_z: Tensor | None = None

    def __enter__(self) -> _ActivationHooks:
        for module in attention_modules(self._model):
            self._original_attend.append((module, module.attend))
            module.attend = self._attend
        for block in self._model.blocks:
            if not self._handles:
                self._handles.append(block.register_forward_pre_hook(self._before_first_block))
            self._handles.append(block.register_forward_hook(self._after_block))
            if "mlp.down" in dict(block.named_modules()):  # a block of the user's own may have none
                down = block.get_submodule("mlp.down")
                self._handles.append(down.register_forward_pre_hook(self._before_down_projection))
        if not self._is_sharded:
            self._handles.append(self._model.norm.register_forward_hook(self._after_last_norm))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for module, attend in self._original_attend:
            module.attend = attend

    def results(self) -> dict[str, Any]:
        """Return the statistics by the names of `LayerSample`."""
        return {
            "entropies": [heads.tolist() for heads in self._entropies],
            "scores": torch.stack(self._scores).tolist() if self._scores else [],
            "dead": torch.stack(self._dead).tolist() if self._dead else [],
            "activations": torch.stack(self._activations).tolist() if self._activations else [],
            "residual": torch.stack(self._residual).tolist() if self._residual else [],
            "log_z": None if self._log_z is None else self._log_z.item(),
        }

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, *reach: int) -> Tensor:
        k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        visible = causal_mask(q.size(2), k.size(2), q.device, *reach) if mask is None else mask
        weights = attention_weights(q.float(), k.float(), visible)
        entropy = torch.special.entr(weights).sum(-1)  # (B, H, T)
        most = visible.sum(-1).float().log()  # ln of the visible positions
        # The first query sees one position: its entropy is 0 of a possible 0, so it is left out. Where no query sees
        # another one (a context or window of one position), nothing is narrow.
        share = (entropy / most.clamp_min(1e-9))[..., 1:] if bool((most > 0).any()) else torch.ones_like(entropy)
        self._entropies.append(share.mean(dim=(0, 2)))
        self._scores.append(attention_scores(q.float(), k.float()).masked_fill(~visible, 0.0).abs().max())
        return weights.to(v.dtype) @ v

    def _before_first_block(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._residual.append(root_mean_square(inputs[0]))

    def _after_block(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self._residual.append(root_mean_square(output))

    def _before_down_projection(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest = inputs[0].abs().amax(dim=(0, 1))  # of each unit
        self._dead.append((largest < DEAD_BELOW).float().mean())
        self._activations.append(largest.max())

    def _after_last_norm(self, norm: nn.Module, inputs: Any, features: Tensor) -> None:
        self._log_z = self._model.head(features[:1]).float().logsumexp(-1).mean()


def _ratio(after: Tensor, before: Tensor) -> Tensor:
    return root_mean_square(after - before) / root_mean_square(before)


def _staleness(trainer: Trainer, named: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how much larger gradients are than AdamW's running mean suggests, for each dense parameter.

    It is the root mean of g² / v (Wortsman et al. 2023, section 3.4). Embeddings and heads are left out: the row of a
    rare token gets almost no gradient between its occurrences, so its v decays and g² / v is huge when it comes, in
    good runs as well. With Muon these are the only matrices that AdamW updates.
    """
    dense = {name for name, kind in trainer.model.parameter_kinds().items() if kind in ("matrix", "vector")}
    names = {id(parameter): name for name, parameter in named.items() if name in dense}
    found: dict[str, Tensor] = {}
    for optimizer in trainer.train_step.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                second = optimizer.state.get(parameter, {}).get("exp_avg_sq")
                if second is None or parameter.grad is None or id(parameter) not in names:
                    continue
                gradient, v = subsample(parameter.grad), subsample(second)
                ratio = gradient.square() / v.clamp_min(group["eps"] ** 2)
                found[names[id(parameter)]] = ratio.mean().sqrt()
    return read_scalars(found)


def _epsilon_share(trainer: Trainer, named: Mapping[str, Tensor]) -> dict[str, float]:
    """Return AdamW's epsilon over the root of its mean squared gradient, for each parameter that AdamW updates.

    The mean over the whole tensor: single values are smaller than epsilon in good runs, the rows of unseen tokens.
    """
    names = {id(parameter): name for name, parameter in named.items()}
    found: dict[str, Tensor] = {}
    for optimizer in trainer.train_step.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "exp_avg_sq" not in state or "step" not in state or id(parameter) not in names:
                    continue
                correction = (1 - group["betas"][1] ** state["step"].float()).clamp_min(1e-12)
                second = subsample(state["exp_avg_sq"]).mean() / correction.to(parameter.device)
                found[names[id(parameter)]] = group["eps"] / second.sqrt().clamp_min(1e-30)
    ratios = read_scalars(found)
    # Half of an adapter has no gradient in its first step, because the other half is zero; that is as it should be.
    return {name: ratio for name, ratio in ratios.items() if ratio < UNTOUCHED} or ratios
