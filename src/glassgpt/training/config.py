"""How a model is trained, as data. Free of torch, so that configurations can be read and checked alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal


def divisors(n: int) -> list[int]:
    """All divisors of a positive number, the smallest first."""
    return [k for k in range(1, n + 1) if n % k == 0]


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        max_steps: optimizer steps in all.
        batch_tokens: tokens for one optimizer step; a multiple of the context length.
        micro_batch_size: sequences per forward pass and process, the rest is accumulated; 0 takes the whole batch at
            once, auto measures at the start how many fit into memory.
        learning_rate: highest rate, reached after warmup.
        clip_norm: largest global gradient norm, larger ones are scaled down; 0 switches clipping off.
        precision: arithmetic of the forward pass; auto is bf16 on a GPU that has it and fp32 elsewhere.
        device: where to train; auto takes CUDA, then MPS, then the CPU.
        compile: torch.compile; auto uses it on CUDA, where it pays.
        sharding: with several processes, full spreads weights and optimizer over them (FSDP2), for models that one
            GPU cannot hold; none gives each a copy (DDP), which is faster.
        loss_chunk_tokens: tokens whose logits are held at once; 0 holds those of the whole micro-batch, which is
            faster and takes batch x vocabulary in memory.
        recompute_activations: forget each block's activations and compute them again for the gradient: less memory,
            about a third more time.
        ema_decay: share that an exponential average of the weights keeps each step; what is validated, saved as
            best and used is then the average. 0 is no average.
        eval_every_steps: steps between validations; 0 validates only at the end.
        eval_tokens: validation tokens looked at while training, from the start of the set; 0 takes all.
        early_stop_evaluations: stop after so many validations without a new best; 0 never stops early.
    """

    max_steps: int = 1000
    batch_tokens: int = 16384
    micro_batch_size: int | Literal["auto"] = 0
    learning_rate: float = 6e-4
    clip_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    sharding: Literal["none", "full"] = "none"
    loss_chunk_tokens: int = 0
    recompute_activations: bool = False
    ema_decay: float = 0.0
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
                ("loss_chunk_tokens", 0),
                ("eval_every_steps", 0),
                ("eval_tokens", 0),
                ("early_stop_evaluations", 0),
            )
            if getattr(self, name) < least
        ]
        if self.micro_batch_size != "auto" and self.micro_batch_size < 0:
            found.append(f"train.micro_batch_size is {self.micro_batch_size}; it must be at least 0, or auto")
        if not 0 < self.learning_rate < float("inf"):
            found.append(f"train.learning_rate is {self.learning_rate}; it must be positive and finite")
        if not 0 <= self.clip_norm < float("inf"):
            found.append(f"train.clip_norm is {self.clip_norm}; it must be positive, or 0 for no clipping")
        if not 0 <= self.ema_decay < 1:
            found.append(f"train.ema_decay is {self.ema_decay}; it must be at least 0 (no average) and below 1")
        if self.sharding == "full" and self.precision == "fp16":
            found.append("train.precision fp16 does not go with train.sharding full; take bf16")
        if self.sharding == "full" and self.micro_batch_size == "auto":
            found.append("train.micro_batch_size auto does not go with train.sharding full; name a number")
        if self.sharding == "full" and self.ema_decay:
            found.append("train.ema_decay does not go with train.sharding full; set one of them to 0 or none")
        if self.early_stop_evaluations > 0 and self.eval_every_steps == 0:
            found.append("train.early_stop_evaluations needs validations: set train.eval_every_steps")
        return found

    def resolve_micro_batch_size(self, rows: int) -> int:
        """Sequences of a forward pass where a process has so many a step; all of them where they are yet to be fitted."""
        return rows if self.micro_batch_size in (0, "auto") else int(self.micro_batch_size)

    def batch_problems(self, context_length: int, ranks: int = 1) -> list[str]:
        """Whether the batch divides into ranks, sequences and micro-batches."""
        if min(self.batch_tokens, context_length) < 1:
            return []
        rows, rest = divmod(self.batch_tokens, context_length)
        if rest:
            nearest = max(1, round(self.batch_tokens / context_length)) * context_length
            return [
                f"train.batch_tokens is {self.batch_tokens}, not a multiple of model.context_length "
                f"{context_length}; the nearest is {nearest}"
            ]
        if rows % ranks:
            nearest = max(1, round(rows / ranks)) * ranks * context_length
            return [
                f"train.batch_tokens is {self.batch_tokens}, {rows} sequences, which {ranks} processes cannot share "
                f"evenly; the nearest that they can is {nearest}"
            ]
        rows //= ranks
        asked = self.resolve_micro_batch_size(rows)
        if asked > 0 and rows % asked:
            nearest = min(divisors(rows), key=lambda n: abs(n - asked))
            return [
                f"train.micro_batch_size is {self.micro_batch_size}, which does not divide the {rows} sequences "
                f"of a batch{f' on each of {ranks} processes' if ranks > 1 else ''}; the nearest that does is {nearest}"
            ]
        return []


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer.

    Attributes:
        name: algorithm; adamw (Loshchilov and Hutter 2019) for everything, or muon (Jordan et al. 2024) for matrices
            and adamw for all else.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        epsilon: added to the root of the squared mean.
        weight_decay: pull of matrices towards zero; embeddings, biases and gains are never decayed.
        head_weight_decay: pull towards zero of a head that is not tied.
        momentum: share of the past that muon keeps in each step.
        momentum_warmup_steps: steps in which muon's momentum rises to that from 0.85; 0 has it from the start.
        embedding_rate_ratio: rate of embeddings over train.learning_rate.
        head_rate_ratio: rate of a head that is not tied over train.learning_rate.
        vector_rate_ratio: rate of biases and gains over train.learning_rate.
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
        """Everything about this configuration that cannot work, a line each."""
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
    def max_kept(self) -> int:
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


@dataclass(frozen=True)
class TrainerConfig:
    """Everything that a `Trainer` is configured with."""

    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 1337
