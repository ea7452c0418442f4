"""Figures that tell what a model does with a text, and what its heads are for.

Each is computed from a trace, in the order in which one asks: what would the model say already here (the logit
lens), where does each head look, which kind of head is it, how large is the residual stream, which tokens does a
vector mean, and how well was each token foreseen.
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
from glassgpt.model.transformer import LanguageModel

PROBE_TOKENS = 50
"""Random tokens that a probe repeats once (Olsson et al. 2022 take sequences of this kind)."""
SHORTEST = 1e-8
"""Length below which a vector has no direction."""
NAMED_FROM = 0.3
"""A head that gives less of its attention to a pattern than this is not named after it."""


def residual_stream_names(trace: Trace) -> list[str]:
    """The residual stream at its L + 1 places: after the embedding, and after each of the L blocks."""
    return ["embedding", *(f"blocks.{layer}.output" for layer in range(trace.model.config.n_layer))]


@torch.no_grad()
def logit_lens(trace: Trace, depths: Sequence[int] | None = None, positions: Sequence[int] | None = None) -> Tensor:
    """The logits that the model would give if it stopped after some blocks (nostalgebraist 2020).

    The residual stream there passes the model's last normalisation, by that place's own mean and variance, and head.

    Args:
        trace: of the text.
        depths: after how many blocks, 0 … L; by default all. After L they are the model's logits, bit for bit.
        positions: of which tokens; by default all. With GPT-2's vocabulary, all is 0.2 MB for each depth and token.

    Returns:
        (len(depths), len(positions), V).

    Raises:
        IndexError: there is no such depth or position.
    """
    names = residual_stream_names(trace)
    chosen = [trace[names[depth]] for depth in (range(len(names)) if depths is None else depths)]
    if positions is not None:
        chosen = [stream[list(positions)] for stream in chosen]
    return torch.stack([trace.model.head(trace.model.norm(stream)) for stream in chosen])


def attention_entropy(trace: Trace, layer: int) -> Tensor:
    """How widely each head looks from each position, in nats: (H, T); 0 is one token, ln t all t tokens alike."""
    return torch.special.entr(trace[f"blocks.{layer}.attention.weights"]).sum(dim=-1)


def residual_norms(trace: Trace) -> Tensor:
    """Euclidean length of the residual stream after 0 … L blocks: (L + 1, T)."""
    return torch.stack([trace[name].float().norm(dim=-1) for name in residual_stream_names(trace)])


def token_losses(trace: Trace) -> Tensor:
    """How badly each token but the first was foreseen, in nats: (T - 1,)."""
    return F.cross_entropy(trace["logits"][:-1].float(), trace["tokens"][1:], reduction="none")


@torch.no_grad()
def token_vectors(model: LanguageModel) -> Tensor:
    """The embedding of every token: (V, C), the model's own memory."""
    return model.get_submodule("token_embedding").get_parameter("weight").detach()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between vectors, over the last axis: -1 … 1."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def nearest_tokens(model: LanguageModel, vector: Tensor, count: int = 10) -> list[tuple[int, float]]:
    """The tokens whose embeddings point most nearly where a vector (C,) does, with the cosine; best first."""
    vectors, direction = token_vectors(model).float(), F.normalize(vector.float(), dim=0)
    # `cosine`, without the (V, C) of products that it would write into memory.
    cosines = (vectors @ direction) / vectors.norm(dim=-1).clamp_min(SHORTEST)
    found = cosines.topk(min(count, model.config.vocab_size))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


@torch.no_grad()
def component_norms(trace: Trace) -> dict[str, Tensor]:
    """Euclidean length of what attention and MLP add to the residual stream, block by block: (L, T) by part."""
    layers = range(trace.model.config.n_layer)
    return {
        part: torch.stack([trace[f"blocks.{layer}.{part}.output"].float().norm(dim=-1) for layer in layers])
        for part in ("attention", "mlp")
    }


@torch.no_grad()
def strongest_units(trace: Trace, layer: int, position: int, count: int = 10) -> tuple[Tensor, Tensor]:
    """The hidden units of an MLP that add most to a token's residual stream.

    Returns:
        Their numbers (n,), those that write the longest vectors first, and these vectors (n, C). Together with
        those of all other units, and the bias where there is one, they are the MLP's output.
    """
    hidden = trace[f"blocks.{layer}.mlp.hidden"][position].float()  # (M,)
    writes = trace.model.get_submodule(f"blocks.{layer}.mlp.down").get_parameter("weight").float()  # (C, M)
    units = (hidden.abs() * writes.norm(dim=0)).topk(min(count, len(hidden))).indices
    return units, unit_vectors(trace, layer, position, units)


@torch.no_grad()
def unit_vectors(trace: Trace, layer: int, position: int, units: Tensor) -> Tensor:
    """What hidden units (n,) of an MLP add to a token's residual stream: (n, C)."""
    hidden = trace[f"blocks.{layer}.mlp.hidden"][position].float()
    writes = trace.model.get_submodule(f"blocks.{layer}.mlp.down").get_parameter("weight").float()
    return (writes[:, units] * hidden[units]).T


@torch.no_grad()
def promoted_tokens(trace: Trace, vectors: Tensor, count: int = 5) -> Tensor:
    """Which tokens become likelier when a vector is added to the residual stream: (n, C) -> (n, count), best first.

    The vectors are read by the head alone (Geva et al. 2022): the last normalisation, which depends on the rest of
    the stream, is left out.
    """
    head = trace.model.head(vectors.to(token_vectors(trace.model).dtype))
    return head[:, : trace.tokenizer.vocab_size].topk(min(count, trace.tokenizer.vocab_size)).indices


def divergence(trace: Trace) -> Tensor:
    """How far interventions moved the model's prediction at each position: KL(before ‖ after) in nats, (T,).

    Raises:
        InspectionError: nothing was intervened in.
    """
    trace.difference("tokens")  # says so where there is no base
    assert trace.base is not None
    before, after = (each["logits"].float().log_softmax(dim=-1) for each in (trace.base, trace))
    return F.kl_div(after, before, log_target=True, reduction="none").sum(dim=-1)


@dataclass(frozen=True)
class HeadScores:
    """The share of its attention that each head gives to a pattern, averaged over where the pattern exists: (L, H).

    NaN where a text has nothing of the kind.

    Attributes:
        previous: to the token before (Elhage et al. 2021).
        duplicate: to earlier occurrences of the same token (Wang et al. 2022).
        induction: to the tokens that followed those occurrences, which is what a head looks at that continues a
            repetition (Elhage et al. 2021; Olsson et al. 2022, "prefix matching").
    """

    previous: Tensor
    duplicate: Tensor
    induction: Tensor

    def named(self) -> dict[str, Tensor]:
        """The scores by their names."""
        return {"previous": self.previous, "duplicate": self.duplicate, "induction": self.induction}

    def name(self, layer: int, head: int) -> tuple[str, float] | None:
        """What a head does most, and how much; None where it is less than `NAMED_FROM`."""
        scores = {name: float(score[layer, head]) for name, score in self.named().items()}
        best = max(scores, key=lambda name: -1.0 if math.isnan(scores[name]) else scores[name])
        return (best, scores[best]) if scores[best] >= NAMED_FROM else None


def head_scores(trace: Trace) -> HeadScores:
    """What the heads do on a text. Of rare patterns a text tells little; see `probe`."""
    weights = [trace[f"blocks.{layer}.attention.weights"] for layer in range(trace.model.config.n_layer)]
    patterns = head_patterns(trace["tokens"])
    scores = {name: torch.stack([_share(each, pattern) for each in weights]) for name, pattern in patterns.items()}
    return HeadScores(**scores)


def head_patterns(tokens: Tensor) -> dict[str, Tensor]:
    """Where heads of each kind look: (T, T) bool by name, rows are queries."""
    order = torch.arange(len(tokens), device=tokens.device)
    earlier = order[None] < order[:, None]
    same = (tokens[None] == tokens[:, None]) & earlier
    # Key s follows an earlier occurrence of the query's token where key s - 1 is one.
    followed = torch.zeros_like(same)
    followed[:, 1:] = same[:, :-1]
    return {"previous": order[None] == order[:, None] - 1, "duplicate": same, "induction": followed}


def _share(weights: Tensor, pattern: Tensor) -> Tensor:
    """The mean, over the queries that have a key of this pattern, of their attention to such keys: (H,)."""
    there = pattern.any(dim=-1)
    return (weights * pattern).sum(dim=-1)[:, there].mean(dim=-1)


def probe(model: LanguageModel, tokenizer: Tokenizer, *, length: int = PROBE_TOKENS, seed: int = 0) -> Trace:
    """A trace of random tokens said twice, on which a head's kind shows whatever the model was trained on.

    Args:
        model: its context holds two tokens at least.
        tokenizer: the model's.
        length: tokens before they are repeated; at most half the context and as many as the vocabulary has. Each is
            drawn once, so that it has one earlier occurrence and not several.
        seed: of the tokens.

    Raises:
        InspectionError: the context holds a single token.
    """
    order = torch.randperm(tokenizer.end_of_text, generator=torch.Generator().manual_seed(seed))
    tokens = order[: min(length, model.config.context_length // 2)].tolist()
    return trace_tokens(model, tokenizer, tokens * 2)


def head_outputs(model: LanguageModel, layer: int, mixed: Tensor) -> Tensor:
    """Return what each head adds to the residual stream: mixed values (H, T, D) -> (H, T, C).

    Their sum, plus the bias if there is one, is the attention's output (Elhage et al. 2021, "attention heads are
    independent and additive").
    """
    projection = model.get_submodule(f"blocks.{layer}.attention.out").get_parameter("weight")  # (C, H·D)
    return mixed @ projection.unflatten(1, (mixed.size(0), -1)).permute(1, 2, 0)
