"""The folder of a run, and the names of the files in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.data.files import read_regular, require_own_folder, require_regular
from glassgpt.data.folder_kinds import not_a_run
from glassgpt.errors import CheckpointError, UsageError, WrongRunError
from glassgpt.training.trackers.names import EXTRAS

DRAWING_FILE = "drawing.json"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder itself; it need not exist yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def tokenizer(self) -> Path:
        """The complete tokenizer; a run needs no other file to read and generate text."""
        return self.path / "tokenizer.json"

    @property
    def chat_template(self) -> Path:
        """The chat template of an imported model, in Jinja, if it has one."""
        return self.path / "chat_template.jinja"

    @property
    def drawing(self) -> Path:
        """Meaning of the tokens of pictures, if the model draws; see `multimodal/drawing_tokens.py`."""
        return self.path / DRAWING_FILE

    @property
    def metrics(self) -> Path:
        """One JSON object per line: steps and validations."""
        return self.path / "metrics.jsonl"

    @property
    def base(self) -> Path:
        """The place of the run whose weights an adapter adapts; see `training.checkpoint.base`."""
        return self.path / "base.json"

    @property
    def abandoned(self) -> Path:
        """Lines of `metrics.jsonl` whose steps were undone by a rollback."""
        return self.path / "abandoned.jsonl"

    @property
    def layers(self) -> Path:
        """One JSON object per line: samples of every layer, if the run records them."""
        return self.path / "layers.jsonl"

    @property
    def events(self) -> Path:
        """One JSON object per line: the events of the run."""
        return self.path / "events.jsonl"

    @property
    def curve(self) -> Path:
        """The loss curve as a picture."""
        return self.path / "loss.png"

    @property
    def report(self) -> Path:
        """The report: the run on one page."""
        return self.path / "report.html"

    @property
    def compression(self) -> Path:
        """The report of the compression that made this run; see `compression/report.py`."""
        return self.path / "compression.json"

    @property
    def trackers(self) -> list[Path]:
        """The folders of trackers; see `training.trackers`."""
        return [self.path / name for name in EXTRAS]

    @property
    def checkpoints(self) -> Path:
        """One folder per checkpoint."""
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """One folder per snapshot of the weights; see `training.weight_snapshots`."""
        return self.path / "snapshots"

    @property
    def lock(self) -> Path:
        """The lock file; it holds the pid and host of the process that trains into this folder."""
        return self.path / "train.lock"

    def exists(self) -> bool:
        """Return whether there is a run here."""
        return self.config.is_file()

    def require(self) -> RunFolder:
        """Return this run folder.

        Raises:
            WrongRunError: this is not the folder of a run.
        """
        if not self.exists():
            raise WrongRunError(not_a_run(self.path))
        self.require_no_links()
        return self

    def require_new(self, *, can_resume: bool = False) -> None:
        """Check that the folder is free for a new run.

        Args:
            can_resume: whether the command could resume a run there instead.

        Raises:
            UsageError: it holds a run, or anything else.
        """
        if self.exists():
            advice = "resume it with --resume, or choose another --out" if can_resume else "choose another --out"
            raise UsageError(f"{self.path} holds a run already; {advice}")
        if self.path.exists() and (not self.path.is_dir() or any(path != self.lock for path in self.path.iterdir())):
            raise UsageError(f"{self.path} exists and is not a run; choose another --out")

    def require_no_links(self) -> None:
        """Check that no link in this folder leads out of it: a run may be untrusted.

        Raises:
            UnsafeFileError: a file of the run is a symbolic link, a FIFO or a device, or one of its folders is a link.
        """
        files = (
            self.config, self.tokenizer, self.base, self.drawing, self.metrics, self.abandoned, self.layers, self.events, self.curve, self.report,
            self.compression, self.lock, *(self.checkpoints / pointer for pointer in ("latest", "best", "healthy")),
        )  # fmt: skip
        for folder in (self.checkpoints, self.snapshots, *self.trackers):
            require_own_folder(folder)
        for file in files:
            require_regular(file)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSONL file that can be read; see `read_lines`."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a JSONL file that are JSON objects, and how many are not; nothing if it does not exist.

    A last line that a crash cut short counts as one that is not.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if not path.is_file():
        return [], 0
    try:
        content = read_regular(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    good: list[dict[str, Any]] = []
    bad = 0
    for raw in content.split(b"\n"):
        line = _parsed(raw)
        if line is not None:
            good.append(line)
        elif raw:
            bad += 1
    return good, bad


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None
