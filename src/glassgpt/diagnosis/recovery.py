"""What is mended by itself: only what can be undone, each within a budget, and all of it written to `events.jsonl`.

A step that is not finite was refused on the device already; this decides what follows. See decision 18.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glassgpt import console
from glassgpt.diagnosis.catalogue import reason
from glassgpt.diagnosis.checks.memory import USABLE, fit_micro_batch_size
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.replay import ReplayResult, explain_divergence, replay, set_attention
from glassgpt.model.attention import attend_readable
from glassgpt.training.checkpoint import checkpoint_step, damage, resolve_pointer
from glassgpt.training.config import divisors
from glassgpt.training.guard import Guard, RefusedStep
from glassgpt.training.loop import Trainer
from glassgpt.training.parallel import MemoryPlan

LEAST_CHUNK_TOKENS = 64


class Trouble(Protocol):
    """Who knows of trouble that a single step does not show: the watch."""

    def on_replay(self, step: int, result: ReplayResult, actions: Sequence[str]) -> None:
        """A replay came to this, and these actions of the catalogue were taken."""
        ...

    def on_divergence(self, step: int, result: ReplayResult | None, actions: Sequence[str]) -> None:
        """The loss left for good what it had reached; why, where that could be found out, and what was done."""
        ...

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        ...

    def diverging(self) -> bool:
        """Whether the loss has left for good what it had reached, as far as is known now."""
        ...

    def is_calm(self) -> bool:
        """Whether nothing speaks against certifying a checkpoint."""
        ...

    def forget_after(self, step: int) -> None:
        """Training went back to this step."""
        ...


class RecoveryPolicy(Guard[Trainer]):
    """Skips, quarantines, rewinds and takes less memory, or stops where its budget ends.

    Args:
        config: what may be done.
        trouble: who else may call for a rewind.
        measured: most bytes that were in use since it was last asked, and how many there are; None where the device
            does not tell.
        fitted: finds by measure how many sequences at once fit, where the configuration leaves that open.

    Attributes:
        verdicts: of the replays of this process.
    """

    def __init__(
        self,
        config: DiagnosisConfig,
        trouble: Trouble | None = None,
        measured: Callable[[], tuple[int, int]] | None = None,
        fitted: Callable[[Trainer], int | None] = fit_micro_batch_size,
    ) -> None:
        self._fitted = fitted
        self._config, self._trouble = config, trouble
        self._measured = measured or (_cuda_memory if torch.cuda.is_available() else None)
        self.verdicts: list[ReplayResult] = []
        self._skips: deque[int] = deque(maxlen=config.skips_before_rewind)
        self._replays = self._rewinds = 0
        self._candidates: list[Path] = []
        self._plain_attention = False
        self._peaks: dict[int, int] = {}
        self._roomy_since = 0
        self._too_many_rows: int | None = None

    def begin(self, trainer: Trainer) -> None:
        """Fit the micro-batch where that is asked; remember the beginning, to rewind to before the first checkpoint."""
        if trainer.config.train.micro_batch_size == "auto" and not trainer.state.memory:
            self._fit(trainer)
        if self._config.recover and trainer.state.step == 0:
            trainer.keep_initial_weights()
        if self._plain_attention:
            _attend_plainly(trainer)

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {
            "skips": list(self._skips),
            "replays": self._replays,
            "rewinds": self._rewinds,
            "plain_attention": self._plain_attention,
            "roomy_since": self._roomy_since,
            "too_many_rows": self._too_many_rows,
            "watch": self._trouble.state() if self._trouble else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """See `Guard`."""
        if not state:
            return
        self._skips.extend(state["skips"])
        self._replays, self._rewinds = state["replays"], state["rewinds"]
        self._plain_attention = state["plain_attention"]
        self._roomy_since, self._too_many_rows = state["roomy_since"], state["too_many_rows"]
        if self._trouble is not None:
            self._trouble.restore(state["watch"])

    # A step that is not finite

    def on_refused(self, trainer: Trainer, refused: RefusedStep) -> None:
        """Find the cause, remove it where that can be undone, and go on.

        Raises:
            TrainingDivergedError: recovery is off, or its budget is spent.
        """
        verdict = self._find_cause(trainer, refused)
        done = self._mend(trainer, refused, verdict) if self._config.recover else ()
        if verdict is not None and self._trouble is not None:
            self._trouble.on_replay(refused.step, verdict, done)
        if not done:
            trainer.diverge(refused.step, refused.loss, refused.grad_norm, _way_out(trainer, verdict))

    def _mend(self, trainer: Trainer, refused: RefusedStep, verdict: ReplayResult | None) -> tuple[str, ...]:
        """Do what can be undone; returns the catalogue's names of it, none where the budget is spent."""
        trainer.tell("step skipped", {"at": refused.step, **_figures(refused)})
        self._candidates.clear()  # what was saved just before may hold the seed of it
        self._skips.append(refused.step)
        cause = verdict.cause if verdict else "unknown"
        rows = self._rows_to_keep_out(trainer, verdict)
        if rows:
            trainer.quarantine(rows)
            trainer.tell("rows quarantined", {"spans": rows})
            return "skipped-step", "quarantined-rows"
        if cause == "kernel" and not self._plain_attention:
            self._plain_attention = True
            _attend_plainly(trainer)
            trainer.tell("attention replaced", {"by": "plain operations"})
            return "skipped-step", "replaced-attention"
        if cause in ("weights", "learning rate") or self._too_many_skips():
            factor = 1.0 if cause == "weights" else self._config.rewind_rate_factor
            return ("rewound",) if self._rewind(trainer, factor, verdict) else ()
        return ("skipped-step",)

    def _find_cause(self, trainer: Trainer, refused: RefusedStep) -> ReplayResult | None:
        """Replay the step; every rank its own part, and all take the first verdict that names a cause."""
        if self._replays >= self._config.most_replays or trainer.train_step.loss.is_sharded:
            return None
        self._replays += 1
        found = trainer.dist.all_gather_objects(replay(trainer, refused, self._last_healthy(trainer)))
        named = [verdict for verdict in found if verdict.cause != "not reproduced"]
        verdict = (named or found)[0]
        verdict = replace(verdict, rows=tuple(row for part in found for row in part.rows))
        self.verdicts.append(verdict)
        trainer.tell("replay", {"at": refused.step, **verdict.as_json()})
        return verdict

    def _rows_to_keep_out(self, trainer: Trainer, verdict: ReplayResult | None) -> list[tuple[int, int]]:
        if verdict is None or verdict.cause != "data":
            return []
        known = trainer.train_step.batches.quarantined
        new = [(row.start, row.end) for row in verdict.rows]
        return new if len(known) + len(new) <= self._config.most_rows else []

    def _too_many_skips(self) -> bool:
        full = len(self._skips) == self._config.skips_before_rewind
        return full and self._skips[-1] - self._skips[0] < self._config.skip_window_steps

    # Rewinding

    def after_step(self, trainer: Trainer) -> None:
        """Certify checkpoints that have stood the test; rewind where the loss has run away; take more memory."""
        self._certify(trainer)
        if self._config.recover and self._trouble is not None and self._trouble.diverging():
            self._rewind_or_stop(trainer)
        elif self._measured is not None:
            self._grow(trainer)

    def on_saved(self, trainer: Trainer, checkpoint: Path) -> None:
        """From now on it is on probation."""
        self._candidates.append(checkpoint)

    def _certify(self, trainer: Trainer) -> None:
        if self._trouble is not None and not self._trouble.is_calm():
            self._candidates.clear()
        # A step's figures come one step later.
        due = trainer.state.step - self._config.certify_steps - 1
        for path in [path for path in self._candidates if checkpoint_step(path) <= due]:
            self._candidates.remove(path)
            trainer.certify(path)

    def _rewind_or_stop(self, trainer: Trainer) -> None:
        assert self._trouble is not None, "who else said so"
        step = trainer.state.step
        verdict = self._why_it_ran_away(trainer)
        # Weights that were damaged say nothing against the rate; a second time that is no longer believed.
        was_damaged = verdict is not None and verdict.cause == "weights" and self._rewinds == 0
        rewound = self._rewind(trainer, 1.0 if was_damaged else self._config.rewind_rate_factor, verdict)
        self._trouble.on_divergence(step, verdict, ("rewound",) if rewound else ())
        if not rewound:
            trainer.diverge(step, math.nan, math.nan)

    def _why_it_ran_away(self, trainer: Trainer) -> ReplayResult | None:
        """Costs up to a hundred steps, as a replay does, and counts as one."""
        if self._replays >= self._config.most_replays or trainer.dist.world_size > 1:
            return None
        self._replays += 1
        return explain_divergence(trainer, self._last_healthy(trainer))

    def _rewind(self, trainer: Trainer, rate_factor: float, verdict: ReplayResult | None) -> bool:
        target = self._last_healthy(trainer)
        if self._rewinds >= self._config.most_rewinds or (target is None and trainer.beginning is None):
            trainer.tell("recovery ended", {"rewinds": self._rewinds, "checkpoint": target and target.name})
            return False
        before = trainer.state.step
        self._rewinds += 1
        self._skips.clear()
        self._candidates.clear()
        trainer.rewind(target, rate_factor, self._config.rewarmup_steps)
        if self._trouble is not None:
            self._trouble.forget_after(trainer.state.step)
        details = {
            "from": before,
            "to": trainer.state.step,
            "rate_scale": trainer.state.rate_scale,
            "because": verdict.cause if verdict else "the loss ran away",
            "rewinds_left": self._config.most_rewinds - self._rewinds,
        }
        trainer.tell("rewind", details)
        return True

    def _last_healthy(self, trainer: Trainer) -> Path | None:
        """The certified checkpoint, if it is whole; all ranks look after the first has written."""
        path = resolve_pointer(trainer.run_folder, "healthy")
        return path if path is not None and damage(path) is None else None

    # MemoryPlan

    def _fit(self, trainer: Trainer) -> None:
        rows, before = self._fitted(trainer), trainer.train_step.memory
        if rows is not None:
            trainer.adapt(replace(before, micro_batch_size=rows))
            trainer.tell("micro-batch fitted", {"rows": rows, "of": trainer.train_step.batch_size})
            console.info(f"{rows} of {trainer.train_step.batch_size} sequences at once, by what fits into memory")

    def on_out_of_memory(self, trainer: Trainer, message: str) -> bool:
        """Halve the micro-batch, then chunk the loss, then compute activations again; whatever comes first."""
        before = trainer.train_step.memory
        after = reduced_memory_plan(before, trainer.train_step.batch_size, trainer.model.config.context_length)
        details = {"at": trainer.state.step + 1, "message": message, "before": before.to_json()}
        if after is None or not self._config.recover:
            trainer.tell("out of memory", {**details, "recovered": False})
            return False
        self._too_many_rows = before.micro_batch_size
        self._roomy_since = trainer.state.step
        trainer.adapt(after)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        trainer.tell("out of memory", {**details, "after": after.to_json(), "recovered": True})
        return True

    def _grow(self, trainer: Trainer) -> None:
        """After long enough, take the largest micro-batch that fits by measure; never one that did not."""
        wait, memory = self._config.grow_after_steps, trainer.train_step.memory
        if self._too_many_rows is None or wait == 0 or trainer.state.step - self._roomy_since < wait:
            return
        assert self._measured is not None
        self._roomy_since = trainer.state.step
        self._peaks[memory.micro_batch_size], total = self._measured()
        rows = largest_fitting_micro_batch(
            self._peaks, trainer.train_step.batch_size, _fixed_bytes(trainer), USABLE * total
        )
        rows = min(trainer.dist.all_gather_objects(rows))  # each may have other neighbours on its device
        most = min(
            rows, self._too_many_rows - 1, trainer.config.train.resolve_micro_batch_size(trainer.train_step.batch_size)
        )
        rows = max((n for n in divisors(trainer.train_step.batch_size) if n <= most), default=0)
        if rows > memory.micro_batch_size:
            trainer.adapt(replace(memory, micro_batch_size=rows))
            trainer.tell("micro-batch grown", {"before": memory.micro_batch_size, "after": rows})


def _way_out(trainer: Trainer, verdict: ReplayResult | None) -> str:
    """What to read on, where the cause is another than the rate."""
    if verdict is None or verdict.cause in ("learning rate", "unknown"):
        return ""
    why = reason(verdict.why.key, verdict.why.seen)
    return f"The cause is {verdict.cause}: {why}. What to do: glassgpt doctor {trainer.run_folder.path}"


def reduced_memory_plan(memory: MemoryPlan, rows: int, context_length: int) -> MemoryPlan | None:
    """The next smaller way to compute the same gradient, or None where there is none.

    Args:
        memory: what is traded now.
        rows: sequences of a step.
        context_length: tokens of each.
    """
    smaller = [n for n in divisors(rows) if n <= memory.micro_batch_size // 2]
    if smaller:
        return replace(memory, micro_batch_size=smaller[-1])
    tokens = memory.micro_batch_size * context_length
    if memory.loss_chunk_tokens == 0 and tokens > LEAST_CHUNK_TOKENS:
        return replace(memory, loss_chunk_tokens=max(LEAST_CHUNK_TOKENS, tokens // 8))
    if not memory.recompute_activations:
        return replace(memory, recompute_activations=True)
    return None


def largest_fitting_micro_batch(peaks: Mapping[int, int], rows: int, fixed_bytes: int, limit: float) -> int:
    """The largest micro-batch whose peak of memory, fixed + rows x each, stays under a limit; 0 where none does.

    Args:
        peaks: measured bytes by micro-batch.
        rows: sequences of a step; what is returned divides them.
        fixed_bytes: of weights, gradients and optimizer; taken where a single size was measured.
        limit: in bytes.
    """
    (small, low), (large, high) = min(peaks.items()), max(peaks.items())
    each = (high - low) / (large - small) if large > small else max(0, low - fixed_bytes) / small
    fixed = low - each * small
    return max((n for n in divisors(rows) if fixed + n * each <= limit), default=0)


def _fixed_bytes(trainer: Trainer) -> int:
    """Weights, gradients and AdamW's two means, in float32."""
    return 16 * sum(p.numel() for p in trainer.model.parameters())


def _cuda_memory() -> tuple[int, int]:
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.reset_peak_memory_stats()
    return peak, total


def _attend_plainly(trainer: Trainer) -> None:
    set_attention(trainer.model, attend_readable)
    torch.compiler.reset()


def _figures(refused: RefusedStep) -> dict[str, Any]:
    """As JSON knows no NaN, what is not finite is written as a word."""
    return {
        "loss": str(refused.loss),
        "grad_norm": str(refused.grad_norm),
        "bad_micro_steps": refused.bad_micro_steps,
        "learning_rate": refused.learning_rate,
        "windows": refused.start.windows,
    }
