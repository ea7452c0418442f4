"""The targets of `doctor`: a preset, a TOML file, a run or a dataset. Free of torch."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.errors import UsageError
from glassgpt.schema import did_you_mean
from glassgpt.training.run_folder import RunFolder


def require_target(target: str | Path, presets: Collection[str]) -> None:
    """Check that a target is something that can be diagnosed.

    Args:
        target: as given by the user.
        presets: the names of all presets.

    Raises:
        UsageError: it is none of them; the message says what it is instead, if that is known.
    """
    path = Path(target)
    if path.is_dir():
        _require_run_or_dataset(path)
    elif str(target) not in presets and path.suffix != ".toml":
        _reject(target, presets)


def _require_run_or_dataset(folder: Path) -> None:
    run = RunFolder(folder)
    if run.exists():
        return
    if run.metrics.exists() or run.events.exists():
        raise UsageError(f"{folder} is a run without its {run.config.name}; restore that file")
    if not (folder / SUMMARY_FILE).exists():
        raise UsageError(f"{folder} is neither a run ({run.config.name}) nor a dataset ({SUMMARY_FILE})")


def _reject(target: str | Path, presets: Collection[str]) -> None:
    if Path(target).is_file():
        raise UsageError(
            f"{target} is neither a configuration (.toml) nor the folder of a run or a dataset; to diagnose a text, "
            f"prepare it first: glassgpt prepare {shlex.quote(str(target))} --out DIR, then glassgpt doctor DIR"
        )
    raise UsageError(
        f"{target} is not a run, a dataset, a .toml file, a code such as GG-NAN-002, "
        f"or one of the presets {', '.join(presets)}{did_you_mean(str(target), presets)}"
    )
