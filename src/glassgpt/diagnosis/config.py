"""What is watched and what may be mended by itself, as data. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DiagnosisConfig:
    """Diagnosis while training.

    Attributes:
        watch: off hears nothing; on tells findings; full also samples every layer and writes it to layers.jsonl.
        sample_every_steps: steps between two looks at layers and gradients; 0 never looks.
        recover: whether what can be undone is done by itself: skipping a step, keeping a bad row out, rewinding,
            taking less memory. Without it, training stops at a step that is not finite and says why.
        most_replays: refused steps of a run that are replayed to find their cause; a replay costs about ten steps.
        most_rows: rows of a run that may be kept out.
        most_rewinds: rewinds of a run; after that it stops.
        skips_before_rewind: refused steps within skip_window_steps that make it rewind.
        skip_window_steps: see skips_before_rewind.
        rewind_rate_factor: what a rewind multiplies the learning rate with.
        rewarmup_steps: over which the rate rises after a rewind.
        certify_steps: a checkpoint counts as healthy when so many steps after it were in order.
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
        """Everything about this configuration that cannot work, a line each."""
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
            found.append(f"diagnosis.rewind_rate_factor is {self.rewind_rate_factor}; it must be above 0, at most 1")
        return found
