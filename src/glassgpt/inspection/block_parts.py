"""The parts of a block that only add or rescale: normalization, output projection of attention, residual sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.inspection.analysis import cosine, head_outputs, promoted_tokens
from glassgpt.inspection.serialization import nested_lists, token_json
from glassgpt.inspection.trace import Trace

PROMOTED_TOKENS = 5


@torch.no_grad()
def normalizations(trace: Trace, layer: int) -> dict[str, Any]:
    """Return the statistics and parameters of both normalizations of a block, as JSON values.

    Under `norms`, for each: `mean` (T,), None where it is not subtracted (RMSNorm); `scale` (T,), the root of the variance,
    or of the mean square, plus epsilon, which is divided by; `gain` and `bias` (C,), None where there is none; `eps`.
    """
    found = []
    for name, before in (("norm1", "input"), ("norm2", "middle")):
        module = trace.model.get_submodule(f"blocks.{layer}.{name}")
        x, eps = trace[f"blocks.{layer}.{before}"].float(), _epsilon(module)
        is_centered = isinstance(module, nn.LayerNorm)
        mean = x.mean(dim=-1, keepdim=True) if is_centered else torch.zeros(())
        scale = ((x - mean).square().mean(dim=-1) + eps).sqrt()
        parameters = {key: _parameter(module, name) for key, name in (("gain", "weight"), ("bias", "bias"))}
        means = nested_lists(mean[:, 0]) if is_centered else None
        found.append({"mean": means, "scale": nested_lists(scale), "eps": eps, **parameters})
    return {"norms": found}


def _epsilon(module: nn.Module) -> float:
    eps = getattr(module, "eps", None)
    return torch.finfo(torch.float32).eps if eps is None else float(eps)  # PyTorch's default for RMSNorm


def _parameter(module: nn.Module, name: str) -> list[float] | None:
    values: Tensor | None = getattr(module, name, None)
    return None if values is None else nested_lists(values.float())


@torch.no_grad()
def projected_heads(trace: Trace, layer: int, position: int) -> dict[str, Any]:
    """Return what each head adds to the residual stream at a position, as JSON values.

    `heads`: for each its `norm`, its `cosine` with the sum, and the tokens that it `promotes`; `bias`: norm of the bias of
    the projection, None without; `sum`: norm of the heads' sum, with the bias. It is the attention's output unless an
    intervention scales or replaces that.
    """
    added = head_outputs(trace.model, layer, trace[f"blocks.{layer}.attention.mixed"][:, position : position + 1])[:, 0]
    bias = getattr(trace.model.get_submodule(f"blocks.{layer}.attention.out"), "bias", None)
    total = added.sum(dim=0) + (0 if bias is None else bias)
    promoted = promoted_tokens(trace, added, PROMOTED_TOKENS).tolist()
    rows = zip(added.norm(dim=-1).tolist(), cosine(added, total[None]).tolist(), promoted, strict=True)
    heads = [
        {"norm": norm, "cosine": direction, "promotes": [token_json(trace.tokenizer, token) for token in tokens]}
        for norm, direction, tokens in rows
    ]
    return {"heads": heads, "bias": None if bias is None else float(bias.norm()), "sum": float(total.norm())}


@torch.no_grad()
def residual_sums(trace: Trace, layer: int) -> dict[str, Any]:
    """Return how attention and MLP of a block change the residual stream, as JSON values (T,) each.

    `norms` of the five parts in order: input, attention, middle, mlp, output; `cosines`: of attention with the input, of
    middle with the input, of the MLP with middle, and of the output with middle. A cosine of 0 means a new direction.
    """
    at = f"blocks.{layer}"
    before, attention, middle, mlp, after = (
        trace[f"{at}.{name}"].float() for name in ("input", "attention.output", "middle", "mlp.output", "output")
    )
    pairs = ((attention, before), (middle, before), (mlp, middle), (after, middle))
    return {
        "norms": [nested_lists(part.norm(dim=-1)) for part in (before, attention, middle, mlp, after)],
        "cosines": [nested_lists(cosine(one, other)) for one, other in pairs],
    }
