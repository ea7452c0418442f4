"""Report the figures of an evaluation: print them as a table or as JSON, and write them to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.data.files import write_atomically


def report_figures(
    figures: Mapping[str, Any], show: Callable[[], None], *, as_json: bool, json_file: Path | None
) -> None:
    """Print figures, and write them to a file if there is one.

    Args:
        figures: as JSON.
        show: prints them as a table.
        as_json: print one JSON object instead of the table.
        json_file: file to write the JSON object to.

    Raises:
        OSError: the file cannot be written.
    """
    if as_json:
        console.output_json(figures)
    else:
        show()
    if json_file is not None:
        write_atomically(json_file, f"{json.dumps(figures, ensure_ascii=False)}\n".encode())
        console.info(f"wrote {json_file}")
