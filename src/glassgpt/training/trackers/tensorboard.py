"""TensorBoard: event files in `tensorboard/` of the run."""

from __future__ import annotations

from collections.abc import Mapping

from glassgpt.training.trackers.base import TrackedRun, Tracker


class TensorBoard(Tracker):
    """Writes TensorBoard's event files; `tensorboard --logdir RUN/tensorboard` shows them."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder("tensorboard")))
        lines = [f"    {name} = {value}" for name, value in run.settings.items()]  # Markdown: indented is verbatim
        self._writer.add_text("settings", "\n".join(lines), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write(self, step: int, title: str, text: str) -> None:
        """See `Tracker`."""
        self._writer.add_text(title, "\n".join("    " + line for line in text.splitlines()), step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()
