"""Analyses of a trace: logit lens, attention patterns of heads, norms of the residual stream, nearest and promoted tokens,
token losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.inspection.trace import Trace, trace_tokens
from glassgpt.model.activations import repeat_kv_heads
from glassgpt.model.attention import attention_scores
from glassgpt.model.transformer import LanguageModel

PROBE_TOKENS = 50
"""Random tokens that `probe` repeats once, as in Olsson et al. 2022."""
MIN_NORM = 1e-8
"""Lower bound for norms that are divided by."""
MIN_HEAD_SCORE = 0.3
"""Share of attention that a pattern must get for a head to be named after it."""


def residual_stream_names(trace: Trace) -> list[str]:
    """Return the names of the residual stream after the embedding and after each of the L blocks (L + 1 names)."""
    return ["embedding", *(f"blocks.{layer}.output" for layer in range(trace.model.config.n_layer))]


@torch.no_grad()
def logit_lens(trace: Trace, depths: Sequence[int] | None = None, positions: Sequence[int] | None = None) -> Tensor:
    """Return the logit lens: the logits if the model stopped after a number of blocks (nostalgebraist 2020).

    The residual stream at that depth goes through the model's final normalization, with its own statistics, and the head.

    Args:
        trace: of the text.
        depths: numbers of blocks, 0 … L; defaults to all. At L the result is bit-identical to the model's logits.
        positions: token positions; defaults to all. With GPT-2's vocabulary, each depth and position takes 0.2 MB.

    Returns:
        Logits (len(depths), len(positions), V).

    Raises:
        IndexError: a depth or position is out of range.
    """
    names = residual_stream_names(trace)
    chosen = [trace[names[depth]] for depth in (range(len(names)) if depths is None else depths)]
    if positions is not None:
        chosen = [stream[list(positions)] for stream in chosen]
    return torch.stack([trace.model.head(trace.model.norm(stream)) for stream in chosen])


def attention_entropy(trace: Trace, layer: int) -> Tensor:
    """Return the entropy of each head's attention per query, in nats: (H, T); 0 for one token, ln t for uniform over t."""
    return torch.special.entr(trace[f"blocks.{layer}.attention.weights"]).sum(dim=-1)


@torch.no_grad()
def telling_keys(trace: Trace) -> tuple[Tensor, Tensor]:
    """Return where each head's attention from the last token is most telling: keys and their weights, (L, H) each.

    That is the token with the largest weight, leaving out those that heads of any model often attend to: the token itself,
    the one before it, and the first, where attention goes that found nothing. Of three tokens or fewer, it is the first.
    """
    last = len(trace) - 1
    best = []
    for layer in range(trace.model.config.n_layer):
        q, k, mask = (trace[f"blocks.{layer}.attention.{name}"] for name in ("q", "k", "mask"))
        scores = attention_scores(q[:, -1:].float(), repeat_kv_heads(k, q.size(0)).float())[:, 0]  # (H, T)
        weights = scores.masked_fill(~mask[-1], -torch.inf).softmax(dim=-1)
        inner = weights[:, 1 : last - 1] if last > 2 else weights[:, :1]
        best.append(inner.max(dim=-1))
    first = 1 if last > 2 else 0
    return torch.stack([each.indices for each in best]) + first, torch.stack([each.values for each in best])


def residual_norms(trace: Trace) -> Tensor:
    """Return the L2 norm of the residual stream after 0 … L blocks: (L + 1, T)."""
    return torch.stack([trace[name].float().norm(dim=-1) for name in residual_stream_names(trace)])


def token_losses(trace: Trace) -> Tensor:
    """Return the cross-entropy loss of every token but the first, in nats: (T - 1,); NaN at positions without a token."""
    logits, targets = trace["logits"][:-1].float(), trace["tokens"][1:]
    has_token = targets < logits.size(-1)
    losses = F.cross_entropy(logits, targets.where(has_token, 0), reduction="none")
    return losses.where(has_token, torch.nan)


@torch.no_grad()
def token_vectors(model: LanguageModel) -> Tensor:
    """Return the token embedding matrix (V, C), not a copy."""
    return model.get_submodule("token_embedding").get_parameter("weight").detach()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity over the last axis: -1 … 1."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def nearest_tokens(model: LanguageModel, vector: Tensor, count: int = 10) -> list[tuple[int, float]]:
    """Return the tokens whose embeddings have the highest cosine similarity with a vector (C,), with the cosine; best first."""
    vectors, direction = token_vectors(model).float(), F.normalize(vector.float(), dim=0)
    # Same as `cosine`, but without allocating a product of shape (V, C).
    cosines = (vectors @ direction) / vectors.norm(dim=-1).clamp_min(MIN_NORM)
    found = cosines.topk(min(count, model.config.vocab_size))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


@torch.no_grad()
def component_norms(trace: Trace) -> dict[str, Tensor]:
    """Return the L2 norms of what attention and MLP of each block add to the residual stream: (L, T) for each."""
    layers = range(trace.model.config.n_layer)
    return {
        part: torch.stack([trace[f"blocks.{layer}.{part}.output"].float().norm(dim=-1) for layer in layers])
        for part in ("attention", "mlp")
    }


@torch.no_grad()
def strongest_units(trace: Trace, layer: int, position: int, count: int = 10) -> tuple[Tensor, Tensor]:
    """Return the hidden units of an MLP that add most to the residual stream at a position.

    Returns:
        Indices of the units (n,), by decreasing norm of the vectors they add, and these vectors (n, C). The vectors of all
        units, plus the bias if there is one, sum to the MLP's output.
    """
    hidden = trace[f"blocks.{layer}.mlp.hidden"][position].float()  # (M,)
    weight = trace.model.get_submodule(f"blocks.{layer}.mlp.down").get_parameter("weight").float()  # (C, M)
    units = (hidden.abs() * weight.norm(dim=0)).topk(min(count, len(hidden))).indices
    return units, unit_vectors(trace, layer, position, units)


@torch.no_grad()
def unit_vectors(trace: Trace, layer: int, position: int, units: Tensor) -> Tensor:
    """Return what hidden units (n,) of an MLP add to the residual stream at a position: (n, C)."""
    hidden = trace[f"blocks.{layer}.mlp.hidden"][position].float()
    weight = trace.model.get_submodule(f"blocks.{layer}.mlp.down").get_parameter("weight").float()
    return (weight[:, units] * hidden[units]).T


@torch.no_grad()
def promoted_tokens(trace: Trace, vectors: Tensor, count: int = 5) -> Tensor:
    """Return the tokens whose logits grow most when a vector is added to the residual stream: (n, C) -> (n, count).

    Only the head is applied (Geva et al. 2022); the final normalization, which depends on the rest of the stream, is not.
    """
    head = trace.model.head(vectors.to(token_vectors(trace.model).dtype))
    return head[:, : trace.tokenizer.vocab_size].topk(min(count, trace.tokenizer.vocab_size)).indices


def divergence(trace: Trace) -> Tensor:
    """Return the KL divergence KL(before ‖ after) of the model's predictions under interventions, in nats: (T,).

    Raises:
        InspectionError: the trace has no interventions.
    """
    trace.difference("tokens")  # raises if there is no base
    assert trace.base is not None
    before, after = (each["logits"].float().log_softmax(dim=-1) for each in (trace.base, trace))
    return F.kl_div(after, before, log_target=True, reduction="none").sum(dim=-1)


@dataclass(frozen=True)
class HeadScores:
    """Share of attention that each head gives to known patterns, averaged over the queries that have them: (L, H) each.

    NaN if the text does not contain the pattern.

    Attributes:
        previous: attention to the previous token (Elhage et al. 2021).
        duplicate: attention to earlier occurrences of the same token (Wang et al. 2022).
        induction: attention to the tokens that followed those occurrences, as needed to continue a repetition (Elhage et
            al. 2021; Olsson et al. 2022, "prefix matching").
    """

    previous: Tensor
    duplicate: Tensor
    induction: Tensor

    def named(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        return {"previous": self.previous, "duplicate": self.duplicate, "induction": self.induction}

    def name(self, layer: int, head: int) -> tuple[str, float] | None:
        """Return the pattern with a head's highest score, and the score; None if it is below `MIN_HEAD_SCORE`."""
        scores = {name: float(score[layer, head]) for name, score in self.named().items()}
        best = max(scores, key=lambda name: -1.0 if math.isnan(scores[name]) else scores[name])
        return (best, scores[best]) if scores[best] >= MIN_HEAD_SCORE else None


def head_scores(trace: Trace) -> HeadScores:
    """Return the head scores on a text. Few texts contain enough of the rarer patterns; see `probe`."""
    weights = [trace[f"blocks.{layer}.attention.weights"] for layer in range(trace.model.config.n_layer)]
    patterns = head_patterns(trace["tokens"])
    scores = {name: torch.stack([_share(each, pattern) for each in weights]) for name, pattern in patterns.items()}
    return HeadScores(**scores)


def head_patterns(tokens: Tensor) -> dict[str, Tensor]:
    """Return which keys belong to each pattern: (T, T) bool by name, rows are queries."""
    order = torch.arange(len(tokens), device=tokens.device)
    earlier = order[None] < order[:, None]
    same = (tokens[None] == tokens[:, None]) & earlier
    # Key s follows an earlier occurrence of the query's token if key s - 1 is one.
    followed = torch.zeros_like(same)
    followed[:, 1:] = same[:, :-1]
    return {"previous": order[None] == order[:, None] - 1, "duplicate": same, "induction": followed}


def _share(weights: Tensor, pattern: Tensor) -> Tensor:
    """Return the attention to the keys of a pattern, averaged over the queries that have such keys: (H,)."""
    has_pattern = pattern.any(dim=-1)
    return (weights * pattern).sum(dim=-1)[:, has_pattern].mean(dim=-1)


def probe(model: LanguageModel, tokenizer: Tokenizer, *, length: int = PROBE_TOKENS, seed: int = 0) -> Trace:
    """Trace a sequence of random tokens that is repeated once, which shows patterns of heads whatever the training data.

    Args:
        model: with a context of at least two tokens.
        tokenizer: the model's.
        length: tokens before the repetition, at most half the context and the size of the vocabulary. They are distinct, so
            that each token has only one earlier occurrence.
        seed: of the tokens.

    Raises:
        InspectionError: the context has only one token.
    """
    special = set(tokenizer.special_tokens.values())
    usual = [token for token in range(tokenizer.vocab_size) if token not in special]
    order = torch.randperm(len(usual), generator=torch.Generator().manual_seed(seed))
    tokens = [usual[i] for i in order[: min(length, model.config.context_length // 2)].tolist()]
    return trace_tokens(model, tokenizer, tokens * 2)


def head_outputs(model: LanguageModel, layer: int, mixed: Tensor) -> Tensor:
    """Return what each head adds to the residual stream: mixed values (H, T, D) -> (H, T, C).

    Their sum, plus the bias if there is one, is the attention's output (Elhage et al. 2021, "attention heads are
    independent and additive").
    """
    projection = model.get_submodule(f"blocks.{layer}.attention.out").get_parameter("weight")  # (C, H·D)
    return mixed @ projection.unflatten(1, (mixed.size(0), -1)).permute(1, 2, 0)
