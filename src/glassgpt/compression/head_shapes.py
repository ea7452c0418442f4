"""The shape of a model with fewer heads. Free of torch."""

from __future__ import annotations

from dataclasses import replace

from glassgpt.model.config import ModelConfig


def query_group(config: ModelConfig) -> int:
    """Return the number of query heads that share a key/value head."""
    return config.n_head // config.kv_heads


def with_kv_heads(config: ModelConfig, count: int) -> ModelConfig:
    """Return the shape with another number of key/value heads, each with its query heads and as wide as before."""
    n_kv_head = count if config.n_kv_head else 0
    return replace(config, n_head=count * query_group(config), n_kv_head=n_kv_head, head_dim=config.head_width)
