"""Check for outlier channels: input channels whose weights are so large that 8 bits with a scale per output lose the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.training.checkpoint import WEIGHTS, checkpoint_name
from glassgpt.training.run_folder import RunFolder

OUTLIER_RATIO = 16.0
"""Largest absolute weight of an output over the root mean square of its weights; normal weights have 3 to 4. From here on an
8-bit step is an eighth of a typical weight. Only outputs with more than 256 inputs can reach it."""
LEVELS = 127
ROUNDING = 12**-0.5
"""Root mean square of the rounding error, in steps."""


@dataclass(frozen=True)
class OutlierChannel:
    """The input channel of a matrix that costs most.

    Attributes:
        parameter: name of the matrix.
        channel: index of the input channel.
        outputs: outputs of which it has the largest weight, and an outlier.
        error: rounding error of int8 over the norm of these outputs' weights.
        without: the same if the channel were left out of the scale.
    """

    parameter: str
    channel: int
    outputs: int
    error: float
    without: float


def check_outlier_channels(run: RunFolder, whole: list[int]) -> CheckResult:
    """Report the input channels with outliers of the newest intact checkpoint, and what they would cost in int8."""
    if not whole:
        return CheckResult("outlier channels", "no checkpoint")
    found = [outlier for name, tensor in _matrices(run.checkpoints / checkpoint_name(max(whole)) / WEIGHTS)
             if (outlier := find_outlier(name, tensor)) is not None]  # fmt: skip
    findings: tuple[Finding, ...] = ()
    if found:
        worst = max(found, key=lambda one: one.error / one.without)
        seen = {
            "matrices": len(found), "parameter": worst.parameter, "channel": worst.channel, "outputs": worst.outputs,
            "error": f"{worst.error:.1%}", "without": f"{worst.without:.1%}",
        }  # fmt: skip
        findings = (Finding("GG-QNT-001", "note", seen),)
    return CheckResult("outlier channels", "found", {"count": len(found), "ratio": OUTLIER_RATIO}, findings)


def find_outlier(name: str, weight: Tensor) -> OutlierChannel | None:
    """Return the worst outlier channel of a matrix (out, in), or None if it has none."""
    size = weight.square().mean(dim=1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    peaks, channels = weight.abs().max(dim=1)
    affected = peaks / size > OUTLIER_RATIO
    if not bool(affected.any()):
        return None
    channel = int(channels[affected].mode().values)
    rows = affected & (channels == channel)
    others = weight[rows].abs()
    others[:, channel] = 0
    error, without = (
        float((peak / LEVELS * ROUNDING / size[rows]).square().mean().sqrt())
        for peak in (peaks[rows], others.amax(dim=1))
    )
    return OutlierChannel(name, channel, int(rows.sum()), error, without)


def _matrices(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the float matrices of a weights file; one is in memory at a time."""
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a mapping, it only has keys()
            tensor = opened.get_tensor(name)
            if name.endswith(".weight") and tensor.ndim == 2 and tensor.is_floating_point():
                yield name, tensor.float()
