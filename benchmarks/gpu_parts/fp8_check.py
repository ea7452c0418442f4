"""The head's loss in 8 bits beside float64, and the time of its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.training.fp8 import head, quantize
from glassgpt.training.fp8.linear import convert
from gpu_parts.moments import milliseconds

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def checks(small: bool) -> list[dict[str, Any]]:
    """Return what was compared, the figure, its limit, and whether it holds."""
    torch.manual_seed(0)
    tokens, width, vocabulary = (96, 32, 500) if small else (4096, 768, 50257)
    x = torch.randn(tokens, width, device=DEVICE) + 2 * torch.randn(width, device=DEVICE)
    w = torch.randn(vocabulary, width, device=DEVICE) * 0.05
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)
    found = []
    for cap in (0.0, 15.0):
        found += [{**one, "what": f"{one['what']}, cap {cap:g}"} for one in _head(x, w, targets, cap)]
        found += [{**one, "what": f"{one['what']}, cap {cap:g}"} for one in _kernel(x, w, targets, cap)]
    return [*found, *_linear(x)]


def _checked(what: str, figure: float, limit: float) -> dict[str, Any]:
    return {"what": what, "figure": figure, "limit": limit, "holds": figure <= limit}


def _relative(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def _head(x: Tensor, w: Tensor, targets: Tensor, cap: float) -> list[dict[str, Any]]:
    x = x.bfloat16() if x.is_cuda else x
    exact_x, exact_w = x.double().requires_grad_(), w.double().requires_grad_()
    logits = exact_x @ exact_w.t()
    exact = F.cross_entropy(cap * torch.tanh(logits / cap) if cap else logits, targets)
    exact.backward()
    del logits
    loss, by_x, by_w = head.cross_entropy_fp8(x, w, targets, cap, quantize.padded_size(len(x)))
    again = head.cross_entropy_fp8(x, w, targets, cap, quantize.padded_size(len(x)))
    same = all(torch.equal(one, other) for one, other in zip((loss, by_x, by_w), again, strict=True))
    assert exact_x.grad is not None
    assert exact_w.grad is not None
    return [
        _checked("loss, error in nats", abs(loss.item() - exact.item()), 0.02),
        _checked("gradient by features, relative error", _relative(by_x, exact_x.grad), 0.05),
        _checked("gradient by weights, relative error", _relative(by_w, exact_w.grad), 0.05),
        _checked("other bits in a second run", float(not same), 0.0),
    ]


def _kernel(x: Tensor, w: Tensor, targets: Tensor, cap: float) -> list[dict[str, Any]]:
    """Compare the cross-entropy's kernel with its formula, on the same logits."""
    rows = min(len(x), 1024)
    logits = F.pad(x[:rows] @ w.t(), (0, quantize.padded_size(len(w)) - len(w)))
    logits = logits.bfloat16() if x.is_cuda else logits
    found = head.losses_and_gradients(logits, targets[:rows], len(w), cap)
    exact = head.losses_and_gradients_readable(logits, targets[:rows], len(w), cap)
    other = (found[1].view(torch.uint8) != exact[1].view(torch.uint8)).float().mean().item()
    return [
        _checked("kernel's losses, largest error in nats", (found[0] - exact[0]).abs().max().item(), 3e-4),
        _checked("kernel's gradients, share of other bytes", other, 1e-4),
    ]


def _linear(x: Tensor) -> list[dict[str, Any]]:
    """Compare a linear layer with its form without 8 bits."""
    torch.manual_seed(0)
    x = x.bfloat16() if x.is_cuda else x
    layer = nn.Linear(x.size(1), 3 * x.size(1), bias=False, device=DEVICE)
    inputs = (x.detach().requires_grad_(), layer.weight)
    exact = inputs[0].float() @ layer.weight.t()
    gradient = torch.randn_like(exact) / len(x)
    expected = torch.autograd.grad(exact, inputs, gradient)
    convert(layer)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=x.is_cuda):
        y = layer(inputs[0])
        found = torch.autograd.grad(y, inputs, gradient.to(y.dtype))
    names = ("output", "gradient by inputs", "gradient by weights")
    pairs = zip(names, (y, *found), (exact, *expected), strict=True)
    return [_checked(f"linear layer, {name}, relative error", _relative(a, b), 0.09) for name, a, b in pairs]


@torch.no_grad()
def part_times(small: bool) -> dict[str, float]:
    """Return the milliseconds of the head's parts at 65,536 tokens, and of two ways to the gradients of q, k and v."""
    torch.manual_seed(0)
    tokens, width, vocabulary = (64, 32, 500) if small else (65536, 768, 50304)
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    x = torch.randn(tokens, width, device=DEVICE, dtype=dtype)
    w = torch.randn(vocabulary, width, device=DEVICE) * 0.05
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)
    padded = quantize.padded_size(vocabulary)
    w8, bias = quantize.quantize_rows(w, padded, x.mean(0, dtype=torch.float32))
    x8, bias = quantize.quantize(x), bias.to(dtype)
    one = torch.ones_like(x8.inverse_scale)
    logits = quantize.product(x8.rows, w8.rows, x8.inverse_scale, w8.inverse_scale, dtype, fast=True, bias=bias)
    g8 = head.losses_and_gradients(logits, targets, vocabulary, 0.0)[1]
    flipped = quantize.transpose(g8)
    parts: dict[str, Callable[[], object]] = {
        "mean of features": lambda: x.mean(0, dtype=torch.float32),
        "weights to 8 bits": lambda: quantize.quantize_rows(w, padded, w[0]),
        "features to 8 bits": lambda: quantize.quantize(x),
        "logits, 16 bits": lambda: x @ w.to(dtype).t(),
        "logits": lambda: quantize.product(x8.rows, w8.rows, one, one, dtype, fast=True),
        "logits with bias": lambda: quantize.product(x8.rows, w8.rows, one, one, dtype, fast=True, bias=bias),
        "cross-entropy": lambda: head.losses_and_gradients(logits, targets, vocabulary, 0.0),
        "transposition": lambda: quantize.transpose(g8),
        "gradient by weights": lambda: quantize.product(flipped, x8.columns, one, one, torch.float32, fast=False),
        "gradient by features": lambda: quantize.product(g8, w8.columns, one, one, dtype, fast=False),
        "gradient by features, fast": lambda: quantize.product(g8, w8.columns, one, one, dtype, fast=True),
    }
    found = {name: milliseconds(part) for name, part in parts.items()}
    found["whole"] = milliseconds(lambda: head.cross_entropy_fp8(x, w, targets, 0.0, tokens))
    return found | _qkv_times(x)


def _qkv_times(x: Tensor) -> dict[str, float]:
    """Time the gradients of the product for q, k and v: from one matrix, which must be written first, or from three."""
    width = x.size(1)
    parts, w = [torch.randn_like(x) for _ in range(3)], torch.randn(3 * width, width, device=x.device, dtype=x.dtype)
    by_weight = torch.empty_like(w)

    def from_one() -> None:
        whole = torch.cat(parts, 1)
        _ = whole @ w, whole.t() @ x

    def from_three() -> None:
        by_x = parts[0] @ w[:width]
        for i in range(3):
            rows = slice(i * width, (i + 1) * width)
            if i:
                by_x.addmm_(parts[i], w[rows])
            torch.mm(parts[i].t(), x, out=by_weight[rows])

    return {"q, k, v joined, then gradients": milliseconds(from_one), "gradients by part": milliseconds(from_three)}
