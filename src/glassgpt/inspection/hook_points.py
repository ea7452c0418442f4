"""The names of everything that is computed between a text and its next token.

A site is a tensor with a name: what its axes are, in which unit it is, the formula, which function of ours computes
it, and how to come by it: it passes a port while the model runs, or it is computed from other sites when it is asked
for, by the same functions that the model itself is made of.

Without the batch, as a trace is of one text. T positions, C channels of the residual stream, H heads, K of them for
keys and values, D channels of a head, M hidden units of the MLP, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.inspection.capture import HookPoint
from glassgpt.inspection.tokenization import pretokens
from glassgpt.model.attention import attend, attention_scores, attention_weights, causal_mask
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.gpt2 import MLP_RATIO as GPT2_RATIO
from glassgpt.model.modern import LOGIT_CAP, Modern, ModernAttention, RotaryEmbedding
from glassgpt.model.modern import MLP_RATIO as MODERN_RATIO
from glassgpt.model.transformer import Block, LanguageModel

Axis = Literal[
    "byte", "position", "query", "key", "channel", "head", "kv_head", "head_channel", "angle", "hidden", "vocabulary"
]
Read = Callable[[str], Tensor]
"""Other sites of the same trace, by name."""
Derive = Callable[[Read], Tensor]

NATS = "nats, up to a constant"
NUMBER = "dimensionless"


@dataclass(frozen=True)
class Activation:
    """One named tensor.

    Attributes:
        axes: what its dimensions are.
        unit: of its numbers.
        formula: what is computed, in the names of other sites.
        source: the function or class of ours that computes it.
        origin: the port that it passes, or how it follows from other sites; None where it is known before the run.
    """

    axes: tuple[Axis, ...]
    unit: str
    formula: str
    source: Callable[..., Any]
    origin: HookPoint | Derive | None


def sizes(config: ModelConfig, n_bytes: int, n_tokens: int) -> dict[Axis, int]:
    """How long each axis is."""
    ratio = GPT2_RATIO if config.arch == "gpt2" else MODERN_RATIO
    positions: dict[Axis, int] = {"position": n_tokens, "query": n_tokens, "key": n_tokens}
    heads: dict[Axis, int] = {"head": config.n_head, "kv_head": config.kv_heads, "head_channel": config.head_dim}
    return {
        **positions,
        **heads,
        "byte": n_bytes,
        "channel": config.n_embd,
        "angle": config.head_dim // 2,
        "hidden": ratio * config.n_embd,
        "vocabulary": config.vocab_size,
    }


def activations_of(model: LanguageModel) -> dict[str, Activation]:
    """Every site of a model, in the order in which the data passes them.

    Raises:
        TypeError: an architecture that nobody has described here.
    """
    anatomy = next((describe for kind, describe in _ANATOMIES.items() if isinstance(model, kind)), None)
    if anatomy is None:
        raise TypeError(f"{type(model).__name__} has no description in {__name__}")
    return {**_text(), **anatomy(model)}


def _text() -> dict[str, Activation]:
    return {
        "bytes": Activation(("byte",), "value of a byte", "the text in UTF-8", pretokens, None),
        "tokens": Activation(
            ("position",), "id of a token", "the pieces that the bytes are merged into", Tokenizer.encode, None
        ),
    }


def row(raw: Tensor) -> Tensor:
    """(1, T, C) -> (T, C)."""
    return raw[0]


def split_heads(raw: Tensor, width: int) -> Tensor:
    """(1, T, H·D) -> (H, T, D), a view."""
    return raw[0].unflatten(-1, (-1, width)).transpose(0, 1)


def share(x: Tensor, n_head: int) -> Tensor:
    """Keys or values (K, T, D) as each of the H query heads sees them: (H, T, D); a view where K is H."""
    return x if x.size(0) == n_head else x.repeat_interleave(n_head // x.size(0), dim=0)


def _gpt2(model: LanguageModel) -> dict[str, Activation]:
    assert isinstance(model, GPT2)
    found = {
        "embedding.token": _passing("token_embedding", "output", "row `tokens` of the token embedding", GPT2.embed),
        "embedding.position": _passing("position_embedding", "output", "row 0 … T - 1", GPT2.embed),
        "embedding": _passing("embedding_dropout", "output", "embedding.token + embedding.position", GPT2.embed),
    }
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        found |= _block(model, layer, block, _gpt2_queries(model.config, layer, block), "gelu(mlp.up), tanh form")
    return {
        **found,
        "norm": _seen("norm", "output", "(x - mean) / sqrt(var + 1e-5) · gain + bias", LanguageModel.features),
        "logits": _logits(lambda read: model.head(read("norm")), "norm · token embeddingᵀ", GPT2.head),
    }


def _gpt2_queries(config: ModelConfig, layer: int, block: Block) -> dict[str, Activation]:
    """q, k and v, which are thirds of one matrix product."""

    def third(at: int) -> Callable[[Tensor], Tensor]:
        return lambda raw: split_heads(raw.unflatten(-1, (3, -1))[:, :, at], config.head_dim)

    source = type(block.attention).forward
    axes: tuple[Axis, ...] = ("head", "position", "head_channel")
    return {
        name: Activation(
            axes,
            NUMBER,
            f"{letter.upper()} part of norm1 · Wᵀ + b",
            source,
            HookPoint(f"blocks.{layer}.attention.qkv", "output", third(at)),
        )
        for at, letter in enumerate("qkv")
        for name in [f"blocks.{layer}.attention.{letter}"]
    }


def _modern(model: LanguageModel) -> dict[str, Activation]:
    assert isinstance(model, Modern)
    found = {
        "embedding.token": _passing("token_embedding", "output", "row `tokens` of the token embedding", Modern.embed),
        "embedding": _passing("embedding_dropout", "output", "embedding.token / rms(embedding.token)", Modern.embed),
        "rotary.cos": _angles(model.rotary.cos, "cos"),
        "rotary.sin": _angles(model.rotary.sin, "sin"),
    }
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        found |= _block(model, layer, block, _modern_queries(model.config, layer, block), "relu(mlp.up)²")
    return {
        **found,
        "norm": _seen("norm", "output", "x / sqrt(mean x² + 1e-6)", LanguageModel.features),
        "logits.uncapped": _logits(
            lambda read: LOGIT_CAP * model.lm_head(read("norm") / LOGIT_CAP), "norm · lm_headᵀ", Modern.head
        ),
        "logits": _logits(
            lambda read: model.head(read("norm")), f"{LOGIT_CAP:g} tanh(logits.uncapped / {LOGIT_CAP:g})", Modern.head
        ),
    }


def _angles(table: Tensor, function: str) -> Activation:
    def first_positions(read: Read) -> Tensor:
        return table[: read("tokens").size(0)]

    return Activation(
        ("position", "angle"), NUMBER, f"{function}(position · 10000^(-2i / D))", RotaryEmbedding, first_positions
    )


def _modern_queries(config: ModelConfig, layer: int, block: Block) -> dict[str, Activation]:
    """q and k as projected, normalised and turned, and v as projected."""
    attention = block.attention
    assert isinstance(attention, ModernAttention)
    at = f"blocks.{layer}.attention"
    found: dict[str, Activation] = {}

    def stage(name: str, axes: tuple[Axis, ...], formula: str, source: Any, origin: HookPoint | Derive) -> None:
        found[f"{at}.{name}"] = Activation(axes, NUMBER, formula, source, origin)

    def projected(letter: str) -> HookPoint:
        return HookPoint(f"{at}.{letter}", "output", lambda raw: split_heads(raw, config.head_dim))

    for letter, head in (("q", "head"), ("k", "kv_head")):
        axes: tuple[Axis, ...] = ("head" if head == "head" else "kv_head", "position", "head_channel")
        before, middle = f"{letter}.projected", f"{letter}.normalised"
        stage(before, axes, f"norm1 · W{letter}ᵀ", ModernAttention.forward, projected(letter))
        stage(middle, axes, f"{before} / rms({before})", ModernAttention.forward, _through(attention.norm, at, before))
        turned = _through(lambda x: attention.rotary(x[None], None)[0], at, middle)
        stage(letter, axes, f"{middle} turned by its position", RotaryEmbedding.forward, turned)
    stage("v", ("kv_head", "position", "head_channel"), "norm1 · Wvᵀ", ModernAttention.forward, projected("v"))
    return found


def _through(function: Callable[[Tensor], Tensor], at: str, name: str) -> Derive:
    return lambda read: function(read(f"{at}.{name}"))


def _block(
    model: LanguageModel, layer: int, block: Block, queries: Mapping[str, Activation], activation: str
) -> dict[str, Activation]:
    """What happens in a block, in order; how queries come about is the architecture's."""
    at = f"blocks.{layer}"
    before = f"blocks.{layer - 1}.output" if layer else "embedding"
    mlp = type(block.mlp).forward
    return {
        f"{at}.input": _stream(f"{before}: the residual stream", lambda read: read(before)),
        f"{at}.norm1": _passing(f"{at}.norm1", "output", "input, normalised", Block.forward),
        **queries,
        **_attention(model.config, layer),
        f"{at}.attention.output": _passing(f"{at}.attention", "output", "heads side by side · Woᵀ", Block.forward),
        f"{at}.middle": _seen(f"{at}.norm2", "input", "input + attention.output", Block.forward),
        f"{at}.norm2": _passing(f"{at}.norm2", "output", "middle, normalised", Block.forward),
        f"{at}.mlp.up": _passing(f"{at}.mlp.up", "output", "norm2 · Wᵀ", mlp, "hidden"),
        f"{at}.mlp.hidden": _passing(f"{at}.mlp.down", "input", activation, mlp, "hidden"),
        f"{at}.mlp.output": _passing(f"{at}.mlp", "output", "mlp.hidden · Wᵀ", mlp),
        f"{at}.output": _passing(f"{at}", "output", "middle + mlp.output", Block.forward),
    }


def _attention(config: ModelConfig, layer: int) -> dict[str, Activation]:
    """From queries and keys to mixed values, by the readable twin; what was mixed is the run's own."""
    at, window, heads = f"blocks.{layer}.attention", config.layer_window(layer), config.n_head
    matrix: tuple[Axis, ...] = ("head", "query", "key")

    def pair(read: Read) -> tuple[Tensor, Tensor]:
        return read(f"{at}.q"), share(read(f"{at}.k"), heads)

    def mask(read: Read) -> Tensor:
        tokens = read("tokens")
        return causal_mask(tokens.size(0), tokens.size(0), tokens.device, window)[0, 0]

    def scores(read: Read) -> Tensor:
        return attention_scores(*pair(read))

    def weights(read: Read) -> Tensor:
        q, k = pair(read)
        return attention_weights(q[None], k[None], None, window)[0]

    seen = f"key ≤ query{f' and key > query - {window}' if window else ''}"
    mixed = HookPoint(f"{at}.out", "input", lambda raw: split_heads(raw, config.head_dim))
    return {
        f"{at}.scores": Activation(matrix, NATS, "q · kᵀ / √D", attention_scores, scores),
        f"{at}.mask": Activation(("query", "key"), "true where a query may look", seen, causal_mask, mask),
        f"{at}.weights": Activation(
            matrix, "probability", "softmax of the scores that the mask lets see", attention_weights, weights
        ),
        f"{at}.mixed": Activation(("head", "position", "head_channel"), NUMBER, "weights · v", attend, mixed),
    }


def head_outputs(model: LanguageModel, layer: int, mixed: Tensor) -> Tensor:
    """What each head adds to the residual stream: (H, T, D) -> (H, T, C).

    Their sum, and the bias where there is one, is the attention's output (Elhage et al. 2021, "attention heads are
    independent and additive").
    """
    projection = model.get_submodule(f"blocks.{layer}.attention.out").get_parameter("weight")  # (C, H·D)
    return mixed @ projection.unflatten(1, (mixed.size(0), -1)).permute(1, 2, 0)


def _passing(
    module: str, side: Literal["input", "output"], formula: str, source: Callable[..., Any], last: Axis = "channel"
) -> Activation:
    return Activation(("position", last), NUMBER, formula, source, HookPoint(module, side, row))


def _seen(module: str, side: Literal["input", "output"], formula: str, source: Callable[..., Any]) -> Activation:
    """Like `_passing`, but the residual stream goes on beside the module, or the module is used twice."""
    return Activation(("position", "channel"), NUMBER, formula, source, HookPoint(module, side, row, only_seen=True))


def _stream(formula: str, origin: Derive) -> Activation:
    return Activation(("position", "channel"), NUMBER, formula, LanguageModel.features, origin)


def _logits(origin: Derive, formula: str, source: Callable[..., Any]) -> Activation:
    return Activation(("position", "vocabulary"), NATS, formula, source, origin)


_ANATOMIES: dict[type[LanguageModel], Callable[[LanguageModel], dict[str, Activation]]] = {GPT2: _gpt2, Modern: _modern}


def ports(sites: Mapping[str, Activation]) -> Iterator[tuple[str, HookPoint]]:
    """The sites that pass while the model runs, and where."""
    for name, site in sites.items():
        if isinstance(site.origin, HookPoint):
            yield name, site.origin
