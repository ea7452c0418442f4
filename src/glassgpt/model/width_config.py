"""The setting that `width.py` reads; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.schema import setting

LARGEST_WIDTH = 2**20


@dataclass(frozen=True, kw_only=True)
class BaseWidth:
    """The part of a model's configuration that `width.py` reads."""

    base_width: int = setting(
        0,
        help=(
            "Width (n_embd) at which train.learning_rate and init_std were chosen; initial weights and learning rates are scaled "
            "from it to this model's. 0 scales nothing."
        ),
    )

    def width_problems(self) -> list[str]:
        """Return a line if the width is impossible."""
        if 0 <= self.base_width <= LARGEST_WIDTH:
            return []
        return [
            f"model.base_width is {self.base_width}; it must be between 1 and {LARGEST_WIDTH:,}, or 0 for no scaling"
        ]
