"""Sound: a few frames of its log-mel spectrogram are a position; two layers map them to a vector.

The first layer sees each frame with those beside it, as a convolution does; the second one all frames of the position.
`encode_audio_readable` is the readable reference. `audio_augmentation.py` changes the frames in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glassgpt.multimodal.audio_augmentation import augment_frames
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.encoder import Encoder
from glassgpt.multimodal.spectrogram import SILENCE, log_mel, position_frames

FRAME_TYPE = np.dtype("<f2")
ADJACENT = 3
"""Frames that the first layer sees at once."""


class AudioEncoder(Encoder):
    """Encodes sounds, of which several of any length may be in a row."""

    modality = "audio"

    def __init__(self, config: MultimodalConfig, width: int, rms: float) -> None:
        super().__init__(config, width, rms)
        self.n_bytes = config.frames_per_position * config.mels * FRAME_TYPE.itemsize
        hidden = max(config.mels, width // 2)
        self.frame = nn.Linear(ADJACENT * config.mels, hidden)
        self.position = nn.Linear(config.frames_per_position * hidden, width)
        for layer in (self.frame, self.position):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    @property
    def is_random(self) -> bool:
        """See `Encoder`."""
        return bool(self.config.augment_audio)

    @staticmethod
    def payload(data: NDArray[Any], config: MultimodalConfig) -> NDArray[np.uint8]:
        """See `Encoder`: the frames of each position, the last of them silent."""
        frames = position_frames(data, config).astype(FRAME_TYPE)
        return frames.view(np.uint8).reshape(config.geometry.audio_positions(len(data)), -1)

    def forward(self, payload: Tensor, where: Tensor) -> Tensor:
        """See `Encoder`."""
        frames = payload.contiguous().view(torch.float16).float()  # (B, T, F · mels)
        # Positions without sound become silence, so that a sound does not depend on its neighbors in the row.
        frames = torch.where(where[..., None], frames, SILENCE).view(where.size(0), -1, self.config.mels)
        if self.training:
            with torch.autocast(frames.device.type, enabled=False):
                frames = augment_frames(frames, where, self.config)
        return self.encode(frames)

    def encode(self, frames: Tensor) -> Tensor:
        """Return the vectors (B, T, C) of frames (B, T · F, mels)."""
        silent = F.pad(frames, (0, 0, 1, 1), value=SILENCE)
        seen = torch.cat([silent[:, at : at + frames.size(1)] for at in range(ADJACENT)], dim=-1)
        hidden = F.gelu(self.frame(seen))  # (B, T · F, H)
        n_frames = self.config.frames_per_position
        return self.scaled(self.position(hidden.view(hidden.size(0), -1, n_frames * hidden.size(-1))))


def encode_audio_readable(encoder: AudioEncoder, samples: NDArray[np.int16]) -> Tensor:
    """Return the vectors of one sound, (positions, C): the readable reference of `AudioEncoder` without augmentation.

    Args:
        encoder: its weights.
        samples: (n,) int16.
    """
    config = encoder.config
    spectrogram = log_mel(samples, config.rate, config.hop, config.mels).astype(FRAME_TYPE).astype(np.float32)
    silence = torch.full((config.mels,), SILENCE)
    frames = [silence, *torch.from_numpy(spectrogram), *[silence] * (config.frames_per_position + 1)]
    vectors: list[Tensor] = []
    for position in range(config.geometry.audio_positions(len(samples))):
        hidden: list[Tensor] = []
        for at in range(position * config.frames_per_position, (position + 1) * config.frames_per_position):
            seen = torch.cat([frames[at], frames[at + 1], frames[at + 2]])  # the one before, the frame, the one after
            hidden.append(F.gelu(encoder.frame(seen)))
        x = encoder.position(torch.cat(hidden))
        vectors.append(x / x.square().mean().add(torch.finfo(torch.float32).eps).sqrt() * encoder.gain)
    return torch.stack(vectors)
