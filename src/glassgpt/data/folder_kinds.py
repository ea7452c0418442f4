"""Say what a path holds, and what to do, where a command got the path of something else.

A base for messages only: whatever opens a dataset, a run or a model checks its files itself.
"""

from __future__ import annotations

import shlex
from pathlib import Path

DATASET_FILE, RUN_FILE, MODEL_FILE = "dataset.json", "config.toml", "config.json"
"""The file by which each kind of folder is recognized: a dataset, a run, a model in Hugging Face format."""
ROW_FILES = {"conversations.json": "conversations", "multimodal.json": "documents with pictures and sound"}
"""Content of datasets whose rows are not passages of a text, by the file that says so."""
CHECKPOINTS = "checkpoints"


def not_a_dataset(path: Path) -> str:
    """Return the message for a path that should be a dataset."""
    out = path.with_name(f"{path.stem}-data") if path.suffix else path
    if not path.exists():
        return f"{path} does not exist; create one with: glassgpt prepare SOURCE --out {_quoted(out)}"
    if other := _other_kind(path, DATASET_FILE):
        return f"{path} is {other}, not a dataset; give a folder that glassgpt prepare has created"
    named = path if path.name else path.absolute()  # "." has no name
    out = named.parent / f"{named.stem or named.name}-data"  # of the text that it may be
    what = "is a file, not a dataset" if path.is_file() else "is not a prepared dataset"
    return (
        f"{path} {what}; if it holds text, create one with: glassgpt prepare {_quoted(path)} --out {_quoted(out)} "
        "and give that folder"
    )


def not_a_run(path: Path) -> str:
    """Return the message for a path that should be the folder of a run."""
    if not path.exists():
        return f"{path} does not exist; create a run with: glassgpt train PRESET --out {_quoted(path)}"
    if path.is_file():
        return f"{path} is a file, not the folder of a run"
    if (run := path.parent.parent) and path.parent.name == CHECKPOINTS and (run / RUN_FILE).is_file():
        return (
            f"{path} is a checkpoint, not a run; give its run: {_quoted(run)} --checkpoint {_quoted(Path(path.name))}"
        )
    if (path / DATASET_FILE).is_file():
        advice = f"train on it with: glassgpt train PRESET --data {_quoted(path)} --out RUN"
        return f"{path} is a dataset, not a run; {advice}"
    if (path / MODEL_FILE).is_file():
        advice = f"make it a run with: glassgpt import {_quoted(path)} --out RUN"
        return f"{path} is a model in Hugging Face format, not a run; {advice}"
    return f"{path} is not a run: it lacks {RUN_FILE}"


def not_a_model(path: Path) -> str:
    """Return the message for a folder that should be a model in Hugging Face format."""
    if (path / RUN_FILE).is_file():
        return f"{path} is a run already; it needs no import: use it as it is"
    other = _other_kind(path, MODEL_FILE)
    return f"{path} is {other or 'not a Hugging Face model'}: it has no {MODEL_FILE}"


def rows_in(folder: Path) -> str:
    """Return what the rows of a dataset hold; empty for a dataset of text."""
    return next((kind for file, kind in ROW_FILES.items() if (folder / file).is_file()), "")


def _other_kind(path: Path, wanted: str) -> str:
    """Return what a folder is, if it is of a kind that is recognized and not wanted."""
    kinds = {RUN_FILE: "a run", DATASET_FILE: "a dataset", MODEL_FILE: "a model in Hugging Face format"}
    return next((kind for file, kind in kinds.items() if file != wanted and (path / file).is_file()), "")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
