"""Sliding windows in a model's configuration: which blocks see how much of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glassgpt.schema import setting

WINDOW_PATTERN = "SSSL"
"""With a window, every fourth block and the last one still see the whole context."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Attention to recent tokens only, in some blocks (Beltagy et al. 2020)."""

    window: int = setting(
        0,
        help="Number of most recent tokens that attention sees in blocks with a window, the current one included; "
        "0 means the whole context in every block. Modern only.",
    )
    window_pattern: str = setting(
        WINDOW_PATTERN,
        help="Which blocks have the window, a letter for each, repeated: S (short) has it, L (long) sees the whole "
        "context. The last block is long if the pattern has an L. Modern only.",
    )
    sinks: int = setting(
        0, help="Number of first tokens that blocks with a window see as well (Xiao et al. 2023). Modern only."
    )

    def layer_window(self: Any, layer: int) -> int:
        """Return the attention window of a block (0 is the first), in tokens including the current one; 0 means all."""
        pattern = self.window_pattern
        is_full = pattern[layer % len(pattern)] == "L" or ("L" in pattern and layer == self.n_layer - 1)
        return 0 if is_full else self.window

    def layer_reach(self: Any, layer: int) -> tuple[int, ...]:
        """Return what a block's attention sees as arguments of an `AttentionFunction`: window, and sinks if it has any."""
        window = self.layer_window(layer)
        return (window, self.sinks) if window and self.sinks else (window,)

    def window_problems(self) -> list[str]:
        """Return the problems of these settings, one line of text each."""
        found: list[str] = []
        if self.window < 0:
            found.append(f"model.window is {self.window}; it must be positive, or 0 for the whole context")
        if not self.window_pattern or self.window_pattern.strip("SL"):
            found.append(
                f'model.window_pattern is "{self.window_pattern}"; it must be made of the letters S and L, such as SSSL'
            )
        elif self.window_pattern != WINDOW_PATTERN and self.window == 0:
            found.append(
                f'model.window_pattern is "{self.window_pattern}", but model.window is 0; set model.window too'
            )
        if self.sinks < 0:
            found.append(f"model.sinks is {self.sinks}; it must be positive, or 0 for none")
        elif self.sinks and self.window == 0:
            found.append(f"model.sinks is {self.sinks}, but model.window is 0; set model.window too")
        return found
