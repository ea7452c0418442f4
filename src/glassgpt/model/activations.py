"""Helpers for `LanguageModel.activations`: declare the tensors that a pre-norm transformer block computes.

An architecture file declares its embedding, its queries, keys and values, and its head; the rest of a block is the same
for all architectures made of `transformer.Block` and is declared here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from glassgpt.model.attention import attend, attention_scores, attention_weights, causal_mask
from glassgpt.model.hook_points import Activation, Axis, Derivation, HookPoint, ReadActivation, Side
from glassgpt.model.transformer import Block, LanguageModel
from glassgpt.model.whole_media import WholeMedia, visible_keys

NATS = "nats, up to a constant"
DIMENSIONLESS = "dimensionless"


def captured(
    module: str,
    formula: str,
    source: Callable[..., Any],
    *,
    side: Side = "output",
    channels: Axis = "channel",
    read_only: bool = False,
) -> Activation:
    """Declare a tensor (T, channels) that passes through a module's input or output; see `HookPoint`."""
    return Activation(
        ("position", channels), DIMENSIONLESS, formula, source, HookPoint(module, side, _first, read_only)
    )


def captured_heads(
    module: str,
    formula: str,
    source: Callable[..., Any],
    width: int,
    *,
    side: Side = "output",
    heads: Axis = "head",
    part: Callable[[Tensor], Tensor] = lambda raw: raw,
) -> Activation:
    """Declare a tensor (heads, T, D) that passes through a module as (1, T, heads · D).

    Args:
        module: see `HookPoint`.
        formula: see `Activation`.
        source: see `Activation`.
        width: D.
        side: see `HookPoint`.
        heads: "head" or "kv_head".
        part: selects (1, T, heads · D) where the module's tensor holds more; returns a view.
    """
    axes: tuple[Axis, ...] = (heads, "position", "head_channel")
    return Activation(
        axes, DIMENSIONLESS, formula, source, HookPoint(module, side, lambda raw: split_heads(part(raw), width))
    )


def derived(
    name: str, axes: tuple[Axis, ...], formula: str, source: Callable[..., Any], function: Callable[[Tensor], Tensor]
) -> Activation:
    """Declare a tensor that `function` computes from another activation, `name`."""
    return Activation(axes, DIMENSIONLESS, formula, source, lambda read: function(read(name)))


def logits(formula: str, source: Callable[..., Any], derive: Derivation) -> Activation:
    """Declare logits (T, V)."""
    return Activation(("position", "vocabulary"), NATS, formula, source, derive)


def split_heads(raw: Tensor, width: int) -> Tensor:
    """Return a view of (1, T, H·D) as (H, T, D)."""
    return raw[0].unflatten(-1, (-1, width)).transpose(0, 1)


def repeat_kv_heads(x: Tensor, n_head: int) -> Tensor:
    """Repeat keys or values (K, T, D) for each of the H query heads: (H, T, D); returns `x` itself where K is H."""
    return x if x.size(0) == n_head else x.repeat_interleave(n_head // x.size(0), dim=0)


def block_activations(
    model: LanguageModel,
    layer: int,
    qkv: Mapping[str, Activation],
    nonlinearity: str,
    gate: Mapping[str, Activation] = MappingProxyType({}),
    mixing: Mapping[str, Activation] | None = None,
) -> dict[str, Activation]:
    """Declare everything that one `transformer.Block` computes, in order.

    Args:
        model: has the submodules norm1, attention.out, norm2, mlp.up and mlp.down in each block.
        layer: index of the block.
        qkv: queries, keys and values as they enter attention, and whatever leads to them, keyed by full name.
        nonlinearity: formula of `mlp.hidden`.
        gate: the gate of the MLP, keyed by full name, if it has one.
        mixing: what follows from `qkv` up to the mixed values, keyed by full name; attention by default.
    """
    at = f"blocks.{layer}"
    previous = f"blocks.{layer - 1}.output" if layer else "embedding"
    block = model.get_submodule(at)
    mlp = type(block.get_submodule("mlp")).forward
    stream = f"{previous}: the residual stream"
    return {
        f"{at}.input": derived(previous, ("position", "channel"), stream, LanguageModel.features, lambda x: x),
        f"{at}.norm1": captured(f"{at}.norm1", "input, normalized", Block.forward),
        **qkv,
        **(_attention(model, layer) if mixing is None else mixing),
        f"{at}.attention.output": captured(f"{at}.attention", "concatenated heads · Woᵀ", Block.forward),
        # The residual stream bypasses norm2, so replacing its input would not change what the MLP's output is added to.
        f"{at}.middle": captured(
            f"{at}.norm2", "input + attention.output", Block.forward, side="input", read_only=True
        ),
        f"{at}.norm2": captured(f"{at}.norm2", "middle, normalized", Block.forward),
        **gate,
        f"{at}.mlp.up": captured(f"{at}.mlp.up", "norm2 · Wᵀ", mlp, channels="hidden"),
        f"{at}.mlp.hidden": captured(f"{at}.mlp.down", nonlinearity, mlp, side="input", channels="hidden"),
        f"{at}.mlp.output": captured(f"{at}.mlp", "mlp.hidden · Wᵀ", mlp),
        f"{at}.output": captured(at, "middle + mlp.output", Block.forward),
    }


def _attention(model: LanguageModel, layer: int) -> dict[str, Activation]:
    """Declare attention from queries and keys to mixed values.

    Fused kernels do not expose scores and weights, so these are derived from the captured queries and keys by the
    readable reference implementation; the mixed values are captured.
    """
    config, at = model.config, f"blocks.{layer}.attention"
    reach = config.layer_reach(layer)

    def queries_and_keys(read: ReadActivation) -> tuple[Tensor, Tensor]:
        return read(f"{at}.q"), repeat_kv_heads(read(f"{at}.k"), config.n_head)

    def mask(read: ReadActivation) -> Tensor:
        return visible_keys(model, read("tokens"), *reach)

    def scores(read: ReadActivation) -> Tensor:
        return attention_scores(*queries_and_keys(read))

    def weights(read: ReadActivation) -> Tensor:
        q, k = queries_and_keys(read)
        return attention_weights(q[None], k[None], mask(read)[None, None])[0]

    matrix: tuple[Axis, ...] = ("head", "query", "key")
    window, visible = config.layer_window(layer), "key ≤ query"
    if window:
        visible += f" and key > query - {window}" + (f" or key < {config.sinks}" if config.sinks else "")
    if isinstance(model, WholeMedia):
        visible += ", or both in one picture or sound"
    return {
        f"{at}.scores": Activation(matrix, NATS, "q · kᵀ / √D", attention_scores, scores),
        f"{at}.mask": Activation(matrix[1:], "true where the query may attend", visible, causal_mask, mask),
        f"{at}.weights": Activation(
            matrix, "probability", "softmax of the unmasked scores", attention_weights, weights
        ),
        f"{at}.mixed": captured_heads(f"{at}.out", "weights · v", attend, config.head_width, side="input"),
    }


def _first(raw: Tensor) -> Tensor:
    """Return a view of (1, T, C) as (T, C)."""
    return raw[0]
