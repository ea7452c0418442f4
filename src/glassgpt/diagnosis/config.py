"""Configuration of diagnosis and recovery during training. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DiagnosisConfig:
    """Diagnosis and recovery during training.

    Attributes:
        watch: off runs no detector; on reports findings; full also writes every layer sample to layers.jsonl.
        sample_every_steps: steps between two samples of all layers; 0 never samples.
        recover: whether the run recovers by itself where that can be undone: skip a step, quarantine a sequence, roll
            back, use less memory. Without it, training stops at a step that is not finite and says why.
        most_replays: skipped steps per run that are replayed to find their cause; a replay costs about ten steps.
        most_rows: sequences per run that may be quarantined.
        most_rewinds: rollbacks per run; at the next one training stops.
        skips_before_rewind: skipped steps within skip_window_steps that cause a rollback.
        skip_window_steps: see skips_before_rewind.
        rewind_rate_factor: multiplies the learning rate at a rollback.
        rewarmup_steps: steps of learning-rate warmup after a rollback.
        certify_steps: a checkpoint counts as healthy after this many normal steps.
        grow_after_steps: steps without running out of memory before a larger micro-batch is tried again; 0 never.
    """

    watch: Literal["off", "on", "full"] = "on"
    sample_every_steps: int = 100
    recover: bool = True
    most_replays: int = 5
    most_rows: int = 16
    most_rewinds: int = 3
    skips_before_rewind: int = 3
    skip_window_steps: int = 100
    rewind_rate_factor: float = 0.5
    rewarmup_steps: int = 20
    certify_steps: int = 20
    grow_after_steps: int = 500

    def problems(self) -> list[str]:
        """Return what is invalid about this configuration, one line per problem."""
        found = [
            f"diagnosis.{name} is {getattr(self, name)}; it must be at least {least}"
            for name, least in (
                ("sample_every_steps", 0),
                ("most_replays", 0),
                ("most_rows", 0),
                ("most_rewinds", 0),
                ("skips_before_rewind", 1),
                ("skip_window_steps", 1),
                ("rewarmup_steps", 0),
                ("certify_steps", 1),
                ("grow_after_steps", 0),
            )
            if getattr(self, name) < least
        ]
        if not 0 < self.rewind_rate_factor <= 1:
            found.append(f"diagnosis.rewind_rate_factor is {self.rewind_rate_factor}; it must be above 0 and at most 1")
        return found
