"""Commands about source code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glassgpt.errors import require_extra


def check_code(exclude: Sequence[Path], *, keep_duplicates: bool) -> None:
    """Check the extra and the files of `prepare --format code`.

    Raises:
        GlassGPTError: one of them is missing.
    """
    from glassgpt.data.code.exclude import require_files
    from glassgpt.data.code.near_duplicates import RENSA

    require_files(exclude)
    if not keep_duplicates:
        require_extra(*RENSA)
