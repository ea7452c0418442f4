"""How a model is trained, as data. Free of torch, so that configurations can be read and checked alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        max_steps: optimizer steps in all.
        batch_tokens: tokens for one optimizer step; a multiple of the context length.
        micro_batch_size: sequences per forward pass, the rest is accumulated; 0 takes the whole batch at once.
        learning_rate: highest rate, reached after warmup.
        clip_norm: largest global gradient norm, larger ones are scaled down; 0 switches clipping off.
        precision: arithmetic of the forward pass; auto is bf16 on a GPU that has it and fp32 elsewhere.
        device: where to train; auto takes CUDA, then MPS, then the CPU.
        compile: torch.compile; auto uses it on CUDA, where it pays.
        eval_every_steps: steps between validations; 0 validates only at the end.
        eval_tokens: validation tokens looked at while training, from the start of the set; 0 takes all.
        early_stop_evaluations: stop after so many validations without a new best; 0 never stops early.
    """

    max_steps: int = 1000
    batch_tokens: int = 16384
    micro_batch_size: int = 0
    learning_rate: float = 6e-4
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    eval_every_steps: int = 250
    eval_tokens: int = 0
    early_stop_evaluations: int = 0

    def problems(self) -> list[str]:
        """Everything about this configuration that cannot work, a line each."""
        found = [
            f"train.{name} is {getattr(self, name)}; it must be at least {least}"
            for name, least in (
                ("max_steps", 1),
                ("batch_tokens", 1),
                ("micro_batch_size", 0),
                ("eval_every_steps", 0),
                ("eval_tokens", 0),
                ("early_stop_evaluations", 0),
            )
            if getattr(self, name) < least
        ]
        if not 0 < self.learning_rate < float("inf"):
            found.append(f"train.learning_rate is {self.learning_rate}; it must be positive and finite")
        if not 0 <= self.clip_norm < float("inf"):
            found.append(f"train.clip_norm is {self.clip_norm}; it must be positive, or 0 for no clipping")
        if self.early_stop_evaluations > 0 and self.eval_every_steps == 0:
            found.append("train.early_stop_evaluations needs validations: set train.eval_every_steps")
        return found

    def batch_problems(self, context_length: int) -> list[str]:
        """Whether the batch divides into sequences and micro-batches."""
        if min(self.batch_tokens, context_length) < 1 or self.micro_batch_size < 0:
            return []
        rows, rest = divmod(self.batch_tokens, context_length)
        if rest:
            nearest = max(1, round(self.batch_tokens / context_length)) * context_length
            return [
                f"train.batch_tokens is {self.batch_tokens}, not a multiple of model.context_length "
                f"{context_length}; the nearest is {nearest}"
            ]
        if self.micro_batch_size and rows % self.micro_batch_size:
            divisors = [n for n in range(1, rows + 1) if rows % n == 0]
            nearest = min(divisors, key=lambda n: abs(n - self.micro_batch_size))
            return [
                f"train.micro_batch_size is {self.micro_batch_size}, which does not divide the {rows} sequences "
                f"of a batch; the nearest that does is {nearest}"
            ]
        return []


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Attributes:
        name: algorithm; AdamW (Loshchilov and Hutter 2019).
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        epsilon: added to the root of the squared mean.
        weight_decay: pull of matrices towards zero; embeddings, biases and gains are never decayed.
    """

    name: Literal["adamw"] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1

    def problems(self) -> list[str]:
        """Everything about this configuration that cannot work, a line each."""
        found = [
            f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and below 1"
            for name in ("beta1", "beta2")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.epsilon <= 0:
            found.append(f"optimizer.epsilon is {self.epsilon}; it must be positive")
        if self.weight_decay < 0:
            found.append(f"optimizer.weight_decay is {self.weight_decay}; it must not be negative")
        return found


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the steps, as a share of its peak.

    Attributes:
        kind: shape after warmup; wsd is warmup, stable, decay (Hu et al. 2024).
        warmup_steps: steps of linear rise from 0.
        final_ratio: rate at the last step over the peak, for linear, cosine and wsd.
        decay_fraction: share of all steps that wsd spends on its final linear decay.
        step_every: steps between two drops, for step.
        step_factor: what a drop multiplies the rate with, for step.
    """

    kind: Literal["constant", "linear", "cosine", "step", "wsd"] = "cosine"
    warmup_steps: int = 100
    final_ratio: float = 0.1
    decay_fraction: float = 0.2
    step_every: int = 1000
    step_factor: float = 0.5

    def fitted(self, max_steps: int) -> ScheduleConfig:
        """The same with a warmup that ends before training does: a tenth of the steps if it would not."""
        if self.warmup_steps < max_steps:
            return self
        return replace(self, warmup_steps=max_steps // 10)

    def problems(self) -> list[str]:
        """Everything about this configuration that cannot work, a line each."""
        found: list[str] = []
        if self.warmup_steps < 0:
            found.append(f"schedule.warmup_steps is {self.warmup_steps}; it must not be negative")
        for name in ("final_ratio", "decay_fraction", "step_factor"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"schedule.{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.step_every < 1:
            found.append(f"schedule.step_every is {self.step_every}; it must be at least 1")
        return found


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run.

    Attributes:
        every_steps: steps between checkpoints; 0 saves only at the end and when interrupted.
        keep_last: how many of the newest are kept.
        keep_best: whether the one of the lowest validation loss is saved and kept as well.
    """

    every_steps: int = 500
    keep_last: int = 2
    keep_best: bool = True

    @property
    def most_kept(self) -> int:
        """Checkpoints on disk at the worst moment: those kept and the one being written."""
        return self.keep_last + int(self.keep_best) + 1

    def problems(self) -> list[str]:
        """Everything about this configuration that cannot work, a line each."""
        found: list[str] = []
        if self.every_steps < 0:
            found.append(f"checkpoint.every_steps is {self.every_steps}; it must not be negative")
        if self.keep_last < 1:
            found.append(f"checkpoint.keep_last is {self.keep_last}; it must be at least 1, or a run could not go on")
        return found
