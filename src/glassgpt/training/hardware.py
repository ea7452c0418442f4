"""What the machine is and what it can do: device, precision, peak arithmetic."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from glassgpt.errors import ConfigError
from glassgpt.training.config import TrainConfig

Precision = Literal["fp32", "bf16", "fp16"]

PEAK_BF16_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense 16-bit FLOP/s with float32 accumulation by the vendors' data sheets, by a part of the name that
`torch.cuda.get_device_name` gives; longer names are tried first, so that L40S is not taken for L4."""


@dataclass(frozen=True)
class Hardware:
    """Resolved answers to the configuration's `auto`.

    Attributes:
        device: where tensors live.
        precision: arithmetic of the forward pass.
        compile: whether the model is compiled.
    """

    device: torch.device
    precision: Precision
    compile: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the forward pass runs in `precision`; weights stay float32."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler, at work for fp16 only (Micikevicius et al. 2018)."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s to hold the measured ones against, or None where no honest figure is known."""
        if self.device.type != "cuda" or self.precision == "fp32":
            return None
        name = torch.cuda.get_device_name(self.device)
        known = (peak for part, peak in sorted(PEAK_BF16_FLOPS.items(), key=lambda x: -len(x[0])) if part in name)
        return next(known, None)

    def describe(self) -> str:
        """One line for a person: `cpu (2 threads), fp32, not compiled`."""
        name = f"cpu ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else str(self.device)
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{name}, {self.precision}, {'compiled' if self.compile else 'not compiled'}"


def pick_device(wanted: str = "auto") -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: a device is asked for that this machine lacks.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if wanted == "auto":
        return torch.device(available[0])
    if wanted not in available:
        raise ConfigError([f"train.device is {wanted}, which this machine lacks; it has {', '.join(available)}"])
    return torch.device(wanted)


def resolve_hardware(train: TrainConfig) -> Hardware:
    """Turn every `auto` into an answer for this machine.

    Raises:
        ConfigError: a device or precision is asked for that this machine lacks.
    """
    device = pick_device(train.device)
    if train.precision != "auto":
        precision: Precision = train.precision
    elif device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        precision = "bf16"
    else:
        # On a CPU the casts of autocast cost a small model more than 16-bit products save.
        precision = "fp32"
    compiled = train.compile == "on" or (train.compile == "auto" and device.type == "cuda")
    return Hardware(device, precision, compiled)


def versions() -> dict[str, str]:
    """What a measurement or a run should be remembered with."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
