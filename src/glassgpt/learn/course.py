"""The model that lessons look into: the student's own run, or the one that comes with the package. Free of torch."""

from __future__ import annotations

from pathlib import Path

from glassgpt.locale import Language

MODELS = Path(__file__).with_name("models")
STUDENT_RUN = Path("runs", "demo")
"""The run of `glassgpt demo`."""


def bundled(language: Language = "en") -> Path:
    """Return the folder of the run that comes with the package; see `docs/decisions/0059-bundled-model.md`."""
    return MODELS / language


def course_run() -> Path:
    """Return the student's run in the working folder or the one above it, or else the one that comes with the package."""
    found = (folder / STUDENT_RUN for folder in (Path(), Path("..")))
    return next((run for run in found if (run / "config.toml").is_file()), bundled())
