"""The loss curve as a picture."""

from __future__ import annotations

from glassgpt.training.run_folder import RunFolder, read_jsonl

SMOOTHING = 0.95


def smooth(values: list[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential average, corrected for its start at zero (Kingma and Ba 2015, sec. 3)."""
    smoothed: list[float] = []
    average = 0.0
    for n, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**n))
    return smoothed


def draw_loss_curve(run: RunFolder) -> None:
    """Draw `loss.png` from `metrics.jsonl`: training loss faint and smoothed, validation as points, rate below."""
    from matplotlib.figure import Figure  # imported only when a picture is drawn

    lines = read_jsonl(run.metrics)
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation_loss" in line]
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
            f"{best['validation_loss']:.3f} nats per token\n{best['validation_bits_per_byte']:.3f} bits per byte",
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
    figure.savefig(run.curve, dpi=110)
