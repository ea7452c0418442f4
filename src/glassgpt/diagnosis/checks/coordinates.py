"""The coordinate check (Yang et al. 2022, appendix D.1): how much activations change in a few steps, over the width.

If a rate is to suit every width, a few steps must change an activation as much in a wide model as in a narrow one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from glassgpt.device import free_memory
from glassgpt.diagnosis.checks.first_batch import logits_and_targets, without_dropout
from glassgpt.diagnosis.checks.model import train_once
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.model.accounting import flops_per_token, training_memory
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import TrainerConfig
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.optimizers import build_optimizers, set_learning_rate

Progress = Callable[[Sequence[int], float, int], AbstractContextManager[Callable[[], None]]]
"""Opened with the widths, the seconds that are predicted and the number of steps in all; yields a function to call after
each step."""
BuildLoss = Callable[[ModelConfig], TrainingLoss]
"""Returns the loss of a new model of a shape, which it draws from torch's default generator."""
DIVISORS, FACTORS = (4, 2), (1, 2, 4)
"""Heads of the narrower and of the wider models, in proportion to the configured number."""
LAYERS = 2
STEPS = 4
USABLE = 0.5
"""Share of the free memory that a model may need."""
MIN_WIDTHS = 3
LARGEST_SLOPE = 0.6
"""Between the slopes measured with a base width (up to 0.43, downwards) and the steepest ones without (0.94 and more)."""


def build_text_loss(shape: ModelConfig) -> TrainingLoss:
    """Return the loss of text of a new model."""
    return TrainingLoss(build_model(shape))


@dataclass(frozen=True)
class Coordinates:
    """The result of a coordinate check.

    Attributes:
        widths: n_embd of the models, ascending.
        changes: by kind of activation, root mean square of its change at each width.
        slopes: by kind of activation, of log change over log width: 0 is independent of the width, 1 in proportion.
    """

    widths: list[int]
    changes: dict[str, list[float]]
    slopes: dict[str, float]


def shapes_over_width(model: ModelConfig, sequences: int, free_bytes: int | None) -> list[ModelConfig]:
    """Return the shape with a quarter to four times as many heads of the same width, as far as they divide and fit.

    Args:
        model: the configured shape; at most two of its blocks are kept, and no dropout.
        sequences: of the batch, for the memory.
        free_bytes: free memory, or None if unknown.
    """
    sizes = {"n_head": model.n_head, "n_embd": model.n_embd, "n_kv_head": model.n_kv_head, "n_inner": model.n_inner}
    ratios = [(1, n) for n in DIVISORS if not any(size % n for size in sizes.values())] + [(n, 1) for n in FACTORS]
    shapes: list[ModelConfig] = []
    for times, divisor in ratios:
        scaled = {name: size * times // divisor for name, size in sizes.items()}
        shape = replace(model, n_layer=min(model.n_layer, LAYERS), dropout=0.0, token_dropout=0.0, **scaled)
        fits = free_bytes is None or training_memory(shape, sequences).total < USABLE * free_bytes
        if fits and not shape.problems():
            shapes.append(shape)
    return shapes


def measure_coordinates(
    shapes: Sequence[ModelConfig],
    settings: TrainerConfig,
    inputs: Tensor,
    targets: Tensor,
    progress: Progress | None = None,
    build: BuildLoss = build_text_loss,
) -> Coordinates:
    """Train a new model of each shape on one batch at the configured rate, without warmup, and compare the changes.

    Args:
        shapes: which differ in their width only, ascending.
        settings: of the trainer: rate, optimizer and seed.
        inputs: of a batch of training, on the device to train on.
        targets: likewise.
        progress: reports each step.
        build: returns the loss of a new model of a shape.
    """
    widths = [shape.n_embd for shape in shapes]
    seconds = _predicted_seconds(shapes, settings, inputs, targets, build) if progress else 0.0
    measured: list[dict[str, float]] = []
    with progress(widths, seconds, STEPS * len(shapes)) if progress else nullcontext(lambda: None) as advance:
        for shape in shapes:
            torch.manual_seed(settings.seed)
            loss = _on_device(build(shape), targets)
            measured.append(_changes(loss, settings, inputs, targets, advance))
    changes = {name: [change[name] for change in measured] for name in measured[0]}
    return Coordinates(widths, changes, {name: _slope(widths, values) for name, values in changes.items()})


def _on_device(loss: TrainingLoss, targets: Tensor) -> TrainingLoss:
    return without_dropout(loss, loss.model.to(targets.device), targets)


def _predicted_seconds(
    shapes: Sequence[ModelConfig], settings: TrainerConfig, inputs: Tensor, targets: Tensor, build: BuildLoss
) -> float:
    """Time a step of the narrowest model, and scale it by the work of the others."""
    loss = _on_device(build(shapes[0]), targets)
    optimizers = build_optimizers(loss.model, settings.optimizer)
    set_learning_rate(optimizers, 0.0)
    train_once(loss, inputs, targets, optimizers)  # the first step allocates
    start = time.perf_counter()
    train_once(loss, inputs, targets, optimizers)
    work = sum(flops_per_token(shape) for shape in shapes) / flops_per_token(shapes[0])
    return (time.perf_counter() - start) * work * (STEPS + 1)


def _changes(
    loss: TrainingLoss, settings: TrainerConfig, inputs: Tensor, targets: Tensor, advance: Callable[[], None]
) -> dict[str, float]:
    """Return the root mean square of the change of each kind of activation, over all blocks."""
    optimizers = build_optimizers(loss.model, settings.optimizer)
    before = activations_by_kind(loss, inputs, targets)
    for _ in range(STEPS):
        set_learning_rate(optimizers, settings.train.learning_rate)
        train_once(loss, inputs, targets, optimizers)
        advance()
    after = activations_by_kind(loss, inputs, targets)
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


@torch.no_grad()
def activations_by_kind(loss: TrainingLoss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the embedding, the outputs of attention, MLP and residual stream of all blocks, and the logits, in float32.

    A block of the user's own without submodules `attention` or `mlp` lacks these. Logits are those of learned targets.
    """
    model = loss.model
    seen: dict[str, list[Tensor]] = {}

    def record(kind: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: seen.setdefault(kind, []).append(output.float())

    def record_input(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen["embedding"] = [given[0].float()]

    hooks = [block.register_forward_hook(record("block")) for block in model.blocks]
    hooks.append(model.blocks[0].register_forward_pre_hook(record_input))
    for kind in ("attention", "mlp"):
        found = [getattr(block, kind, None) for block in model.blocks]
        hooks += [module.register_forward_hook(record(kind)) for module in found if isinstance(module, nn.Module)]
    try:
        logits, _ = logits_and_targets(loss, inputs, targets)
    finally:
        for hook in hooks:
            hook.remove()
    (embedding,) = seen.pop("embedding")
    return {"embedding": embedding, **{kind: torch.stack(seen[kind]) for kind in sorted(seen)}, "logits": logits}


def _slope(widths: Sequence[int], changes: Sequence[float]) -> float:
    """Return the least-squares slope of log change over log width; NaN if a change is zero or not finite."""
    if not all(0 < change < math.inf for change in changes):
        return math.nan
    x, y = (torch.tensor(values, dtype=torch.float64).log2() for values in (widths, changes))
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()


def check_coordinates(
    model: ModelConfig,
    settings: TrainerConfig,
    inputs: Tensor,
    targets: Tensor,
    picture: Path | None,
    progress: Progress | None = None,
    build: BuildLoss = build_text_loss,
) -> list[CheckResult]:
    """Check that the change of each kind of activation in a few steps does not depend on the width.

    Args:
        model: the configured shape, which is compared with narrower and wider ones.
        settings: of the trainer.
        inputs: of a batch of training, on the device to train on.
        targets: likewise.
        picture: file for a plot, or None for no plot.
        progress: reports each step.
        build: returns the loss of a new model of a shape; that of text by default.

    Returns:
        A result with the widths, then one for each kind of activation; the steepest slope is the finding.
    """
    shapes = shapes_over_width(model, len(inputs), free_memory(inputs.device))
    if len(shapes) < MIN_WIDTHS:
        return [CheckResult("coordinates", "too few widths", {"count": len(shapes), "least": MIN_WIDTHS})]
    found = measure_coordinates(shapes, settings, inputs, targets, progress, build)
    values = {"widths": " ".join(map(str, found.widths)), "steps": STEPS, "rate": settings.train.learning_rate}
    if not all(math.isfinite(change) for changes in found.changes.values() for change in changes):
        return [CheckResult("coordinates", "widths", values, (Finding("GG-WID-002", "note", values),))]
    if picture is not None:
        draw_coordinates(found, picture)
    header = CheckResult("coordinates", "plotted" if picture else "widths", {**values, "picture": str(picture)})
    finite = {name: slope for name, slope in found.slopes.items() if math.isfinite(slope)}
    steepest = max(finite, key=lambda name: abs(finite[name]), default=None)
    return [header, *(_row(found, name, model.base_width, is_steepest=name == steepest) for name in found.slopes)]


def _row(found: Coordinates, name: str, base_width: int, *, is_steepest: bool) -> CheckResult:
    changes, slope = found.changes[name], found.slopes[name]
    evidence = {"steps": STEPS, "base_width": base_width, "part": name, "slope": f"{slope:+.2f}"}
    finding = Finding("GG-WID-001", "note", {**evidence, "factor": f"{2**slope:.2g}"}, confidence=0.8)
    findings = (finding,) if is_steepest and abs(slope) > LARGEST_SLOPE else ()
    by_width = {f"width_{width}": change for width, change in zip(found.widths, changes, strict=True)}
    measured = {"changes": " ".join(f"{change:.3g}" for change in changes), "slope": slope, **by_width}
    return CheckResult("coordinates", name, measured, findings)


def draw_coordinates(found: Coordinates, picture: Path) -> None:
    """Plot the change of each kind of activation over the width; a level line is independent of the width."""
    from matplotlib.figure import Figure  # imported only when a picture is drawn

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666")
    for (name, changes), color in zip(found.changes.items(), colors, strict=False):
        axes.plot(found.widths, changes, marker="o", color=color, label=f"{name}: slope {found.slopes[name]:+.2f}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(found.widths, [str(width) for width in found.widths])
    axes.set_xlabel("width (n_embd)")
    axes.set_ylabel(f"RMS of the change in {STEPS} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=110)
