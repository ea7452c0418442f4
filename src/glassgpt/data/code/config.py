"""The settings of fill-in-the-middle training. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FIMConfig:
    """Fill-in-the-middle: documents rearranged so that a model also learns to write what belongs between two texts.

    Attributes:
        rate: share of the documents of a batch that are rearranged; 0 rearranges none. The dataset's tokenizer must have
            the special tokens for it, as that of glassgpt prepare --format code.
        spm_share: share of these with the suffix first, then prefix and middle (SPM); the others have the prefix first, then
            suffix and middle (PSM), which is what glassgpt complete asks for.
        line_share: share of these whose middle is a few whole lines, instead of the text between two random characters.
    """

    rate: float = 0.0
    spm_share: float = 0.5
    line_share: float = 0.0

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        return [
            f"fim.{name} is {getattr(self, name)}; it must be between 0 and 1"
            for name in ("rate", "spm_share", "line_share")
            if not 0 <= getattr(self, name) <= 1
        ]
