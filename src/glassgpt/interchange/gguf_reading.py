"""Import of GGUF files, llama.cpp's format: one file with metadata, tokenizer and weights, usually quantized.

GPT-2 and Llama are read. The weights become float32, whatever their type in the file: what quantization has lost stays
lost. The extra `gguf` brings the library that reads the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.files import require_regular
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.chat_templates import with_begin_token
from glassgpt.interchange.files import name_of, reason, shown
from glassgpt.interchange.gguf_tokenizer_reading import read_gguf_tokenizer
from glassgpt.interchange.tokenizer_import import Notify
from glassgpt.model.build import build_uninitialized, meta_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.parameter_names import gguf_name
from glassgpt.model.transformer import LanguageModel

HEAD, EMBEDDING = "output.weight", "token_embd.weight"
ROTATED = (".attention.q.weight", ".attention.k.weight", ".attention.q.bias", ".attention.k.bias")
"""Endings of our names of parameters whose output channels llama.cpp stores in another order."""

LIBRARY_ERRORS = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, NotImplementedError, RecursionError, OSError,
)  # fmt: skip
"""Errors of the library for a damaged file."""


@dataclass(frozen=True)
class GGUFModel:
    """A model from a GGUF file.

    Attributes:
        model: in evaluation mode.
        tokenizer: the model's.
        chat_template: a Jinja template, or None.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    chat_template: str | None


def import_gguf(path: Path, notify: Notify = lambda message: None) -> GGUFModel:
    """Load a GPT-2 or Llama from a GGUF file.

    Args:
        path: the file.
        notify: receives what the user should know about a model that is imported nevertheless.

    Raises:
        InterchangeError: the file is damaged, or the model is not supported.
        MissingExtraError: the tokenizer needs a library that is not installed.
    """
    require_regular(path)
    try:
        fields, tensors = _read(path)
        config = _config(fields, tensors, path)
        if problems := config.problems():
            raise InterchangeError(f"{path}: {'; '.join(problems)}")
        stored = _match(tensors, config, path)
        tokenizer = read_gguf_tokenizer(fields, path, notify)
        if tokenizer.vocab_size > config.vocab_size:
            raise InterchangeError(
                f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model only {config.vocab_size:,}"
            )
        model = build_uninitialized(config).eval()
        _copy(model, stored, path, notify)
    except LIBRARY_ERRORS as error:
        raise InterchangeError(f"{path} is damaged, or no GGUF file: {reason(error)}") from error
    return GGUFModel(model, tokenizer, _chat_template(fields))


def _chat_template(fields: Mapping[str, Any]) -> str | None:
    template, names = fields.get("tokenizer.chat_template"), fields["tokenizer.ggml.tokens"]
    begin = fields.get("tokenizer.ggml.bos_token_id")
    return with_begin_token(template, None if begin is None else names[begin]) if isinstance(template, str) else None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata and the library's tensors by name."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _config(fields: Mapping[str, Any], tensors: Mapping[str, Any], path: Path) -> ModelConfig:
    arch = fields.get("general.architecture")
    if arch not in CONFIGS:
        raise InterchangeError(
            f"{path} holds a model of type {name_of(arch)}; only {' and '.join(CONFIGS)} are supported"
        )
    own = {name.removeprefix(f"{arch}."): value for name, value in fields.items() if name.startswith(f"{arch}.")}
    for name in ("block_count", "context_length", "embedding_length", "attention.head_count"):
        if type(own.get(name)) is not int:
            raise InterchangeError(f"{path}: {arch}.{name} is {shown(own.get(name))}; it must be an integer")
    for name, accepted in REQUIRED.items():
        if own.get(name, accepted) != accepted:
            raise InterchangeError(f"{path}: {arch}.{name} is {shown(own[name])}; glassgpt does not support it")
    if EMBEDDING not in tensors:
        raise InterchangeError(f"the weights of {path} have no {EMBEDDING}")
    return CONFIGS[arch](own, tensors)


REQUIRED = {"rope.scaling.type": "none", "expert_count": 0, "attention.sliding_window": 0, "attention.clamp_kqv": 0.0}
"""Metadata that would change the function, with the values that do not."""


def _shape(own: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": int(tensors[EMBEDDING].shape[1]),
        "context_length": own["context_length"],
        "n_layer": own["block_count"],
        "n_head": own["attention.head_count"],
        "n_embd": own["embedding_length"],
        "n_inner": int(own.get("feed_forward_length", 0)),
    }


def _gpt2_config(own: Mapping[str, Any], tensors: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(norm_eps=_as_written(own["attention.layer_norm_epsilon"]), **_shape(own, tensors))


def _llama_config(own: Mapping[str, Any], tensors: Mapping[str, Any]) -> ModelConfig:
    heads, kv_heads = own["attention.head_count"], own.get("attention.head_count_kv", own["attention.head_count"])
    usual = own["embedding_length"] // max(1, heads)
    head_dim = own.get("attention.key_length", usual)
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if type(own.get(name, head_dim)) is not int or own.get(name, head_dim) != head_dim:
            raise InterchangeError(
                f"llama.{name} is {shown(own[name])}; only the width of a head, {head_dim}, is supported"
            )
    return ModelConfig(
        arch="llama",
        n_kv_head=0 if kv_heads == heads else kv_heads,
        head_dim=0 if head_dim == usual else head_dim,
        bias="blk.0.attn_q.bias" in tensors,
        norm_eps=_as_written(own["attention.layer_norm_rms_epsilon"]),
        rope_theta=_as_written(own.get("rope.freq_base", 10_000.0)),
        tied_head=HEAD not in tensors,
        **_shape(own, tensors),
    )


CONFIGS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], ModelConfig]] = {
    "gpt2": _gpt2_config,
    "llama": _llama_config,
}
"""For each of llama.cpp's architectures that is read, a function of its metadata and tensors."""


def _as_written(value: float) -> float:
    """Return the shortest decimal number that a float32 of the file stands for: 1e-5 instead of 9.999999747e-06."""
    return float(str(np.float32(value)))


def _match(tensors: Mapping[str, Any], config: ModelConfig, path: Path) -> dict[str, Any]:
    """Return the file's tensor of each parameter by our name, after comparing shapes and before building anything."""
    found: dict[str, Any] = {}
    rest = dict(tensors)
    for name, parameter in meta_model(config).named_parameters():
        tensor = rest.pop(gguf_name(name), None)
        if tensor is None:
            raise InterchangeError(f"the weights of {path} have no {gguf_name(name)}")
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if shape != tuple(parameter.shape):
            raise InterchangeError(
                f"the weights of {path}: {tensor.name} is {shape}, expected {tuple(parameter.shape)} from the metadata"
            )
        found[name] = tensor
    if config.arch == "gpt2" and HEAD in rest and np.array_equal(rest[HEAD].data, tensors[EMBEDDING].data):
        rest.pop(HEAD)
    if rest:
        raise InterchangeError(
            f"the weights of {path} have {len(rest)} tensors that {config.arch} does not have, such as "
            f"{shown(next(iter(rest)))}"
        )
    return found


def _copy(model: LanguageModel, stored: Mapping[str, Any], path: Path, notify: Notify) -> None:
    heads = {"q": model.config.n_head, "k": model.config.kv_heads}
    not_finite: list[str] = []
    for name, parameter in model.named_parameters():
        values = torch.tensor(_float32(stored[name], path))
        if name.endswith(ROTATED):
            values = _restored_order(values, heads[name.split(".")[-2]])
        parameter.data.copy_(values)
        if not bool(values.isfinite().all()):
            not_finite.append(stored[name].name)
    if not_finite:
        notify(
            f"{len(not_finite)} of {len(stored)} weights of {path} have NaN or infinite values, such as {not_finite[0]}; "
            f"the model cannot generate text"
        )


def _float32(tensor: Any, path: Path) -> NDArray[np.float32]:
    from gguf.quants import dequantize

    try:
        return dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise InterchangeError(
            f"the weights of {path}: {tensor.name} is of type {tensor.tensor_type.name}, which the library gguf cannot read"
        ) from error


def _restored_order(weight: Tensor, n_head: int) -> Tensor:
    """Undo llama.cpp's order of the output channels of queries and keys, in which the pairs to rotate are neighbors.

    In ours, as in Hugging Face's, channel i of a head is rotated with channel i + D/2.
    """
    pairs = weight.unflatten(0, (n_head, -1, 2))  # (H, D/2, 2, …)
    return pairs.transpose(1, 2).reshape(weight.shape)
