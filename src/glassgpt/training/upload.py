"""Upload a run while it is trained, in a thread that training never waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from glassgpt.data.remote.store import RemoteError
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.remote_run import RunUpload

RETRY_SECONDS = 60.0
"""After a failed upload, the next attempt without a new checkpoint."""


class BackgroundUpload(Observer):
    """Uploads the run after each checkpoint. A failure is a warning; what is missing is tried again.

    Args:
        upload: what is uploaded where.
        warn: shows a warning.
    """

    def __init__(self, upload: RunUpload, warn: Callable[[str], None]) -> None:
        self._upload, self._warn = upload, warn
        self._due, self._stopped = threading.Event(), False
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="glassgpt-upload", daemon=True)
        self._thread.start()

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Have the run uploaded."""
        self._due.set()

    def on_step(self, metrics: StepMetrics) -> None:
        """Show what went wrong since the last step."""
        problem, self._problem = self._problem, None
        if problem:
            self._warn(f"{problem}; the run is complete on this machine, and the upload is tried again")

    def finish(self) -> tuple[list[str], str]:
        """Upload what is missing once more; return the names of the files that still are, and why."""
        self._stopped = True
        self._due.set()
        self._thread.join()
        self._problem = None
        self._sync()
        return self._upload.missing(), self._problem or ""

    def _run(self) -> None:
        has_failed = False
        while True:
            self._due.wait(RETRY_SECONDS if has_failed else None)
            if self._stopped:
                return
            self._due.clear()
            has_failed = not self._sync()

    def _sync(self) -> bool:
        """Upload what is missing; return whether that worked."""
        try:
            self._upload.sync()
        except (RemoteError, OSError) as error:
            self._problem = str(error)
            return False
        return True
