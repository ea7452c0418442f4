"""Details of a trace that panels of the page request when they are displayed, each a JSON object.

Large arrays are transferred in binary form instead; see `serialization.tensor_bytes`.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassgpt.errors import InspectionError
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.inspection.analysis import (
    component_norms,
    divergence,
    head_scores,
    logit_lens,
    nearest_tokens,
    promoted_tokens,
    residual_norms,
    strongest_units,
    token_losses,
    unit_vectors,
)
from glassgpt.inspection.block_parts import normalizations, projected_heads, residual_sums
from glassgpt.inspection.components import component_sizes, components_at
from glassgpt.inspection.serialization import nested_lists, source_reference, token_json
from glassgpt.inspection.trace import Trace
from glassgpt.model.cache import KVCache

TOP_TOKENS = 12
"""Tokens listed for each distribution."""
LENS_TOP_TOKENS = 5
LENS_TOKENS = 64
"""Positions per response; the page shows as many. At GPT-2's size, each depth of them takes 5 GFLOP and 13 MB of logits."""
NEAREST_TOKENS = 10
TOP_UNITS = 10
PROMOTED_TOKENS = 6


def lens(trace: Trace, depth: int, first: int) -> dict[str, Any]:
    """Return the logit lens at a depth, for up to `LENS_TOKENS` positions from `first` on.

    `likeliest`: for each position, LENS_TOP_TOKENS pairs of token id and probability; `pieces`: text of the tokens by id.
    """
    positions = range(first, min(first + LENS_TOKENS, len(trace)))
    logits = logit_lens(trace, [depth], positions)[0, :, : trace.tokenizer.vocab_size].float()
    best = logits.topk(min(LENS_TOP_TOKENS, logits.size(-1)))
    chances = (best.values - logits.logsumexp(dim=-1, keepdim=True)).exp()  # softmax, only of the listed tokens
    rows = [list(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), chances.tolist(), strict=True)]
    ids = {token for row in rows for token, _ in row}
    return {"likeliest": rows, "pieces": {token: token_json(trace.tokenizer, token)["piece"] for token in ids}}


def nearest(trace: Trace, position: int) -> dict[str, Any]:
    """Return the tokens with the embeddings most similar to that of a position, with the cosine similarity."""
    vector = trace.model.get_submodule("token_embedding")(trace["tokens"][position]).detach()
    within = [
        pair for pair in nearest_tokens(trace.model, vector, NEAREST_TOKENS) if pair[0] < trace.tokenizer.vocab_size
    ]
    return {"tokens": [{**token_json(trace.tokenizer, token), "cosine": cosine} for token, cosine in within]}


def units(trace: Trace, layer: int, position: int) -> dict[str, Any]:
    """Return the hidden units that add most at a position: value, norm of the vector they add, and promoted tokens."""
    return {"units": _units(trace, layer, position, *strongest_units(trace, layer, position, TOP_UNITS))}


def unit(trace: Trace, layer: int, position: int, unit: int) -> dict[str, Any]:
    """Return the information of `units` for one hidden unit."""
    found = torch.tensor([unit], device=trace["tokens"].device)
    return {"units": _units(trace, layer, position, found, unit_vectors(trace, layer, position, found))}


def _units(trace: Trace, layer: int, position: int, found: Tensor, vectors: Tensor) -> list[dict[str, Any]]:
    values = trace[f"blocks.{layer}.mlp.hidden"][position, found].tolist()
    promoted = promoted_tokens(trace, vectors, PROMOTED_TOKENS).tolist()
    rows = zip(found.tolist(), values, vectors.norm(dim=-1).tolist(), promoted, strict=True)
    return [
        {"unit": unit, "value": value, "length": length, "promotes": [token_json(trace.tokenizer, t) for t in tokens]}
        for unit, value, length, tokens in rows
    ]


def heads(trace: Trace) -> dict[str, Any]:
    """Return the head scores on this text: (L, H) for each pattern, None if the text does not contain it."""
    return {name: nested_lists(score) for name, score in head_scores(trace).named().items()}


def stream(trace: Trace) -> dict[str, Any]:
    """Return the norms of the residual stream `norms` (L + 1, T), and of what `attention` and `mlp` add to it (L, T)."""
    parts = {name: nested_lists(lengths) for name, lengths in component_norms(trace).items()}
    return {"norms": nested_lists(residual_norms(trace)), **parts}


def losses(trace: Trace) -> dict[str, Any]:
    """Return the loss of each token but the first in nats, and the divergence caused by interventions."""
    moved = {} if trace.base is None else {"divergence": nested_lists(divergence(trace))}
    return {"losses": nested_lists(token_losses(trace)), **moved}


def choice(trace: Trace) -> dict[str, Any]:
    """Return the next-token distribution after each logits processor.

    `stages`: names; `tokens`: the most probable ones of each stage; `chances`: their probabilities at each stage;
    `possible`: number of tokens with a probability above 0; `entropy`: in nats.
    """
    stages = {name: trace[name] for name in trace.stages()}
    rows = {token: None for chances in stages.values() for token, _ in _pairs(chances, TOP_TOKENS)}
    return {
        "stages": [name.removeprefix("next.") for name in stages],
        "tokens": [token_json(trace.tokenizer, token) for token in rows],
        "chances": [[float(chances[token]) for chances in stages.values()] for token in rows],
        "possible": [int((chances > 0).sum()) for chances in stages.values()],
        "entropy": [float(torch.special.entr(chances).sum()) for chances in stages.values()],
    }


def change(trace: Trace) -> dict[str, Any]:
    """Return the tokens whose next-token probability the interventions changed most: `before` and `after`.

    Raises:
        InspectionError: the trace has no interventions.
    """
    moved = trace.difference("next.model").abs()
    assert trace.base is not None
    before, after = trace.base["next.model"], trace["next.model"]
    return {
        "tokens": [
            {**token_json(trace.tokenizer, token), "before": float(before[token]), "after": float(after[token])}
            for token, _ in _pairs(moved, TOP_TOKENS)
        ]
    }


def cache(trace: Trace) -> dict[str, Any]:
    """Return the size of the key-value cache in bytes: per token, for this text, and for a full context."""
    config, dtype = trace.model.config, next(trace.model.parameters()).dtype

    def n_bytes(positions: int) -> int:
        return KVCache(config, 1, positions, dtype=dtype, device="meta").n_bytes

    return {
        "token": n_bytes(1),
        "held": n_bytes(len(trace)),
        "full": n_bytes(config.context_length),
        "shape": [config.n_layer, config.kv_heads, len(trace), config.head_width],
        "number": dtype.itemsize,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _pairs(values: Tensor, count: int) -> list[tuple[int, float]]:
    """Return index and value of the largest elements of (V,), best first, without zeros."""
    found = values.topk(min(count, len(values)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [(token, value) for token, value in pairs if value > 0]


def _layers(trace: Trace) -> int:
    return trace.model.config.n_layer


def _depths(trace: Trace) -> int:
    return trace.model.config.n_layer + 1


def _hidden(trace: Trace) -> int:
    return trace.describe("blocks.0.mlp.hidden").shape[1]


@dataclass(frozen=True)
class Detail:
    """A detail that can be requested.

    Attributes:
        compute: maps a trace and the arguments to a JSON object.
        source: the function of this package that computes the values.
        arguments: by name, how to get the number of valid values, which start at 0.
    """

    compute: Callable[..., dict[str, Any]]
    source: Callable[..., Any]
    arguments: Mapping[str, Callable[[Trace], int]]


def sizes(trace: Trace) -> dict[str, Any]:
    """Return the number of parameters of each component."""
    return component_sizes(trace.model)


DETAILS = {
    "sizes": Detail(sizes, component_sizes, {}),
    "components": Detail(components_at, components_at, {"position": len}),
    "lens": Detail(lens, logit_lens, {"depth": _depths, "first": len}),
    "nearest": Detail(nearest, nearest_tokens, {"position": len}),
    "units": Detail(units, strongest_units, {"layer": _layers, "position": len}),
    "unit": Detail(unit, unit_vectors, {"layer": _layers, "position": len, "unit": _hidden}),
    "norms": Detail(normalizations, normalizations, {"layer": _layers}),
    "projection": Detail(projected_heads, projected_heads, {"layer": _layers, "position": len}),
    "sums": Detail(residual_sums, residual_sums, {"layer": _layers}),
    "heads": Detail(heads, head_scores, {}),
    "stream": Detail(stream, residual_norms, {}),
    "losses": Detail(losses, token_losses, {}),
    "choice": Detail(choice, build_processors, {}),
    "change": Detail(change, divergence, {}),
    "cache": Detail(cache, KVCache, {}),
}
"""Details by the names under which the page requests them."""


def detail(trace: Trace, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a detail of a trace; see the functions of this module.

    Raises:
        InspectionError: there is no such detail, or the arguments are invalid.
    """
    found = DETAILS.get(what)
    if found is None:
        raise InspectionError(f"the detail must be one of {', '.join(DETAILS)}, not {abbreviate(what)}")
    if arguments.keys() != found.arguments.keys():
        expected = ", ".join(found.arguments) or "no arguments"
        raise InspectionError(f"{what} takes {expected}, not {_listed(arguments)}")
    for name, count in found.arguments.items():
        _require_index(what, name, arguments[name], count(trace))
    return found.compute(trace, **arguments)


def _listed(names: Mapping[str, Any]) -> str:
    return abbreviate(", ".join(names))[1:-1] or "no arguments"


def abbreviate(given: Any) -> str:
    """Return a short representation of a value for an error message."""
    return reprlib.repr(given)


def _require_index(what: str, name: str, given: Any, count: int) -> None:
    if type(given) is not int or not 0 <= given < count:
        raise InspectionError(f"the {name} of {what} must be an integer from 0 to {count - 1}, not {abbreviate(given)}")


def sources(trace: Trace) -> dict[str, Any]:
    """Return the source code that computes the activations and details of a trace, keyed by `source_reference`."""
    functions = {trace.activation(name).source for name in trace.names()} | {each.source for each in DETAILS.values()}
    return {"texts": {source_reference(function): inspect.getsource(function) for function in functions}}


def source_references() -> dict[str, str]:
    """Return the source location of each detail."""
    return {what: source_reference(each.source) for what, each in DETAILS.items()}
