"""Kernels for sliding windows that the program does not use, to compare them with its own."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.flex_attention import FlexAttention, window_blocks
from glassgpt.training.deterministic import empty_like, execute_plan
from glassgpt.training.hardware import Hardware


class KernelWindows(FlexAttention):
    """Windows without sinks by another kernel; everything else as in the program.

    Args:
        kernel: maps q, k, v, (B, H, T, D) each, and the window to the mixed values.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__(attend)
        self.kernel = kernel

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
    ) -> Tensor:
        """See `AttentionFunction`."""
        if mask is not None or not 0 < window < q.size(2) or sinks or not torch.compiler.is_compiling():
            return self.attend(q, k, v, mask, dropout, window, sinks)
        return self.kernel(q.to(v.dtype), k.to(v.dtype), v, window)


def flex_windows(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int = 0) -> Tensor:
    """Attend to windows as the program does when it trains on a GPU."""
    return FlexAttention(attend)(q, k, v, None, 0.0, window, sinks)


SAFE = {"ROWS_GUARANTEED_SAFE": True, "PRESCALE_QK": True}
"""Every query sees itself, so no row of scores is empty; the scale is applied to queries instead of scores."""
FLEX_OPTIONS: Any = json.loads(os.environ.get("FLEX_OPTIONS", json.dumps(SAFE)))
FLEX_TRIALS: list[dict[str, Any]] = [
    {**SAFE, "USE_TMA": True},
    {**SAFE, "fwd_BLOCK_M": 128, "fwd_BLOCK_N": 128, "fwd_num_stages": 2, "fwd_num_warps": 8},
    {**SAFE, "bwd_BLOCK_M1": 64, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64, "bwd_BLOCK_N2": 64, "bwd_num_warps": 4},
    {**SAFE, "bwd_num_stages": 2},
]
"""Options that could be faster on Hopper than PyTorch's defaults."""


def flex_with_options(q: Tensor, k: Tensor, v: Tensor, window: int, options: Any = FLEX_OPTIONS) -> Tensor:
    """Attend to windows with FlexAttention and options of its kernel; those of the environment's `FLEX_OPTIONS` by default."""
    blocks = window_blocks(q.size(2), window, 0, q.device)
    mixed = flex_attention(q, k, v, block_mask=blocks, kernel_options=options)
    assert isinstance(mixed, Tensor)
    return mixed


def flex_function(options: dict[str, Any], window: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function that attends to windows with FlexAttention and these options."""

    def attend_to_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_with_options(q, k, v, window, options)

    return attend_to_window


def flash_windows(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend to windows with FlashAttention-2 for sequences of different length, whose interface in PyTorch has a window."""
    from torch.nn.attention.varlen import varlen_attn

    batch, _, length, _ = q.shape
    ends = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q.device)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B·T, H, D)
    mixed: Any = varlen_attn(q, k, v, ends, ends, length, length, window_size=(window - 1, 0))
    return mixed.unflatten(0, (batch, length)).transpose(1, 2)


def has_cudnn_windows() -> bool:
    """Return whether cuDNN's frontend is installed, through which alone its windows can be reached."""
    return torch.cuda.is_available() and find_spec("cudnn") is not None


@torch.library.custom_op("glassgpt::cudnn_windows", mutates_args=())
def cudnn_windows(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Attend to windows with cuDNN; see `glassgpt.training.deterministic.cudnn_attention`."""
    output, log_sum = empty_like(q), q.new_empty((*q.shape[:3], 1), dtype=torch.float32)

    def build(graph: Any, inputs: list[Any]) -> Any:
        return graph.sdpa(**dict(zip("qkv", inputs, strict=True)), is_inference=False, **_mask(q, window))

    execute_plan(f"windows of {window}", build, (q, k, v), (output, log_sum))
    return output, log_sum


@torch.library.custom_op("glassgpt::cudnn_windows_backward", mutates_args=())
def cudnn_windows_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    grads = empty_like(q), empty_like(k), empty_like(v)

    def build(graph: Any, inputs: list[Any]) -> Any:
        names = dict(zip(("dO", "q", "k", "v", "o", "stats"), inputs, strict=True))
        return graph.sdpa_backward(**names, **_mask(q, window))

    execute_plan(f"backward, windows of {window}", build, (grad, q, k, v, output, log_sum), grads)
    return grads


def _mask(q: Tensor, window: int) -> dict[str, Any]:
    return {"attn_scale": q.size(-1) ** -0.5, "use_causal_mask": True, "diagonal_band_left_bound": window}


@cudnn_windows.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return empty_like(q), q.new_empty((*q.shape[:3], 1), dtype=torch.float32)


@cudnn_windows_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like(q), empty_like(k), empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    return *cudnn_windows_backward(grad, *ctx.saved_tensors, ctx.window), None


cudnn_windows.register_autograd(_differentiate, setup_context=_save)


def attend_by_cudnn(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend to windows with cuDNN, differentiably."""
    call: Any = cudnn_windows  # type checkers take its number of arguments from the backward pass
    return call(q, k, v, window)[0]


KERNELS: dict[str, Any] = {
    "FlashAttention": flash_windows,
    "cuDNN": attend_by_cudnn,
    "other options": flex_with_options,
}
"""Other kernels for windows, by the end of the variant's name."""


@contextlib.contextmanager
def use_kernel(variant: str) -> Generator[None]:
    """Build models with the kernel that a variant's name ends with; with the program's own if it names none."""
    kernel = next((kernel for name, kernel in KERNELS.items() if variant.endswith(", " + name)), None)
    usual = Hardware.attention

    def attention(self: Hardware, model: Any) -> AttentionFunction:
        return KernelWindows(kernel)

    if kernel is not None:
        Hardware.attention = attention  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hardware.attention = usual
