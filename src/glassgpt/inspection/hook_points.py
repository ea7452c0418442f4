"""The activations in a trace of a model: those its architecture declares, preceded by the text itself.

Architectures declare their activations and hook points in their own files, see `LanguageModel.activations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InspectionError
from glassgpt.inspection.tokenization import pretokens
from glassgpt.model.config import ModelConfig
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.hook_points import Activation, Axis, HookPoint
from glassgpt.model.transformer import LanguageModel

TEXT_ACTIVATIONS = {
    "bytes": Activation(("byte",), "byte value", "the text in UTF-8", pretokens, None),
    "tokens": Activation(("position",), "token id", "the bytes, merged into tokens", Tokenizer.encode, None),
}


def activations_of(model: LanguageModel) -> dict[str, Activation]:
    """Return every activation of a model by name, in data-flow order, starting with the text.

    Raises:
        InspectionError: the architecture declares no activations, or those of a part of the user's own are unknown.
    """
    if model.config.block or model.config.attend:
        raise InspectionError(
            f"{model.config.plugins[0]} does not compute what {model.config.arch} does, so that its activations are unknown; "
            "make it an architecture that declares them, with model.custom"
        )
    declared = model.activations()
    if not declared:
        name = type(model).__name__
        raise InspectionError(f"{name} declares no activations to inspect; implement {name}.activations()")
    return {**TEXT_ACTIVATIONS, **declared}


def require_attention(model: LanguageModel) -> None:
    """Check that a model has attention weights, which the page and the printed summary are about.

    Raises:
        InspectionError: it has linear attention.
    """
    if model.config.arch in LINEAR:
        raise InspectionError(
            f"{model.config.arch} has no attention weights to show; "
            f"read its activations in Python: glassgpt.load(RUN).trace(TEXT)"
        )


def hook_points(activations: Mapping[str, Activation]) -> Iterator[tuple[str, HookPoint]]:
    """Yield the activations that are captured during the forward pass, with their hook points."""
    for name, activation in activations.items():
        if isinstance(activation.origin, HookPoint):
            yield name, activation.origin


def axis_sizes(config: ModelConfig, n_bytes: int, n_tokens: int) -> dict[Axis, int]:
    """Return the axis sizes of the activations that are computed instead of captured."""
    return {
        "byte": n_bytes,
        "position": n_tokens,
        "query": n_tokens,
        "key": n_tokens,
        "channel": config.n_embd,
        "head": config.n_head,
        "kv_head": config.kv_heads,
        "head_channel": config.head_width,
        "angle": config.head_width // 2,
        "vocabulary": config.vocab_size,
    }
