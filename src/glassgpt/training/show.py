"""Terminal output of training: the announcement, the progress bar, the loss curve, the result of `bench train`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.errors import WRONG_PATH, GlassGPTError, UsageError
from glassgpt.model.config import ModelConfig
from glassgpt.model.delta_rule import triton_without_gradients
from glassgpt.training.bench import TrainingSpeed
from glassgpt.training.curve import smooth
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.preference import PreferenceValidation
from glassgpt.training.run_folder import RunFolder, read_jsonl

LONG_STEP_SECONDS = 2.0
"""A step that takes longer shows its micro-batches."""


def print_training_setup(trainer: Trainer, given: ModelConfig) -> None:
    """Print a summary of the model, the data and the hardware before training.

    Args:
        trainer: about to train.
        given: the model as configured, which names the user's own parts; that of `trainer` names only those that matter later.
    """
    model, train = trainer.model, trainer.config.train
    parameters = sum(p.numel() for p in model.parameters())
    part, source = _mixing(trainer, given)
    processes = f", {trainer.dist.world_size} processes" if trainer.dist.world_size > 1 else ""
    console.info(
        f"{model.config.arch} with {console.format_count(parameters, 'parameters')} on {trainer.hardware.describe()}, "
        f"{part} by {source}{processes}; "
        f"{console.format_count(trainer.state.train_tokens, 'tokens')} of text, "
        f"{train.max_steps:,} steps of {train.batch_tokens:,} tokens"
    )
    on_gpu = trainer.hardware.device.type == "cuda" and trainer.hardware.precision != "fp32"
    if model.config.arch == "gated_deltanet" and on_gpu and (version := triton_without_gradients()):
        console.warn(
            f"flash-linear-attention refuses to compute gradients on this GPU with Triton {version}: training takes the slower "
            "chunks instead; use a PyTorch with Triton 3.7.1 or later"
        )


def _mixing(trainer: Trainer, given: ModelConfig) -> tuple[str, str]:
    """Return what mixes positions and who computes it: the user's part, or a kernel."""
    own = {"architecture": given.custom, "blocks": given.block, "attention": given.attend}
    kind = "linear attention" if given.arch == "gated_deltanet" else "attention"
    found = ((part, name) for part, name in own.items() if name)
    packed = trainer.train_step.has_packed_rows
    return next(found, None) or (kind, trainer.hardware.describe_attention(trainer.model.config, packed=packed))


class ProgressDisplay(Observer):
    """A progress bar with loss, learning rate, gradient norm, speed and time left; plain lines without a terminal."""

    def __init__(self, meter: console.ProgressMeter) -> None:
        self._meter = meter
        self._last_step = self._steps_to_regain = 0

    def on_step(self, metrics: StepMetrics) -> None:
        """Advance the bar."""
        note = (
            f"loss {metrics.loss:.3f}  lr {metrics.learning_rate:.2e}  norm {metrics.grad_norm:.2f}  "
            f"{console.format_count(metrics.tokens_per_second, 'tokens')}/s"
        )
        if metrics.mfu is not None:
            note += f"  mfu {metrics.mfu:.1%}"
        note += "".join(f"  {name.replace('_', ' ')} {value:.3f}" for name, value in metrics.loss_metrics.items())
        self._meter.note(note)
        # After a rollback, the bar waits until training is back where it was.
        if self._steps_to_regain == 0:
            self._meter.advance(1)
        self._last_step = metrics.step
        self._steps_to_regain = max(0, self._steps_to_regain - 1)

    def within_step(self, trainer: Trainer) -> Callable[[str], None]:
        """Return a function for `TrainStep.mark` that shows how far a long step is."""
        start, is_long, done = time.monotonic(), True, 0  # the first step may be long; it says so before it is done

        def mark(phase: str) -> None:
            nonlocal start, is_long, done
            step, now = trainer.train_step, time.monotonic()
            of = step.batch_size // step.micro_batch_size
            if phase == "optimizer":
                start, is_long, done = now, now - start > LONG_STEP_SECONDS, 0
                return
            done += phase == "backward"
            if done < of and (is_long or now - start > LONG_STEP_SECONDS) and phase != "forward":
                self._meter.within(done / of, f"step {trainer.state.step + 1:,}: micro-batch {done + 1} of {of}")

        return mark

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Print a line above the bar."""
        mark = "  best so far" if is_best else ""
        if isinstance(validation, PreferenceValidation):
            console.info(
                f"step {step:>6,}  validation loss {validation.loss:.4f}  accuracy {validation.accuracy:.1%}, chosen replies "
                f"{validation.chosen_loss:.4f} nats per token ({-validation.chosen_change:+.4f}){mark}"
            )
            return
        console.info(
            f"step {step:>6,}  validation loss {validation.loss:.4f}  {validation.bits_per_byte:.4f} bits per byte{mark}"
        )

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Print the micro-batch size that was measured to fit into memory."""
        if event == "micro-batch fitted":
            console.info(f"micro-batch of {details['rows']} of {details['of']} sequences, measured to fit into memory")
        if event == "not deleted":
            console.warn(f"cannot delete an old checkpoint: {details['path']}: {details['error']}")
        if event == "not pinned":
            console.warn(f"training waits while checkpoints are copied: {details['error']}")
        if event == "checkpoint not saved":
            console.warn(details["error"])
        if event == "tracker failed" and (details["first"] or details["given_up"]):
            end = "it records nothing more" if details["given_up"] else "training continues"
            console.warn(f"the tracker {details['tracker']} failed: {details['error']}; {end}")
        if event == "sample failed":
            console.warn(f"no sample of text for the trackers: {details['error']}")
        if event in ("snapshot not saved", "snapshot not deleted"):
            console.warn(f"{details['error']}; training continues without it")

    def on_rollback(self, step: int) -> None:
        """Pause the bar until training has caught up."""
        self._steps_to_regain += max(0, self._last_step - step)

    def on_stop_request(self) -> None:
        """Confirm the request at once, so that the user does not repeat it."""
        console.info("stopping after this step and saving; ask again to stop at once and lose what is unsaved")


@contextmanager
def progress_display(steps: int, done: int = 0) -> Generator[ProgressDisplay]:
    """Yield a `ProgressDisplay` for a number of steps, of which some were done before the run was resumed."""
    with console.progress("training", steps, unit="steps", done=done) as meter:
        yield ProgressDisplay(meter)


def draw_loss_curve(run: RunFolder) -> None:
    """Draw `loss.png` from `metrics.jsonl`: training loss raw and smoothed, validation losses, learning rate below."""
    from matplotlib.figure import Figure  # imported only when a picture is drawn

    lines = read_jsonl(run.metrics)
    steps = [line for line in lines if _has_numbers(line, "step", "loss", "learning_rate")]
    validations = [line for line in lines if _has_numbers(line, "step", "validation_loss")]
    if not steps:
        return
    x = [line["step"] for line in steps]
    losses = [line["loss"] for line in steps]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    top.plot(x, losses, color="#0072B2", alpha=0.25, linewidth=0.8)
    top.plot(x, smooth(losses), color="#0072B2", label="training (smoothed)")
    if validations:
        best = min(validations, key=lambda line: line["validation_loss"])
        top.plot(
            [line["step"] for line in validations],
            [line["validation_loss"] for line in validations],
            "o-", color="#D55E00", markersize=4, label="validation",
        )  # fmt: skip
        top.annotate(
            f"{best['validation_loss']:.3f} nats per token\n{best['validation_bits_per_byte']:.3f} bits per byte"
            if "validation_bits_per_byte" in best
            else f"{best['validation_loss']:.3f} nats per pair",
            (best["step"], best["validation_loss"]),
            xytext=(-8, 28), textcoords="offset points", ha="right", color="#D55E00",
            arrowprops={"arrowstyle": "-", "color": "#D55E00"},
        )  # fmt: skip
    top.set_ylabel("loss (nats per token)")
    top.set_title(run.path.name)
    top.grid(alpha=0.3)
    top.legend()
    bottom.plot(x, [line["learning_rate"] for line in steps], color="#009E73")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    bottom.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, dpi=110)
    write_atomically(run.curve, picture.getvalue())  # a link there is replaced, not followed


def _has_numbers(line: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(line.get(name), int | float) for name in names)


def print_training_speed(batch_tokens: int, speed: TrainingSpeed, file: Path | None) -> None:
    """Print a measurement, and write it to a file if one is given.

    Raises:
        UsageError: the file cannot be written.
    """
    least, most = speed.step_ms_spread
    console.result(f"on {speed.hardware}, attention by {speed.attention}, {speed.processes} process(es)")
    rows = [
        (console.translated(phase), f"{ms:.2f}", f"{ms / sum(speed.phase_ms.values()):.1%}")
        for phase, ms in speed.phase_ms.items()
    ]
    console.table("time per step by phase, synchronized after each", ("phase", "ms", "share"), rows)
    console.result(f"step: {speed.step_ms:.2f} ms ({least:.2f} to {most:.2f}) for {batch_tokens:,} tokens")
    console.result(f"speed: {speed.tokens_per_second:,.0f} tokens per second")
    if speed.mfu is not None:
        flops = console.format_amount(speed.flops_per_token)
        console.result(f"MFU: {speed.mfu:.1%} = tokens per second x {flops}FLOP per token / peak FLOP per second")
    if speed.peak_memory_bytes is not None:
        console.result(f"peak memory: {speed.peak_memory_bytes / 1e9:.2f} GB")
    console.result(f"first step, including compilation: {speed.first_step_seconds:.1f} s")
    if file is not None:
        try:
            write_atomically(file, (json.dumps(speed.to_json(), indent=2) + "\n").encode())
        except OSError as error:
            kind = UsageError if isinstance(error, WRONG_PATH) else GlassGPTError
            raise kind(f"cannot write {file}: {error.strerror}") from error
