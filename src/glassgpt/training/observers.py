"""Who watches a run: the metrics file, the display, TensorBoard. The loop tells, observers listen.

This is the hook through which later rooms reach into the running loop; none of them can be reached from it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.errors import CheckpointError, MissingExtraError
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.run_folder import RunFolder, read_jsonl


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step showed.

    Attributes:
        step: number of the step just done; the first is 1.
        loss: mean nats per token over the batch, before the update.
        learning_rate: used for the update.
        grad_norm: global norm before clipping.
        tokens: tokens trained on so far.
        seconds: time trained so far.
        tokens_per_second: over the last steps.
        mfu: share of the hardware's peak arithmetic, or None where that is not known.
        data_seconds: of the step, in which the host waited for its batch.
        skipped: whether the gradient scaler passed this step over because the gradient overflowed.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    data_seconds: float = 0.0
    skipped: bool = False


class Observer:
    """A listener that ignores everything; override what you want to hear."""

    def on_step(self, metrics: StepMetrics) -> None:
        """After each optimizer step, one step late so that a GPU never waits for the host."""

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """After each validation."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After each checkpoint."""

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """When something happened that a reader of the run should know."""

    def on_rollback(self, step: int) -> None:
        """When training goes on from an earlier step; what was told of later ones no longer holds."""

    def close(self) -> None:
        """When the loop ends, however it ends."""


class JsonlLogger(Observer):
    """`metrics.jsonl` and `events.jsonl`.

    Args:
        run: where.
        step: the step that training goes on from; lines of later steps, which an earlier process wrote
            before it was killed, are dropped, so that each step stands in the file once.
    """

    def __init__(self, run: RunFolder, step: int) -> None:
        self._run = run
        self._metrics = self._cut_back(step)
        self._events = open(run.events, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def on_step(self, metrics: StepMetrics) -> None:
        """Write a line."""
        self._write(self._metrics, asdict(metrics))

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Write a line."""
        line = {
            "step": step,
            "validation_loss": validation.loss,
            "validation_bits_per_byte": validation.bits_per_byte,
            "validation_tokens": validation.tokens,
            "best": is_best,
        }
        self._write(self._metrics, line)

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Write a line."""
        self._write(self._events, {"step": step, "event": event, **details})

    def on_rollback(self, step: int) -> None:
        """Cut the metrics back to this step; what is cut off goes to `abandoned.jsonl`."""
        self._metrics.close()
        dropped = [line for line in read_jsonl(self._run.metrics) if line["step"] > step]
        with open(self._run.abandoned, "a", encoding="utf-8") as file:
            for line in dropped:
                self._write(file, line)
        self._metrics = self._cut_back(step)

    def _cut_back(self, step: int) -> TextIO:
        kept = [line for line in read_jsonl(self._run.metrics) if line["step"] <= step]
        write_atomically(self._run.metrics, "".join(json.dumps(line) + "\n" for line in kept).encode())
        return open(self._run.metrics, "a", encoding="utf-8")

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._events.close()

    @staticmethod
    def _write(file: TextIO, line: Mapping[str, Any]) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
        except OSError as error:
            raise CheckpointError(f"{file.name} cannot be written: {error.strerror}") from error


def append_event(run: RunFolder, step: int, event: str, details: Mapping[str, Any]) -> None:
    """A line of `events.jsonl` by somebody who does not keep the file open.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with open(run.events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "event": event, **details}) + "\n")
    except OSError as error:
        raise CheckpointError(f"{run.events} cannot be written: {error.strerror}") from error


class Display(Observer):
    """The terminal: a bar with loss, rate, norm, speed and time left; plain lines where there is none."""

    def __init__(self, meter: console.ProgressMeter) -> None:
        self._meter = meter
        self._last = self._ahead = 0

    def on_step(self, metrics: StepMetrics) -> None:
        """Move the bar."""
        note = (
            f"loss {metrics.loss:.3f}  lr {metrics.learning_rate:.2e}  norm {metrics.grad_norm:.2f}  "
            f"{console.format_count(metrics.tokens_per_second, 'tokens')}/s"
        )
        if metrics.mfu is not None:
            note += f"  mfu {metrics.mfu:.1%}"
        self._meter.note(note)
        # After a rewind, the bar waits until training is where it was.
        if self._ahead == 0:
            self._meter.advance(1)
        self._last = metrics.step
        self._ahead = max(0, self._ahead - 1)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Leave a line above the bar."""
        mark = "  best so far" if is_best else ""
        console.info(
            f"step {step:>6,}  validation loss {validation.loss:.4f}  {validation.bits_per_byte:.4f} bits per byte{mark}"
        )

    def on_rollback(self, step: int) -> None:
        """Say so by standing still."""
        self._ahead += max(0, self._last - step)


@contextmanager
def display(steps: int) -> Generator[Display]:
    """A `Display` for so many steps."""
    with console.progress("training", steps, unit="steps") as meter:
        yield Display(meter)


class TensorBoard(Observer):
    """TensorBoard events, with the extra `tensorboard`.

    Raises:
        MissingExtraError: it is not installed.
    """

    def __init__(self, run: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "writing TensorBoard events") from error
        self._writer = SummaryWriter(str(run.tensorboard))

    def on_step(self, metrics: StepMetrics) -> None:
        """Write the step's scalars."""
        for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
            self._writer.add_scalar(f"train/{name}", getattr(metrics, name), metrics.step)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Write the validation's scalars."""
        self._writer.add_scalar("validation/loss", validation.loss, step)
        self._writer.add_scalar("validation/bits_per_byte", validation.bits_per_byte, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()
