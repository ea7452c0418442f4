"""The configuration of training. Does not import torch, so that configurations can be read and checked quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from glassgpt.training.preference_config import PreferenceConfig
from glassgpt.training.trackers.names import tracker_problems


def divisors(n: int) -> list[int]:
    """Return all divisors of a positive number, smallest first."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return small + [n // k for k in reversed(small) if k * k != n]


LARGEST_BATCH_TOKENS = 1 << 36
"""Thousands of times the largest batches in use."""


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        max_steps: total number of optimizer steps.
        batch_tokens: tokens per optimizer step; a multiple of the sequence length.
        sequence_length: tokens of a training sequence; 0 is the model's whole context.
        micro_batch_size: sequences per forward pass and process; gradients are accumulated over the batch. 0 is the whole
            batch at once, auto measures at the start how many fit into memory.
        learning_rate: peak learning rate, reached after warmup.
        clip_norm: largest global gradient norm; larger gradients are scaled down. 0 switches clipping off.
        precision: arithmetic of the forward pass; auto is bf16 on a GPU that supports it and fp32 elsewhere, fast also takes
            bf16 on a CPU that has instructions for it.
        fp8: matrix products in 8-bit floats, which newer GPUs compute faster and which round more: head does so for the head
            and its loss, mlp also for the MLPs, all also for attention's linear layers. Needs bf16 and a GPU of compute
            capability 8.9 (Ada) or newer.
        fp8_until: share of the steps with train.fp8; the last steps compute in 16 bits again, so that the weights adapt to
            unrounded products. 1 is all steps.
        device: device to train on; auto takes CUDA, then MPS, then the CPU.
        compile: whether to use torch.compile; auto uses it on CUDA, where it pays off.
        deterministic: whether a run on a GPU ends with the same bits each time it is trained or resumed; on a CPU it always
            does. auto does so where it costs little: on Hopper or newer in 16 bits without fp8, with the extra deterministic.
        sharding: with several processes, full shards weights and optimizer over them (FSDP2), for models that one GPU
            cannot hold; none gives each process a copy (DDP), which is faster.
        loss_chunk_tokens: tokens whose logits are held in memory at once; 0 holds those of the whole micro-batch, which
            takes memory for batch x vocabulary and is faster on a GPU. On a CPU, chunks that fit into its cache are faster.
        recompute_activations: recompute each block's activations in the backward pass instead of storing them: less memory,
            about a third more time.
        ema_decay: decay per step of an exponential average of the weights; the average is then what is validated, saved
            as best and used. 0 keeps no average.
        teacher: run whose best weights teach this model their predictions (distillation): the loss is the cross-entropy with
            the teacher's probabilities. Empty learns from the text alone.
        loss: function of your own in place of the cross-entropy, as module:function; it maps logits (B, T, V) and targets
            (B, T) to the mean loss. Validation uses the cross-entropy. Empty is the cross-entropy.
        eval_every_steps: steps between validations; 0 validates only at the end.
        eval_tokens: validation tokens used while training, from the start of the set; 0 uses all.
        early_stop_evaluations: validations without a new best after which training stops; 0 never stops early.
        snapshots: whether the weights alone are also saved at steps 0, 1, 2, 4, 8 and so on, to show how the model learned;
            they are never deleted. auto does so where all of them together take at most 200 MB.
        trackers: programs that also record the run, separated by commas: tensorboard, wandb, mlflow, trackio. Each is an extra
            of its name and writes into the run's folder; nothing is sent unless a variable such as WANDB_MODE says so.
    """

    max_steps: int = 1000
    batch_tokens: int = 16384
    sequence_length: int = 0
    micro_batch_size: int | Literal["auto"] = 0
    learning_rate: float = 6e-4
    clip_norm: float = 1.0
    precision: Literal["auto", "fast", "fp32", "bf16", "fp16"] = "auto"
    fp8: Literal["off", "head", "mlp", "all"] = "off"
    fp8_until: float = 1.0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    deterministic: Literal["auto", "on", "off"] = "auto"
    sharding: Literal["none", "full"] = "none"
    loss_chunk_tokens: int = 0
    recompute_activations: bool = False
    ema_decay: float = 0.0
    teacher: str = ""
    loss: str = ""
    eval_every_steps: int = 250
    eval_tokens: int = 0
    early_stop_evaluations: int = 0
    snapshots: Literal["auto", "on", "off"] = "auto"
    trackers: str = ""

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found = [
            f"train.{name} is {getattr(self, name)}; it must be at least {least}"
            for name, least in (
                ("max_steps", 1),
                ("batch_tokens", 1),
                ("sequence_length", 0),
                ("loss_chunk_tokens", 0),
                ("eval_every_steps", 0),
                ("eval_tokens", 0),
                ("early_stop_evaluations", 0),
            )
            if getattr(self, name) < least
        ]
        if self.batch_tokens > LARGEST_BATCH_TOKENS:
            found.append(f"train.batch_tokens is {self.batch_tokens}; it must be at most {LARGEST_BATCH_TOKENS}")
        if self.micro_batch_size != "auto" and self.micro_batch_size < 0:
            found.append(f"train.micro_batch_size is {self.micro_batch_size}; it must be at least 0, or auto")
        if not 0 < self.learning_rate < float("inf"):
            found.append(f"train.learning_rate is {self.learning_rate}; it must be positive and finite")
        if not 0 <= self.clip_norm < float("inf"):
            found.append(f"train.clip_norm is {self.clip_norm}; it must be positive and finite, or 0 for no clipping")
        if not 0 <= self.ema_decay < 1:
            found.append(f"train.ema_decay is {self.ema_decay}; it must be at least 0 (no average) and below 1")
        if self.sharding == "full" and self.precision == "fp16":
            found.append("train.precision fp16 cannot be combined with train.sharding full; use bf16")
        if self.sharding == "full" and self.micro_batch_size == "auto":
            found.append("train.micro_batch_size auto cannot be combined with train.sharding full; set a number")
        if self.sharding == "full" and self.ema_decay:
            found.append(
                "train.ema_decay cannot be combined with train.sharding full; set train.ema_decay to 0 or train.sharding to none"
            )
        if self.loss and self.teacher:
            found.append("train.loss cannot be combined with train.teacher, which is a loss as well; leave one out")
        if self.loss and self.loss_chunk_tokens:
            found.append("train.loss needs all logits at once; set train.loss_chunk_tokens to 0")
        found += self._fp8_problems()
        if self.early_stop_evaluations > 0 and self.eval_every_steps == 0:
            found.append("train.early_stop_evaluations needs validations: set train.eval_every_steps")
        return found + tracker_problems(self.trackers)

    def _fp8_problems(self) -> list[str]:
        others = (
            ("precision", self.precision in ("fp32", "fp16"), "use bf16"),
            ("deterministic", self.deterministic == "on", "use auto"),
            ("sharding", self.sharding == "full", "use none"),
            ("loss", bool(self.loss), "leave it out"),
            ("teacher", bool(self.teacher), "leave it out"),
        )
        found = [
            f"train.{name} {getattr(self, name)} cannot be combined with train.fp8 {self.fp8}; {advice}"
            for name, does, advice in others
            if does and self.fp8 != "off"
        ]
        if not 0 < self.fp8_until <= 1:
            found.append(f"train.fp8_until is {self.fp8_until}; it must be above 0 and at most 1")
        elif self.fp8_until < 1 and self.fp8 == "off":
            found.append(
                f"train.fp8_until is {self.fp8_until}, but train.fp8 is off; set train.fp8 to head, mlp or all"
            )
        return found

    @property
    def fp8_steps(self) -> int:
        """Number of steps whose products are computed in 8 bits."""
        return round(self.fp8_until * self.max_steps) if self.fp8 != "off" else 0

    def resolve_micro_batch_size(self, batch_size: int) -> int:
        """Return the sequences per forward pass for `batch_size` sequences per step and process.

        With `auto` these are all of them; how many fit is measured when training starts.
        """
        return batch_size if self.micro_batch_size in (0, "auto") else int(self.micro_batch_size)

    def resolve_sequence_length(self, context_length: int) -> int:
        """Return the tokens of a training sequence for a model with this context."""
        return self.sequence_length or context_length

    def batch_problems(self, context_length: int, world_size: int = 1) -> list[str]:
        """Return a line if the batch does not divide into sequences, processes and micro-batches."""
        if self.sequence_length > context_length > 0:
            return [
                f"train.sequence_length is {self.sequence_length}; it must be at most model.context_length {context_length}"
            ]
        context_length, name = (
            (self.sequence_length, "train.sequence_length")
            if self.sequence_length > 0
            else (context_length, "model.context_length")
        )
        if min(self.batch_tokens, context_length) < 1 or self.batch_tokens > LARGEST_BATCH_TOKENS:
            return []
        batch_size, rest = divmod(self.batch_tokens, context_length)
        if rest:
            nearest = max(1, round(self.batch_tokens / context_length)) * context_length
            return [
                f"train.batch_tokens is {self.batch_tokens}; it must be a multiple of {name} "
                f"{context_length}; the nearest is {nearest}"
            ]
        if batch_size % world_size:
            nearest = max(1, round(batch_size / world_size)) * world_size * context_length
            return [
                f"train.batch_tokens is {self.batch_tokens}, which is {batch_size} sequences; {world_size} processes "
                f"cannot share them evenly. The nearest value that works is {nearest}"
            ]
        batch_size //= world_size
        micro_batch_size = self.resolve_micro_batch_size(batch_size)
        if micro_batch_size > 0 and batch_size % micro_batch_size:
            nearest = min(divisors(batch_size), key=lambda n: abs(n - micro_batch_size))
            where = f" on each of {world_size} processes" if world_size > 1 else ""
            return [
                f"train.micro_batch_size is {self.micro_batch_size}; it must divide the {batch_size} sequences of a "
                f"batch{where}; the nearest that does is {nearest}"
            ]
        return []


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Attributes:
        name: algorithm: adamw (Loshchilov and Hutter 2019) for all parameters, or muon (Jordan et al. 2024) for
            matrices and adamw for the rest.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        epsilon: added to the square root of the mean of squared gradients.
        weight_decay: weight decay of matrices; embeddings, biases and gains are never decayed.
        head_weight_decay: weight decay of an untied head.
        momentum: share of its running average that muon keeps in each step.
        momentum_warmup_steps: steps over which muon's momentum rises from 0.85 to optimizer.momentum; 0 is no warmup.
        embedding_rate_ratio: learning rate of embeddings over train.learning_rate.
        head_rate_ratio: learning rate of an untied head over train.learning_rate.
        vector_rate_ratio: learning rate of biases and gains over train.learning_rate.
    """

    name: Literal["adamw", "muon"] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    head_weight_decay: float = 0.0
    momentum: float = 0.95
    momentum_warmup_steps: int = 0
    embedding_rate_ratio: float = 1.0
    head_rate_ratio: float = 1.0
    vector_rate_ratio: float = 1.0

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found = [
            f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and below 1"
            for name in ("beta1", "beta2", "momentum")
            if not 0 <= getattr(self, name) < 1
        ]
        if not 0 < self.epsilon < float("inf"):
            found.append(f"optimizer.epsilon is {self.epsilon}; it must be positive and finite")
        for name in ("weight_decay", "head_weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                found.append(f"optimizer.{name} is {getattr(self, name)}; it must be at least 0 and finite")
        if self.momentum_warmup_steps < 0:
            found.append(f"optimizer.momentum_warmup_steps is {self.momentum_warmup_steps}; it must not be negative")
        for name in ("embedding_rate_ratio", "head_rate_ratio", "vector_rate_ratio"):
            if not 0 < getattr(self, name) < float("inf"):
                found.append(f"optimizer.{name} is {getattr(self, name)}; it must be positive and finite")
        return found


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate schedule.

    Attributes:
        kind: shape after warmup; wsd is warmup, stable, decay (Hu et al. 2024).
        warmup_steps: steps of linear warmup from 0.
        final_ratio: learning rate of the last step over the peak, for linear, cosine and wsd.
        decay_fraction: share of all steps in the final linear decay of wsd.
        step_every: steps between two drops of the learning rate, for step.
        step_factor: factor of each drop, for step.
        function: schedule of your own in place of kind, as module:function; it maps step, max_steps, warmup_steps and
            final_ratio to the learning rate over the peak.
    """

    kind: Literal["constant", "linear", "cosine", "step", "wsd"] = "cosine"
    warmup_steps: int = 100
    final_ratio: float = 0.1
    decay_fraction: float = 0.2
    step_every: int = 1000
    step_factor: float = 0.5
    function: str = ""

    def fitted(self, max_steps: int) -> ScheduleConfig:
        """Return the schedule with a warmup that ends before training does: a tenth of the steps if it would not."""
        if self.warmup_steps < max_steps:
            return self
        return replace(self, warmup_steps=max_steps // 10)

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
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
    """The checkpoints that are saved and kept.

    Attributes:
        every_steps: steps between checkpoints; 0 saves only at the end and when interrupted.
        keep_last: number of newest checkpoints to keep; the best one and snapshots (train.snapshots) are kept besides.
        keep_best: whether the checkpoint with the lowest validation loss is saved and kept as well.
        background: whether training continues while a checkpoint is written, which takes host memory for one more copy of
            weights and optimizer; auto does so on a GPU.
    """

    every_steps: int = 500
    keep_last: int = 2
    keep_best: bool = True
    background: Literal["auto", "on", "off"] = "auto"

    @property
    def max_kept(self) -> int:
        """Largest number of checkpoints on disk at once: those kept and the one being written."""
        return self.keep_last + int(self.keep_best) + 1

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found: list[str] = []
        if self.every_steps < 0:
            found.append(f"checkpoint.every_steps is {self.every_steps}; it must not be negative")
        if self.keep_last < 1:
            found.append(
                f"checkpoint.keep_last is {self.keep_last}; it must be at least 1, or the run could not be resumed"
            )
        return found


@dataclass(frozen=True)
class TrainerConfig:
    """The configuration of a `Trainer`."""

    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 1337
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
