"""Select the decoder for a device."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.interfaces import Decoder
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import VectorTable


def select_decoder(model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> Decoder:
    """Return the fastest decoder for the model's device: CUDA graphs of Triton kernels where they support the model.

    Float32 models are left to PyTorch: the kernels would compute them without the GPU's tensor cores. So are models that are
    given pictures: the kernels read the embedding themselves, and know of no further rows.
    """
    if not has_gpu_kernels(model):
        return StepwiseDecoder(model, vocab_size, slots, capacity)
    from glassgpt.generation.gpu.graphs import GraphDecoder  # Triton exists only where PyTorch supports GPUs

    return GraphDecoder(model, vocab_size, slots, capacity)


def has_gpu_kernels(model: LanguageModel) -> bool:
    """Return whether the GPU's kernels decode a model, as it is and where it is."""
    parameter = next(model.parameters())
    if parameter.device.type != "cuda" or parameter.dtype == torch.float32:
        return False
    return fits_gpu_kernels(model) and not isinstance(getattr(model, "token_embedding", None), VectorTable)


def fits_gpu_kernels(model: LanguageModel) -> bool:
    """Return whether the GPU's kernels can decode a model like this one, wherever it is."""
    if not find_spec("triton"):
        return False
    from glassgpt.generation.gpu.layers import can_fuse

    return can_fuse(model)
