"""The training hardware: device, precision, attention kernels, peak FLOP/s."""

from __future__ import annotations

import platform
import re
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from glassgpt.device import pick_device
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.delta_rule import training_kernel
from glassgpt.training.config import TrainConfig
from glassgpt.training.cpu_bfloat16 import attend_in_float32, cpu_has_16_bit_matmul
from glassgpt.training.deterministic import (
    attend_deterministic,
    deterministic_algorithms,
    has_cudnn_attention,
    set_cublas_workspace,
)
from glassgpt.training.rng import preserved_rng

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
"""Dense 16-bit FLOP/s with float32 accumulation, from the vendors' data sheets, by a part of the name that
`torch.cuda.get_device_name` returns. Longer names are tried first, so that L40S is not taken for L4."""


ATTENTION_ORDER = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""Fastest first: on Hopper that is cuDNN's kernel, which PyTorch does not choose by itself everywhere."""


MIN_FLEX_HEAD_WIDTH = 16
"""Triton multiplies no narrower blocks, so that FlexAttention's kernel refuses narrower heads."""


def flex_exclusion(model: ModelConfig) -> str:
    """Return why FlexAttention cannot compute the attention of a model in training, or an empty string if it can."""
    if model.head_width < MIN_FLEX_HEAD_WIDTH:
        return f"heads have {model.head_width} channels, fewer than {MIN_FLEX_HEAD_WIDTH}"
    if model.arch == "gpt2" and model.dropout:  # the others drop no attention weights
        return "model.dropout drops attention weights"
    return ""


@dataclass(frozen=True)
class Hardware:
    """The device and precision that the configuration resolves to on this machine.

    Attributes:
        device: device of all tensors.
        precision: arithmetic of the forward pass.
        compile: whether the model is compiled.
        deterministic: whether only deterministic GPU kernels are used; a CPU has no others.
    """

    device: torch.device
    precision: Precision
    compile: bool
    deterministic: bool = False

    @property
    def multiplies_bfloat16_on_cpu(self) -> bool:
        """True if products are computed in bfloat16 on a CPU, which is faster for some operations only."""
        return self.device.type == "cpu" and self.precision == "bf16"

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which the forward pass runs in `precision`; weights stay float32."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    @contextmanager
    def kernels(self) -> Generator[None]:
        """Context manager in which attention tries kernels from fastest to slowest; only deterministic ones if requested."""
        with (
            sdpa_kernel(list(ATTENTION_ORDER), set_priority=True) if self.device.type == "cuda" else nullcontext(),
            deterministic_algorithms() if self.deterministic else nullcontext(),
        ):
            yield

    def attention(self, model: ModelConfig, *, packed: bool = False) -> AttentionFunction:
        """Return the attention function to train a model with.

        Args:
            model: the model's shape.
            packed: whether rows of several documents are trained on; see `PackedRows`.
        """
        if self.multiplies_bfloat16_on_cpu:
            return attend_in_float32
        cudnn = self.deterministic and has_cudnn_attention(self.device, model.head_width)
        function: AttentionFunction = attend_deterministic if cudnn else attend
        if not self._has_blocks_to_leave_out(model, packed=packed) or flex_exclusion(model):
            return function
        from glassgpt.model.flex_attention import FlexAttention  # takes a second to import

        return FlexAttention(function)

    def _has_blocks_to_leave_out(self, model: ModelConfig, *, packed: bool) -> bool:
        """Return whether there are blocks of keys that no query sees, and a compiler for a kernel that leaves them out."""
        return bool(model.window or packed) and self.compile and self.device.type == "cuda"

    def describe_attention(self, model: ModelConfig, *, packed: bool = False) -> str:
        """Return `attention_kernel`, and why windows or packed rows have no kernel that leaves out blocks, if they have none."""
        kernel, why = self.attention_kernel(model), flex_exclusion(model)
        if not why or not self._has_blocks_to_leave_out(model, packed=packed):
            return kernel
        return f"{kernel}, not FlexAttention ({why})"

    def attention_kernel(self, model: ModelConfig) -> str:
        """Return the kernel that attention over the full context uses: `cudnn`, `flash`, `efficient`, `math`, …

        It is found by running attention once and recording the operation that PyTorch dispatches to. Linear attention has
        kernels of its own, see `training_kernel`.
        """
        if model.arch == "gated_deltanet":
            return training_kernel(self.device, self.precision != "fp32")
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        shape = (1, model.n_head, model.context_length, model.head_width)
        kv_shape = (1, model.kv_heads, model.context_length, model.head_width)
        q = torch.zeros(shape, dtype=dtype, device=self.device, requires_grad=True)
        k, v = (torch.zeros(kv_shape, dtype=dtype, device=self.device, requires_grad=True) for _ in range(2))
        dropout = model.dropout if model.arch == "gpt2" else 0.0
        # Dropout draws random numbers, which must not change the training that follows.
        with preserved_rng(self.device), self.kernels(), _RecordedCalls() as calls:
            self.attention(model)(q, k, v, None, dropout)
        # Such as aten::_scaled_dot_product_cudnn_attention, or glassgpt::cudnn_attention for the deterministic one;
        # without such an operation, the formula was computed step by step.
        fused = [
            re.search(r"(?:_scaled_dot_product_(?:fused_)?|glassgpt[.:]+)([a-z]+)_attention", name)
            for name in calls.names
        ]
        return next((match[1] for match in fused if match), "math")

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, enabled for fp16 only (Micikevicius et al. 2018)."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def peak_flops(self) -> float | None:
        """Peak FLOP/s of one device, or None if unknown (on a CPU, in fp32, on other GPUs)."""
        if self.device.type != "cuda" or self.precision == "fp32":
            return None
        name = torch.cuda.get_device_name(self.device)
        known = (peak for part, peak in sorted(PEAK_BF16_FLOPS.items(), key=lambda x: -len(x[0])) if part in name)
        return next(known, None)

    def describe(self) -> str:
        """Return one line such as `cpu (2 threads), fp32, not compiled`."""
        name = f"cpu ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else str(self.device)
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        words = [name, self.precision, "compiled" if self.compile else "not compiled"]
        return ", ".join([*words, *(["deterministic"] if self.deterministic else [])])


class _RecordedCalls(TorchDispatchMode):
    """Records the names of the operations that PyTorch dispatches to."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def resolve_hardware(train: TrainConfig) -> Hardware:
    """Resolve every `auto` for this machine.

    Raises:
        ConfigError: the device is not available.
    """
    device = pick_device(train.device)
    if train.precision not in ("auto", "fast"):
        precision: Precision = train.precision
    else:
        precision = "bf16" if _has_bfloat16(device, with_cpu=train.precision == "fast") else "fp32"
    compiled = train.compile == "on" or (train.compile == "auto" and device.type == "cuda")
    return Hardware(device, precision, compiled, _is_deterministic(train, device, precision))


def _has_bfloat16(device: torch.device, *, with_cpu: bool) -> bool:
    """Return whether a device has instructions for bfloat16; a CPU's count only if it is asked for.

    The casts of autocast cost the smallest models more than 16-bit products save.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return with_cpu and device.type == "cpu" and cpu_has_16_bit_matmul(unknown=False)


def _is_deterministic(train: TrainConfig, device: torch.device, precision: Precision) -> bool:
    """Resolve `train.deterministic`; see `TrainConfig`."""
    if device.type != "cuda" or train.deterministic == "off":
        return False
    is_untested = precision == "fp32" or train.fp8 != "off"
    if train.deterministic == "auto" and (is_untested or not has_cudnn_attention(device)):
        return False
    set_cublas_workspace()
    return True


def versions() -> dict[str, str]:
    """Return the versions to record with a measurement or a run."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
