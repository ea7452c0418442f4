"""Bit-equal training on a GPU: two runs with the same seed, or a resumed run, end with the same weights.

On a CPU training is deterministic as it is. On a GPU PyTorch's strict mode (`torch.use_deterministic_algorithms`)
makes every operation so, but it rules out cuDNN's attention, whose backward pass is not deterministic as PyTorch
calls it, and falls back to FlashAttention-2. cuDNN itself has a deterministic backward pass; `cudnn_attention` calls
it through NVIDIA's frontend (extra: deterministic). `benchmarks/gpu_determinism.py` measures what both cost.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.attention import attend

CUBLAS_WORKSPACE = ":4096:8"
"""cuBLAS is deterministic only with a fixed workspace (CUDA toolkit documentation, "Results reproducibility")."""


def set_cublas_workspace() -> None:
    """Make cuBLAS deterministic; call it before the first CUDA matrix product of the process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)


@contextmanager
def deterministic_algorithms() -> Generator[None]:
    """Context manager in which every PyTorch operation is deterministic or raises an error; see `set_cublas_workspace`."""
    set_cublas_workspace()
    import torch._inductor.config as inductor

    fill: Any = import_module("torch.utils.deterministic")  # type checkers do not know its attribute

    before = torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory, inductor.force_shape_pad
    torch.use_deterministic_algorithms(True)
    # Strict mode would also write NaN into every new tensor, which finds bugs and costs bandwidth.
    fill.fill_uninitialized_memory = False
    # Compiled code pads odd matrix sizes (a vocabulary of 50,257) if a measurement says so; a measurement may come
    # out differently each time, so strict mode skips it and would not pad: 80 ms of a 213 ms step on an H100.
    inductor.force_shape_pad = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        fill.fill_uninitialized_memory, inductor.force_shape_pad = before[1:]


def has_cudnn_attention(device: torch.device, head_dim: int = 64) -> bool:
    """Return whether cuDNN's deterministic attention can be used: its frontend is installed, on Hopper or newer."""
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= (9, 0)
        and head_dim % 8 == 0
        and head_dim <= 128
        and find_spec("cudnn") is not None
    )


def attend_deterministic(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
) -> Tensor:
    """Compute the attention of `attend`, with cuDNN's deterministic backward pass where it applies.

    It applies to causal attention in 16 bits without dropout, the case of training; everything else goes to `attend`,
    which in strict mode uses deterministic kernels too. Shapes: see `AttentionFunction`.
    """
    narrow = 0 < window < k.size(2) - sinks
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    is_16_bit = dtype in (torch.bfloat16, torch.float16)
    if mask is not None or dropout or narrow or not is_16_bit or q.size(2) != k.size(2) or not q.requires_grad:
        return attend(q, k, v, mask, dropout, window, sinks)
    return cudnn_attention(q.to(dtype), k.to(dtype), v.to(dtype))[0]


@torch.library.custom_op("glassgpt::cudnn_attention", mutates_args=())
def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention by cuDNN, differentiable by its deterministic backward pass.

    Args:
        q: (B, H, T, D) bfloat16 or float16 on a CUDA device.
        k: (B, K, T, D).
        v: (B, K, T, D).

    Returns:
        The output (B, H, T, D), and the logarithm of each query's softmax denominator (B, H, T, 1) float32.
    """
    return _forward(q, k, v)


@cudnn_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return empty_like(q), q.new_empty((*q.shape[:3], 1), dtype=torch.float32)


@torch.library.custom_op("glassgpt::cudnn_attention_backward", mutates_args=())
def cudnn_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v for the gradient (B, H, T, D) of `cudnn_attention`'s output."""
    return _backward(grad, q, k, v, output, log_sum)


@cudnn_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like(q), empty_like(k), empty_like(v)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    return cudnn_attention_backward(grad, *ctx.saved_tensors)


cudnn_attention.register_autograd(_differentiate, setup_context=_save)


def empty_like(x: Tensor) -> Tensor:
    """An uninitialized (B, H, T, D) in the memory order (B, T, H, D), so that joining the heads is a view."""
    batch, heads, tokens, width = x.shape
    return x.new_empty((batch, tokens, heads, width)).transpose(1, 2)


_handles: dict[int, Any] = {}
_graphs: dict[tuple[Any, ...], tuple[Any, list[Any], list[Any]]] = {}
"""cuDNN's execution plans, by direction, device, and the shapes and strides of their tensors."""


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    output, log_sum = empty_like(q), q.new_empty((*q.shape[:3], 1), dtype=torch.float32)

    def build(graph: Any, inputs: list[Any]) -> Any:
        names = dict(zip("qkv", inputs, strict=True))
        return graph.sdpa(**names, is_inference=False, attn_scale=q.size(-1) ** -0.5, use_causal_mask=True)

    execute_plan("forward", build, (q, k, v), (output, log_sum))
    return output, log_sum


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, log_sum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grads = empty_like(q), empty_like(k), empty_like(v)

    def build(graph: Any, inputs: list[Any]) -> Any:
        names = dict(zip(("dO", "q", "k", "v", "o", "stats"), inputs, strict=True))
        scale = q.size(-1) ** -0.5
        return graph.sdpa_backward(
            **names, attn_scale=scale, use_causal_mask=True, use_deterministic_algorithm=True
        )  # fmt: skip

    execute_plan("backward", build, (grad, q, k, v, output, log_sum), grads)
    return grads


def execute_plan(direction: str, build: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Run cuDNN's plan for tensors of these shapes, made when they are first seen."""
    import cudnn  # pyright: ignore[reportMissingImports]

    device = inputs[0].device
    if device.index not in _handles:
        _handles[device.index] = cudnn.create_handle()
    handle = _handles[device.index]
    cudnn.set_stream(handle, torch.cuda.current_stream(device).cuda_stream)
    key = (direction, device.index, *((tuple(x.shape), x.stride(), x.dtype) for x in inputs))
    if key not in _graphs:
        types = {torch.bfloat16: cudnn.data_type.BFLOAT16, torch.float16: cudnn.data_type.HALF}
        graph = cudnn.pygraph(
            io_data_type=types[inputs[1].dtype],
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            handle=handle,
        )
        symbols = [graph.tensor_like(x) for x in inputs]
        results = list(build(graph, symbols))
        for result, tensor in zip(results, outputs, strict=True):
            result.set_output(True).set_dim(tensor.size()).set_stride(tensor.stride())
            if tensor.dtype == torch.float32:
                result.set_data_type(cudnn.data_type.FLOAT)
        graph.build([cudnn.heur_mode.A])
        _graphs[key] = graph, symbols, results
    graph, symbols, results = _graphs[key]
    workspace = torch.empty(max(1, graph.get_workspace_size()), device=device, dtype=torch.uint8)
    pairs = zip((*symbols, *results), (*inputs, *outputs), strict=True)
    graph.execute(dict(pairs), workspace, handle=handle)
