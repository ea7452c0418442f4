"""The interface of a tracker, and the run as it is described to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker records.

    Attributes:
        path: its folder. Without other instructions in the environment, everything is written below it, and nothing is sent.
        settings: its configuration, by dotted name.
    """

    path: Path
    settings: Mapping[str, str | int | float | bool]

    @property
    def name(self) -> str:
        """Name under which the run is shown."""
        return self.path.absolute().name

    def folder(self, tracker: str) -> Path:
        """Return the folder of a tracker's files in the run, which is created."""
        folder = self.path / tracker
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Tracker(ABC):
    """Records numbers and texts. All calls come from one thread, which also creates it; any of them may raise."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step by name (`train/loss`)."""

    @abstractmethod
    def write(self, step: int, title: str, text: str) -> None:
        """Record a text: an event of the run, or a sample of what the model generates."""

    @abstractmethod
    def close(self) -> None:
        """Finish the recording."""
