"""A look into every layer, once in a while: gradients, updates, attention, units, the residual stream.

Within a step nothing is changed and nothing drawn: a run that is watched ends with the same bits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glassgpt.diagnosis.replay import attentions
from glassgpt.model.attention import attention_scores, attention_weights, causal_mask
from glassgpt.training.distributed import full_tensor, local_tensor
from glassgpt.training.loop import Trainer

PROBE_ROWS = 4
SAMPLED_WEIGHTS = 4096
"""Of each matrix; enough for its root mean square to within two percent."""
DEAD_BELOW = 1e-3


@dataclass(frozen=True)
class LayerSample:
    """What one look showed.

    Attributes:
        step: after which step.
        gradients: norm of each parameter's gradient, clipped; None where there was none.
        updates: root mean square of each matrix's update over that of its weights.
        staleness: of AdamW: root of the mean of squared gradients over their running mean, by parameter.
        entropies: of each block's heads: H over ln of the places that can be seen, mean over positions.
        scores: largest magnitude of a score, by block.
        dead: share of dead units, by block.
        residual: root mean square of what leaves each block; first what enters.
        log_z: mean log-sum-exp of the logits; None where the model is sharded.
    """

    step: int
    gradients: dict[str, float | None] = field(default_factory=dict[str, float | None])
    updates: dict[str, float] = field(default_factory=dict[str, float])
    staleness: dict[str, float] = field(default_factory=dict[str, float])
    entropies: list[list[float]] = field(default_factory=list[list[float]])
    scores: list[float] = field(default_factory=list[float])
    dead: list[float] = field(default_factory=list[float])
    residual: list[float] = field(default_factory=list[float])
    log_z: float | None = None

    def block_gradients(self) -> list[float]:
        """Norm of each block's gradient."""
        sums: dict[int, float] = {}
        for name, norm in self.gradients.items():
            if name.startswith("blocks.") and norm is not None:
                block = int(name.split(".")[1])
                sums[block] = sums.get(block, 0.0) + norm**2
        return [math.sqrt(sums[block]) for block in sorted(sums)]

    def median_update(self) -> float:
        """Median over matrices; NaN where none was seen."""
        return statistics.median(self.updates.values()) if self.updates else math.nan


class LayerProbe:
    """Takes a `LayerSample` every few steps and hands it on.

    Args:
        trainer: whose train_step it is put into by the caller.
        every: steps between two looks.
        tell: told each sample.
    """

    def __init__(self, trainer: Trainer, every: int, tell: Callable[[LayerSample], None]) -> None:
        self._trainer, self._every, self._tell = trainer, every, tell
        self._gradients: dict[str, float | None] = {}
        self._staleness: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}
        kinds = trainer.model.parameter_kinds()
        self._matrices = [name for name, kind in kinds.items() if kind == "matrix"]

    def before_update(self, step: int) -> None:
        """See `Probe`."""
        if step % self._every:
            return
        named = dict(self._trainer.model.named_parameters())
        present = {name: p.grad for name, p in named.items() if p.grad is not None}
        norms = _read({name: full_tensor(gradient.norm()) for name, gradient in present.items()})
        self._gradients = {name: norms.get(name) for name in named}
        self._staleness = _staleness(self._trainer)
        self._before = {name: _some(named[name]).clone() for name in self._matrices}

    def after_update(self, step: int) -> None:
        """See `Probe`."""
        if step % self._every:
            return
        named = dict(self._trainer.model.named_parameters())
        updates = _read({name: _ratio(_some(named[name]), before) for name, before in self._before.items()})
        self._before = {}
        if all(norm is None or math.isfinite(norm) for norm in self._gradients.values()):
            self._tell(
                LayerSample(
                    step,
                    gradients=self._gradients,
                    updates={name: ratio for name, ratio in updates.items() if math.isfinite(ratio)},
                    staleness=self._staleness,
                    **look(self._trainer),
                )
            )


@torch.no_grad()
def look(trainer: Trainer) -> dict[str, Any]:
    """Run a few rows of the training text, always the same, without dropout, and look at what passes by."""
    train_step = trainer.train_step
    batches, device = train_step.batches, trainer.hardware.device
    rows = max(1, min(PROBE_ROWS, train_step.micro_batch_size, (len(batches.tokens) - 1) // batches.context_length))
    inputs, targets = batches.read(np.arange(rows, dtype=np.int64) * batches.context_length)
    was_training = trainer.model.training
    trainer.model.eval()
    with _Looking(trainer) as seen, trainer.hardware.autocast():
        train_step.loss.validate(inputs.to(device), targets.to(device))
    trainer.model.train(was_training)
    return seen.figures()


class _Looking:
    """Hooks on blocks, units and attention; takes them away again."""

    def __init__(self, trainer: Trainer) -> None:
        self._model, self._sharded = trainer.model, trainer.train_step.loss.is_sharded
        self._handles: list[Any] = []
        self._kept: list[tuple[Any, Any]] = []
        self._entropies: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._dead: list[Tensor] = []
        self._residual: list[Tensor] = []
        self._log_z: Tensor | None = None

    def __enter__(self) -> _Looking:
        for module in attentions(self._model):
            self._kept.append((module, module.attend))
            module.attend = self._attend
        for block in self._model.blocks:
            if not self._residual and not self._handles:
                self._handles.append(block.register_forward_pre_hook(self._enters))
            self._handles.append(block.register_forward_hook(self._leaves))
            self._handles.append(block.mlp.down.register_forward_pre_hook(self._units))  # type: ignore[union-attr, operator]
        if not self._sharded:
            self._handles.append(self._model.norm.register_forward_hook(self._ends))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for module, attend in self._kept:
            module.attend = attend

    def figures(self) -> dict[str, Any]:
        """As `LayerSample` has them."""
        return {
            "entropies": [heads.tolist() for heads in self._entropies],
            "scores": torch.stack(self._scores).tolist() if self._scores else [],
            "dead": torch.stack(self._dead).tolist() if self._dead else [],
            "residual": torch.stack(self._residual).tolist(),
            "log_z": None if self._log_z is None else self._log_z.item(),
        }

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
        k, v = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
        visible = causal_mask(q.size(2), k.size(2), q.device, window) if mask is None else mask
        weights = attention_weights(q.float(), k.float(), visible)
        entropy = torch.special.entr(weights).sum(-1)  # (B, H, T)
        most = visible.sum(-1).float().log()  # a query that sees one place has no choice
        share = (entropy / most.clamp_min(1e-9))[..., 1:] if q.size(2) > 1 else entropy
        self._entropies.append(share.mean(dim=(0, 2)))
        self._scores.append(attention_scores(q.float(), k.float()).masked_fill(~visible, 0.0).abs().max())
        return weights.to(v.dtype) @ v

    def _enters(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._residual.append(_rms(inputs[0]))

    def _leaves(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self._residual.append(_rms(output))

    def _units(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._dead.append((inputs[0].abs().amax(dim=(0, 1)) < DEAD_BELOW).float().mean())

    def _ends(self, norm: nn.Module, inputs: Any, features: Tensor) -> None:
        self._log_z = self._model.head(features[:1]).float().logsumexp(-1).mean()


def _staleness(trainer: Trainer) -> dict[str, float]:
    """AdamW's: how much larger gradients are than their running mean says (Wortsman et al. 2023, section 3.4)."""
    found: dict[str, Tensor] = {}
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    for optimizer in trainer.train_step.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                second = optimizer.state.get(parameter, {}).get("exp_avg_sq")
                if second is None or parameter.grad is None:
                    continue
                gradient, v = _some(parameter.grad), _some(second)
                ratio = gradient.square() / v.clamp_min(group["eps"] ** 2)
                found[names[id(parameter)]] = ratio.mean().sqrt()
    return _read(found)


def _some(tensor: Tensor) -> Tensor:
    """A few of its values, evenly spread."""
    flat = local_tensor(tensor).flatten()
    return flat[:: max(1, flat.numel() // SAMPLED_WEIGHTS)]


def _ratio(after: Tensor, before: Tensor) -> Tensor:
    return _rms(after - before) / _rms(before)


def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()


def _read(scalars: dict[str, Tensor]) -> dict[str, float]:
    """All of them at once: the device is waited for a single time."""
    if not scalars:
        return {}
    values = torch.stack([value.float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
