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
    parameter = next(model.parameters())
    if parameter.device.type == "cuda" and parameter.dtype != torch.float32 and find_spec("triton"):
        from glassgpt.generation.gpu.graphs import GraphDecoder
        from glassgpt.generation.gpu.layers import can_fuse  # Triton exists only where PyTorch supports GPUs

        if can_fuse(model) and not isinstance(getattr(model, "token_embedding", None), VectorTable):
            return GraphDecoder(model, vocab_size, slots, capacity)
    return StepwiseDecoder(model, vocab_size, slots, capacity)
