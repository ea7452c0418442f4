"""The base of the encoders. A modality is a file with a subclass of `Encoder`; `model.py` lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glassgpt.model.transformer import ParameterKind
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.media import Modality


class Encoder(nn.Module, ABC):
    """Maps the bytes at the positions of a medium to vectors that take the place of token embeddings.

    When training starts, its vectors have the average norm of the language model's token embeddings: with larger norms media
    would dominate the text, with smaller ones the text would dominate them.

    Args:
        config: the settings.
        width: C, the width of the language model.
        rms: root mean square of the vectors that it starts with.

    Attributes:
        modality: what it encodes.
        n_bytes: bytes at each position.
    """

    modality: ClassVar[Modality]
    n_bytes: int

    def __init__(self, config: MultimodalConfig, width: int, rms: float) -> None:
        super().__init__()
        self.config = config
        self.gain = nn.Parameter(torch.full((width,), rms))

    @property
    @abstractmethod
    def is_random(self) -> bool:
        """Return whether media are changed at random in training."""

    @staticmethod
    @abstractmethod
    def payload(data: NDArray[Any], config: MultimodalConfig) -> NDArray[np.uint8]:
        """Return the bytes of a medium by position, (positions, bytes) uint8; see `MediaItem` for the medium."""

    @abstractmethod
    def forward(self, payload: Tensor, where: Tensor) -> Tensor:
        """Return vectors (B, T, C) float32.

        Args:
            payload: (B, T, bytes) uint8.
            where: (B, T) bool, True at positions of this modality. What is returned elsewhere is not used.
        """

    def scaled(self, x: Tensor) -> Tensor:
        """Normalize vectors (…, C) and multiply them by the gain."""
        return F.rms_norm(x.float(), (x.size(-1),)) * self.gain

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of each parameter: embeddings, matrices and vectors."""
        kinds: dict[str, ParameterKind] = {}
        for module_name, module in self.named_modules():
            kind: ParameterKind = "embedding" if isinstance(module, nn.Embedding) else "matrix"
            for name, parameter in module.named_parameters(module_name, recurse=False):
                kinds[name] = kind if parameter.ndim == 2 else "vector"
        return kinds


def starts(where: Tensor) -> Tensor:
    """Return where media begin, (B, T) bool, given the positions of media (B, T): a begin token precedes each of them."""
    return where & ~F.pad(where, (1, 0))[:, :-1]


def start_index(where: Tensor) -> Tensor:
    """Return for each position of a medium the position where the medium starts, (B, T) int64."""
    index = torch.arange(where.size(1), device=where.device)
    return torch.where(starts(where), index, 0).cummax(dim=1).values
