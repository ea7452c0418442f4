"""Models as GGUF files for llama.cpp and the programs that are built on it (Ollama, LM Studio, node-llama-cpp).

One file holds the settings, the tokenizer and the weights. Matrices are (out, in) as in PyTorch's linear layers, in
float32, float16, or blocks of 32 weights that share a scale (q8_0, q4_0), or a scale and an offset (q4_1). The head has no tensor of its own where it is
the token embedding (llama.cpp#12567).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt.compression.rounding import round_to_int4
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.block_quantization import BLOCK_SIZE, block_levels
from glassgpt.interchange.gguf_tokenizer import tokenizer_fields, write_tokenizer
from glassgpt.interchange.offset_grid import exact_offset_grid
from glassgpt.model.config import ModelConfig
from glassgpt.model.parameter_names import gguf_name, gpt2_parameter_mappings
from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.transformer import LanguageModel

FILE = "model.gguf"
FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
}
EMBEDDING_TYPES = {"q4_0": "q8_0", "q4_1": "q8_0"}
EMBEDDINGS = ("token_embd.weight", "output.weight")
"""The type of token embedding and head where it is not that of the matrices: they cost most in 4 bits."""

Tensors = Iterator[tuple[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Architecture:
    """llama.cpp's counterpart of one of our architectures.

    Attributes:
        name: `general.architecture`.
        write_settings: adds the sizes to a `gguf.GGUFWriter`.
        tensors: yields the weights under llama.cpp's names.
        full_precision: names of the matrices that stay in float32.
    """

    name: str
    write_settings: Callable[[Any, ModelConfig], None]
    tensors: Callable[[LanguageModel], Tensors]
    full_precision: frozenset[str] = frozenset()


def _write_gpt2_settings(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_width)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_eps)


def _gpt2_tensors(model: LanguageModel) -> Tensors:
    """Yield the parameters; biases that the model does not have are zeros."""
    ours = model.state_dict()
    for mapping in gpt2_parameter_mappings(model.config):
        tensor = ours.get(mapping.ours)
        if tensor is None:
            tensor = torch.zeros(ours[mapping.ours.removesuffix("bias") + "weight"].size(0))
        yield gguf_name(mapping.ours), tensor.detach().float().cpu().numpy()


def _write_llama_settings(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_width)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)


def _llama_tensors(model: LanguageModel) -> Tensors:
    """Yield the parameters, those of queries and keys in the order in which llama.cpp rotates them."""
    for ours, parameter in model.named_parameters():
        name = gguf_name(ours)
        values = parameter.detach().float().cpu().numpy()
        if ".attn_q." in name or ".attn_k." in name:
            values = _interleaved(values, model.config.head_width)
        yield name, values


def _in_order(ours: str, matrix: QuantizedMatrix, config: ModelConfig) -> QuantizedMatrix:
    """Return a matrix of integers with the rows in the order in which its weights are written."""
    if config.arch != "llama" or not ours.endswith((".attention.q.weight", ".attention.k.weight")):
        return matrix
    rows = np.arange(matrix.integers.size(0), dtype=np.float32)
    order = torch.from_numpy(_interleaved(rows, config.head_width)).long()
    offsets = None if matrix.offsets is None else matrix.offsets[order]
    return QuantizedMatrix(matrix.bits, matrix.integers[order], matrix.scales[order], offsets)


def _interleaved(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Reorder the channels of each head: we rotate the pairs (i, i + D/2), llama.cpp (2i, 2i + 1)."""
    heads = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(values.shape)


ARCHITECTURES = {
    "gpt2": Architecture("gpt2", _write_gpt2_settings, _gpt2_tensors, frozenset({"position_embd.weight"})),
    "llama": Architecture("llama", _write_llama_settings, _llama_tensors),
}
"""llama.cpp's counterpart of each of our architectures that it knows."""


def write_gguf(model: LanguageModel, tokenizer: Tokenizer, path: Path, weights: str, name: str = "glassgpt") -> None:
    """Write a model and its tokenizer to a GGUF file.

    Args:
        model: of one of `ARCHITECTURES`.
        tokenizer: BPE over bytes, which splits text in a way that llama.cpp has.
        path: file to create.
        weights: type of the matrices, one of `FILE_TYPES`; vectors and position embeddings stay in float32.
        name: of the model, which programs show.

    Raises:
        InterchangeError: llama.cpp cannot express the tokenizer, or a weight exceeds its type.
    """
    import gguf

    architecture = ARCHITECTURES[model.config.arch]
    fields = tokenizer_fields(tokenizer, model.config.vocab_size)
    writer: Any = gguf.GGUFWriter(path, architecture.name)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[weights]])
    if weights.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    architecture.write_settings(writer, model.config)
    write_tokenizer(writer, fields, tokenizer.end_of_text)
    known = {gguf_name(ours): _in_order(ours, matrix, model.config) for ours, matrix in model.quantized.items()}
    for tensor_name, values in architecture.tensors(model):
        kept = values.ndim < 2 or tensor_name in architecture.full_precision
        chosen = EMBEDDING_TYPES.get(weights, weights) if tensor_name in EMBEDDINGS else weights
        kind = gguf.GGMLQuantizationType["F32" if kept else chosen.upper()]
        writer.add_tensor(tensor_name, _converted(tensor_name, values, kind, known.get(tensor_name)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _converted(name: str, values: NDArray[np.float32], kind: Any, known: QuantizedMatrix | None) -> NDArray[Any]:
    from gguf.quants import dequantize, quantize

    with np.errstate(over="ignore", invalid="ignore"):
        if kind.name == "Q4_1":
            converted = _q4_1(values, known)
        else:
            converted: NDArray[Any] = _q4_0(values) if kind.name == "Q4_0" else quantize(values, kind)
    largest = float(np.abs(values).max(initial=0.0))
    if kind.name != "F32" and np.isfinite(largest) and not np.isfinite(dequantize(converted, kind)).all():
        raise InterchangeError(f"{name} has a weight of {largest:.3g}, too large for {kind.name}; use --weights f32")
    return converted


def _q4_0(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the rows of a matrix as blocks of q4_0: the scale in float16, then the first 16 levels in the low halves of 16 bytes
    and the others in the high halves.

    The library's own way to choose scales would round weights again that are levels times a scale.
    """
    levels, scales = block_levels(torch.from_numpy(np.ascontiguousarray(values)), 4, half_scales=True)
    packed = levels[..., :16] | levels[..., 16:] << 4
    blocks = [scales.numpy().astype(np.float16)[..., None].view(np.uint8), packed.numpy()]
    return np.concatenate(blocks, axis=-1).reshape(len(values), -1)


def _q4_1(values: NDArray[np.float32], known: QuantizedMatrix | None) -> NDArray[np.uint8]:
    """Return the rows of a matrix as blocks of q4_1: scale and offset in float16, then the levels as in q4_0.

    Args:
        values: (out, in).
        known: the integers that they were computed from, if there are any.
    """
    weight = torch.from_numpy(np.ascontiguousarray(values))
    grid = exact_offset_grid(weight, known) or round_to_int4(weight, BLOCK_SIZE)
    assert grid.offsets is not None
    levels = grid.integers.unflatten(1, (-1, BLOCK_SIZE))
    packed = levels[..., :16] | levels[..., 16:] << 4
    numbers = torch.stack([grid.scales, grid.offsets], dim=-1)  # (out, blocks, 2) float16
    return np.concatenate([numbers.numpy().view(np.uint8), packed.numpy()], axis=-1).reshape(len(values), -1)
