"""What the machine is and what it can do: device, precision, peak arithmetic."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from glassgpt.device import pick_device
from glassgpt.model.attention import attend
from glassgpt.model.config import ModelConfig
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


ATTENTION_ORDER = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""On Hopper cuDNN's kernel is the fastest, and PyTorch does not choose it by itself everywhere."""


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

    def kernels(self) -> AbstractContextManager[object]:
        """Context in which attention tries kernels in the order that is fastest here."""
        return sdpa_kernel(list(ATTENTION_ORDER), set_priority=True) if self.device.type == "cuda" else nullcontext()

    def attention_kernel(self, model: ModelConfig) -> str:
        """The kernel that attention over the whole context runs with: `cudnn`, `flash`, `efficient`, `math`, …

        Found out by running it once and looking.
        """
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        shape = (1, model.n_head, model.context_length, model.head_dim)
        few = (1, model.kv_heads, model.context_length, model.head_dim)
        q = torch.zeros(shape, dtype=dtype, device=self.device, requires_grad=True)
        k, v = (torch.zeros(few, dtype=dtype, device=self.device, requires_grad=True) for _ in range(2))
        dropout = model.dropout if model.arch == "gpt2" else 0.0
        devices = [self.device] if self.device.type == "cuda" else []
        # Dropout draws; training must not feel that somebody looked.
        with torch.random.fork_rng(devices), self.kernels(), _WatchedCalls() as watched:
            attend(q, k, v, None, dropout)
        # aten::_scaled_dot_product_cudnn_attention; without one of these the formula was computed step by step.
        fused = [re.search(r"_scaled_dot_product_(?:fused_)?([a-z]+)_attention", name) for name in watched.names]
        return next((match[1] for match in fused if match), "math")

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


class _WatchedCalls(TorchDispatchMode):
    """Notes the names of the operations that PyTorch dispatches to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


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
