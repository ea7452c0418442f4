"""What a panel of the page asks for when it is looked at: figures of a trace, each a JSON object.

What is large and regular travels as an array instead; see `wire.array`.
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
    token_vectors,
    unit_vectors,
)
from glassgpt.inspection.serialization import numbers, source_reference, token_json
from glassgpt.inspection.trace import Trace
from glassgpt.model.cache import KVCache

CANDIDATES = 12
"""Tokens told of each distribution."""
LENS_TOLD = 5
LENS_TOKENS = 64
"""Positions of one answer; the page shows as many. At GPT-2's size each depth of them is 5 GFLOP and 13 MB of logits."""
NEAREST = 10
UNITS = 10
PROMOTED = 6


def lens(trace: Trace, depth: int, first: int) -> dict[str, Any]:
    """What the model would say after so many blocks, at the positions from `first` on, `LENS_TOKENS` at most.

    `likeliest`: for each position LENS_TOLD pairs of id and probability; `pieces`: the tokens by their ids.
    """
    positions = range(first, min(first + LENS_TOKENS, len(trace)))
    logits = logit_lens(trace, [depth], positions)[0, :, : trace.tokenizer.vocab_size].float()
    best = logits.topk(min(LENS_TOLD, logits.size(-1)))
    chances = (best.values - logits.logsumexp(dim=-1, keepdim=True)).exp()  # softmax, of the few that are told
    rows = [list(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), chances.tolist(), strict=True)]
    ids = {token for row in rows for token, _ in row}
    return {"likeliest": rows, "pieces": {token: token_json(trace.tokenizer, token)["piece"] for token in ids}}


def nearest(trace: Trace, position: int) -> dict[str, Any]:
    """The tokens whose embeddings point most nearly where that of the token at a position does, with the cosine."""
    vector = token_vectors(trace.model)[trace.tokens[position]]
    within = [pair for pair in nearest_tokens(trace.model, vector, NEAREST) if pair[0] < trace.tokenizer.vocab_size]
    return {"tokens": [{**token_json(trace.tokenizer, token), "cosine": cosine} for token, cosine in within]}


def units(trace: Trace, layer: int, position: int) -> dict[str, Any]:
    """The hidden units that add most to a token: their value, the length of what they write, what they promote."""
    return {"units": _units(trace, layer, position, *strongest_units(trace, layer, position, UNITS))}


def unit(trace: Trace, layer: int, position: int, unit: int) -> dict[str, Any]:
    """The same of one hidden unit."""
    found = torch.tensor([unit], device=trace["tokens"].device)
    return {"units": _units(trace, layer, position, found, unit_vectors(trace, layer, position, found))}


def _units(trace: Trace, layer: int, position: int, found: Tensor, vectors: Tensor) -> list[dict[str, Any]]:
    values = trace[f"blocks.{layer}.mlp.hidden"][position, found].tolist()
    promoted = promoted_tokens(trace, vectors, PROMOTED).tolist()
    told = zip(found.tolist(), values, vectors.norm(dim=-1).tolist(), promoted, strict=True)
    return [
        {"unit": unit, "value": value, "length": length, "promotes": [token_json(trace.tokenizer, t) for t in tokens]}
        for unit, value, length, tokens in told
    ]


def heads(trace: Trace) -> dict[str, Any]:
    """What the heads do on this text, by kind: (L, H) each, None where the text has nothing of the kind."""
    return {name: numbers(score) for name, score in head_scores(trace).named().items()}


def stream(trace: Trace) -> dict[str, Any]:
    """Lengths of the residual stream `norms` (L + 1, T), and of what `attention` and `mlp` add to it (L, T)."""
    parts = {name: numbers(lengths) for name, lengths in component_norms(trace).items()}
    return {"norms": numbers(residual_norms(trace)), **parts}


def losses(trace: Trace) -> dict[str, Any]:
    """How badly each token but the first was foreseen, in nats, and how far interventions moved the prediction."""
    moved = {} if trace.base is None else {"divergence": numbers(divergence(trace))}
    return {"losses": numbers(token_losses(trace)), **moved}


def choice(trace: Trace) -> dict[str, Any]:
    """The next token's distribution at each stage.

    `stages`: their names; `tokens`: the likeliest of each; `chances`: of these at each stage; `possible` and
    `entropy` (nats) of each stage.
    """
    stages = {name: trace[name] for name in trace.stages()}
    told = {token: None for chances in stages.values() for token, _ in _pairs(chances, CANDIDATES)}
    return {
        "stages": [name.removeprefix("next.") for name in stages],
        "tokens": [token_json(trace.tokenizer, token) for token in told],
        "chances": [[float(chances[token]) for chances in stages.values()] for token in told],
        "possible": [int((chances > 0).sum()) for chances in stages.values()],
        "entropy": [float(torch.special.entr(chances).sum()) for chances in stages.values()],
    }


def change(trace: Trace) -> dict[str, Any]:
    """The tokens whose probability to come next the interventions moved most: `before` and `after`.

    Raises:
        InspectionError: nothing was intervened in.
    """
    moved = trace.difference("next.model").abs()
    assert trace.base is not None
    before, after = trace.base["next.model"], trace["next.model"]
    return {
        "tokens": [
            {**token_json(trace.tokenizer, token), "before": float(before[token]), "after": float(after[token])}
            for token, _ in _pairs(moved, CANDIDATES)
        ]
    }


def cache(trace: Trace) -> dict[str, Any]:
    """What the keys and values of the text take in memory: bytes, by the cache that writing uses."""
    config, dtype = trace.model.config, next(trace.model.parameters()).dtype

    def n_bytes(positions: int) -> int:
        return KVCache(config, 1, positions, dtype=dtype, device="meta").n_bytes

    return {
        "token": n_bytes(1),
        "held": n_bytes(len(trace)),
        "full": n_bytes(config.context_length),
        "shape": [config.n_layer, config.kv_heads, len(trace), config.head_dim],
        "number": dtype.itemsize,
        "dtype": str(dtype).removeprefix("torch."),
    }


def _pairs(values: Tensor, count: int) -> list[tuple[int, float]]:
    """The largest of (V,), best first, each with its number; nothing that is 0."""
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
    """One of the things that can be asked for.

    Attributes:
        tell: from a trace and the arguments.
        source: the function of ours that computes the figures.
        arguments: by name, how many there are to choose from, 0 being the first.
    """

    tell: Callable[..., dict[str, Any]]
    source: Callable[..., Any]
    arguments: Mapping[str, Callable[[Trace], int]]


DETAILS = {
    "lens": Detail(lens, logit_lens, {"depth": _depths, "first": len}),
    "nearest": Detail(nearest, nearest_tokens, {"position": len}),
    "units": Detail(units, strongest_units, {"layer": _layers, "position": len}),
    "unit": Detail(unit, unit_vectors, {"layer": _layers, "position": len, "unit": _hidden}),
    "heads": Detail(heads, head_scores, {}),
    "stream": Detail(stream, residual_norms, {}),
    "losses": Detail(losses, token_losses, {}),
    "choice": Detail(choice, build_processors, {}),
    "change": Detail(change, divergence, {}),
    "cache": Detail(cache, KVCache, {}),
}
"""By the names under which a page asks for them."""


def detail(trace: Trace, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A detail of a trace; see the functions of this module.

    Raises:
        InspectionError: there is no such detail, or an argument is not one that it takes.
    """
    found = DETAILS.get(what)
    if found is None:
        raise InspectionError(f"there is no detail {shortened(what)}; allowed are {', '.join(DETAILS)}")
    if arguments.keys() != found.arguments.keys():
        allowed = ", ".join(found.arguments) or "no arguments"
        raise InspectionError(f"{what} takes {allowed}, not {_listed(arguments)}")
    for name, counted in found.arguments.items():
        _require_number(what, name, arguments[name], counted(trace))
    return found.tell(trace, **arguments)


def _listed(names: Mapping[str, Any]) -> str:
    return shortened(", ".join(names))[1:-1] or "no arguments"


def shortened(given: Any) -> str:
    """What was given, as a message repeats it: not more than one can read."""
    return reprlib.repr(given)


def _require_number(what: str, name: str, given: Any, count: int) -> None:
    if type(given) is not int or not 0 <= given < count:
        raise InspectionError(f"the {name} of {what} is {shortened(given)}; allowed is 0 to {count - 1}")


def sources(trace: Trace) -> dict[str, Any]:
    """The text of our lines that compute the tensors and details of a trace, by their place."""
    functions = {trace.site(name).source for name in trace.names()} | {each.source for each in DETAILS.values()}
    return {"texts": {source_reference(function): inspect.getsource(function) for function in functions}}


def places() -> dict[str, str]:
    """Where the details are computed."""
    return {what: source_reference(each.source) for what, each in DETAILS.items()}
