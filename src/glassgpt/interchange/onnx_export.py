"""Write a model as an ONNX file, and check what the file holds."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from glassgpt.errors import InterchangeError
from glassgpt.interchange.onnx_layers import with_onnx_layers
from glassgpt.interchange.traced_model import (
    LOGITS,
    MASK,
    POSITIONS,
    TOKENS,
    TOTAL_LENGTH,
    TracedModel,
    cache_names,
    dynamic_shapes,
    example_inputs,
)
from glassgpt.model.transformer import LanguageModel

OPSET = 23
"""The first with nodes for attention and RMSNorm."""
BITS = {"float32": 32, "int8": 8, "int4": 4}
MAX_FILE_BYTES = 1_800_000_000
"""A larger model keeps its weights in a second file: a protobuf message cannot exceed 2 GiB."""
MAX_OVERHEAD_BYTES = 1_000_000
"""Size of the graph itself, without the weights."""


def write_onnx(model: LanguageModel, path: Path, weights: str) -> None:
    """Write a model in evaluation mode to an ONNX file.

    Raises:
        InterchangeError: the file holds weights twice, or less of them is quantized than intended.
    """
    config = model.config
    traced = TracedModel(with_onnx_layers(model, BITS[weights])).eval()
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            traced,
            example_inputs(config),
            dynamo=True,
            opset_version=OPSET,
            input_names=[TOKENS, MASK, POSITIONS, *cache_names("past_key_values", config)],
            output_names=[LOGITS, *cache_names("present", config)],
            dynamic_shapes=dynamic_shapes(config),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    _name_total_length(program)
    n_bytes = sum(tensor.nbytes for tensor in traced.state_dict().values())
    program.save(path, external_data=n_bytes > MAX_FILE_BYTES)
    _check_file(path, model, weights)


def _name_total_length(program: Any) -> None:
    """Give the mask's last axis the name of the sum that it is, as in the outputs."""
    mask = next(value for value in program.model.graph.inputs if value.name == MASK)
    mask.shape[1] = TOTAL_LENGTH


def _check_file(path: Path, model: LanguageModel, weights: str) -> None:
    stored = path.stat().st_size + sum(each.stat().st_size for each in path.parent.glob(f"{path.name}.data"))
    bits = BITS[weights]
    share = quantized_share(path, model)
    if bits < 32 and share < 1:
        raise InterchangeError(
            f"only {100 * share:.0f} % of the weights of {path.name} are in {bits} bits; please report this model"
        )
    expected = sum(tensor.nbytes for tensor in with_onnx_layers(model, bits).state_dict().values())
    if stored > expected + MAX_OVERHEAD_BYTES + expected // 20:
        raise InterchangeError(
            f"{path.name} has {stored:,} bytes for {expected:,} bytes of weights, so some are stored twice; "
            f"please report this model"
        )


def quantized_share(path: Path, model: LanguageModel) -> float:
    """Return the share of the values in a model's matrices and embeddings that a file holds in 4 or 8 bits.

    It exceeds 1 if the width of an embedding was padded.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    matrices = {
        node.input[1]: _attribute(node, "K") * _attribute(node, "N")
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }
    # An embedding that is not the head too has no such node: its levels are bytes, one per value.
    tables = [
        math.prod(each.dims)
        for each in graph.initializer
        if each.data_type == onnx.TensorProto.UINT8 and each.name not in matrices
    ]
    n_values = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    return (sum(matrices.values()) + sum(tables)) / n_values


def _attribute(node: Any, name: str) -> int:
    return next(each.i for each in node.attribute if each.name == name)


@contextmanager
def _quiet_exporter() -> Generator[None]:
    """Silence the exporter's warnings about libraries that are not installed and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
