"""Figures of the picture of the model: the size of each component, and what it does at one position."""

from __future__ import annotations

from typing import Any

import torch

from glassgpt.inspection.analysis import head_outputs, logit_lens
from glassgpt.inspection.serialization import nested_lists, token_json
from glassgpt.inspection.trace import Trace
from glassgpt.model.transformer import LanguageModel

PREDICTIONS = 5
"""Tokens listed after each block."""


def component_sizes(model: LanguageModel) -> dict[str, Any]:
    """Return the number of parameters of each component.

    Keys: `attention` and `mlp`, one number per block; `embedding`, of tokens and positions; `head`, 0 if it shares the
    weights of the embedding; `norms`, of all normalizations; `all`.
    """
    attention, mlp = [0] * model.config.n_layer, [0] * model.config.n_layer
    sizes = {"embedding": 0, "head": 0, "norms": 0}
    for name, parameter in model.named_parameters():  # a shared one is listed once
        place, *rest = name.split(".")
        if place == "blocks" and rest[1] in ("attention", "mlp"):
            (attention if rest[1] == "attention" else mlp)[int(rest[0])] += parameter.numel()
        elif place == "blocks" or place == "norm":
            sizes["norms"] += parameter.numel()
        else:
            sizes["embedding" if "embedding" in place else "head"] += parameter.numel()
    return {"attention": attention, "mlp": mlp, **sizes, "all": sum([*attention, *mlp, *sizes.values()])}


@torch.no_grad()
def components_at(trace: Trace, position: int) -> dict[str, Any]:
    """Return what each component does at a position, as JSON values.

    Keys: `heads`, for each block and head the `norm` of what it adds to the residual stream, the `entropy` of its attention
    in nats, the position it attends `to` most, and that `weight`; `predictions`, for 0 … L blocks, the most probable next
    tokens if the model stopped there (`logit_lens`), with their `chance`.
    """
    layers = range(trace.model.config.n_layer)
    chances = logit_lens(trace, None, [position])[:, 0, : trace.tokenizer.vocab_size].float().softmax(dim=-1)
    best = chances.topk(min(PREDICTIONS, chances.size(-1)))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        "heads": [_heads(trace, layer, position) for layer in layers],
        "predictions": [
            [{**token_json(trace.tokenizer, token), "chance": chance} for token, chance in zip(*row, strict=True)]
            for row in rows
        ],
    }


def _heads(trace: Trace, layer: int, position: int) -> list[dict[str, Any]]:
    at = f"blocks.{layer}.attention"
    weights = trace[f"{at}.weights"][:, position].float()  # (H, T)
    mixed = trace[f"{at}.mixed"][:, [position]]
    norms = head_outputs(trace.model, layer, mixed)[:, 0].float().norm(dim=-1)
    most = weights.max(dim=-1)
    columns = (norms, torch.special.entr(weights).sum(dim=-1), most.indices, most.values)
    names = ("norm", "entropy", "to", "weight")
    rows = zip(*(nested_lists(column) for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]
