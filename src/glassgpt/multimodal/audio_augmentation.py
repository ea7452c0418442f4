"""Random changes of spectrograms in training, on the device; see `image_augmentation.py` for where they are drawn from.

Speed, vocal tract and microphone of every sound are changed. Voices and recordings differ in these, so a model learns the words
and not the speaker.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.encoder import start_index
from glassgpt.multimodal.spectrogram import RANGE, SILENCE

SPEED, DELAY, PITCH, OFFSET = 0.3, 6.0, 0.18, 2.0
"""Largest change of speed (a logarithm), of the start (frames), of the frequencies (a share), and their shift (bands)."""
COLORING, LOUDNESS = 0.3, 0.3
"""Largest change of the power of some bands against others, and of all, in units of a spectrogram."""
KNOTS = 5
"""Bands whose change is drawn; those between follow smoothly."""
NOISY, QUIETEST_NOISE, LOUDEST_NOISE = 0.7, -1.0, 0.3
"""Share of the sounds that get noise, and its level in units of a spectrogram."""
MASKS, LONGEST_GAP, WIDEST_BAND = 2, 10.0, 0.15
"""Number of gaps and of missing bands in each sound, and their largest size in frames and as a share of the bands."""
NUMBERS = 6 + 2 * KNOTS + 4 * MASKS


def augment_frames(frames: Tensor, where: Tensor, config: MultimodalConfig) -> Tensor:
    """Return spectrograms, each sound changed at random as configured.

    Args:
        frames: (B, T · F, mels), F frames per position, `SILENCE` where there is no sound.
        where: (B, T) bool, the positions of sounds.
        config: the settings.
    """
    strength, per_position = config.augment_audio, config.frames_per_position
    if not strength:
        return frames
    start = start_index(where)
    # Numbers from -1 to 1 for each sound: those drawn for its first position.
    drawn = torch.rand(*where.shape, NUMBERS, device=frames.device) * 2 - 1
    drawn = drawn.gather(1, start[..., None].expand(-1, -1, NUMBERS)).repeat_interleave(per_position, dim=1)
    speed, delay, pitch, offset, loudness, noise, *others = drawn.unbind(dim=-1)  # (B, T · F) each
    coloring, hiss, masks = torch.stack(others, dim=-1).split((KNOTS, KNOTS, 4 * MASKS), dim=-1)
    x = at_speed(frames, start, where, (speed * SPEED * strength).exp(), delay.abs() * DELAY * strength)
    x = at_pitch(x, 1 + pitch * PITCH * strength, offset * OFFSET * strength)
    bands = _between(frames.size(-1), frames.device)
    x = x + (coloring @ bands * COLORING + loudness[..., None] * LOUDNESS) * strength
    x = with_noise(x, _noise_level(noise, strength)[..., None] + hiss @ bands * COLORING)
    hidden = _hidden(masks, start, where, frames.size(-1), strength)
    sound = where.repeat_interleave(per_position, dim=1)
    return torch.where(hidden | ~sound[..., None], SILENCE, x.clamp(min=SILENCE))


def _between(mels: int, device: torch.device) -> Tensor:
    """Return the weights (KNOTS, mels) by which bands follow the knots on either side."""
    at = torch.linspace(0, KNOTS - 1, mels, device=device)
    return (1 - (at - torch.arange(KNOTS, device=device)[:, None]).abs()).clamp(min=0)


def _noise_level(drawn: Tensor, strength: float) -> Tensor:
    """Return the level of the noise of each sound from a number from -1 to 1; far below silence for those without."""
    chosen = (drawn + 1) / 2 / (NOISY * strength)  # from 0 to 1 for those with noise
    return torch.where(chosen < 1, QUIETEST_NOISE + chosen * (LOUDEST_NOISE - QUIETEST_NOISE), -100.0)


def at_speed(frames: Tensor, start: Tensor, where: Tensor, speed: Tensor, delay: Tensor) -> Tensor:
    """Play each sound at another speed, from its start or a little later; at its end it is cut, or silence follows.

    Args:
        frames: see `augment_frames`, as is `where`.
        start: (B, T) the position where the sound of a position starts.
        where: the positions of sounds.
        speed: (B, T · F) frames per frame.
        delay: (B, T · F) frames that are left out at the start.
    """
    per_position = frames.size(1) // where.size(1)
    first = (start * per_position).repeat_interleave(per_position, dim=1)  # (B, T · F)
    wanted = first + (torch.arange(frames.size(1), device=frames.device) - first) * speed + delay
    before = wanted.floor()
    one, other = (_taken(frames, start, where, first, (before + step).long()) for step in (0, 1))
    return torch.lerp(one, other, (wanted - before)[..., None])


def _taken(frames: Tensor, start: Tensor, where: Tensor, first: Tensor, index: Tensor) -> Tensor:
    """Return the frames at an index (B, T · F); silence where that is not in the sound that begins at `first`."""
    per_position = frames.size(1) // where.size(1)
    inside = index.clamp(0, frames.size(1) - 1)
    position = inside // per_position
    is_same = where.gather(1, position) & (start.gather(1, position) * per_position == first) & (index == inside)
    taken = frames.gather(1, inside[..., None].expand(-1, -1, frames.size(2)))
    return torch.where(is_same[..., None], taken, SILENCE)


def at_pitch(frames: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Stretch and shift the bands of each frame, as another vocal tract does (Jaitly and Hinton 2013)."""
    mels = frames.size(-1)
    wanted = (torch.arange(mels, device=frames.device) * factor[..., None] + offset[..., None]).clamp(0, mels - 1)
    before = wanted.floor().long()
    lower, upper = frames.gather(-1, before), frames.gather(-1, (before + 1).clamp(max=mels - 1))
    return torch.lerp(lower, upper, wanted - before)


def with_noise(frames: Tensor, level: Tensor) -> Tensor:
    """Add the power of noise at a level (B, T · F, 1 or mels) to that of each band."""
    unit = RANGE / 2 * math.log(10)  # of a spectrogram, in nats of power
    power = -torch.rand_like(frames).clamp(1e-6, 1 - 1e-6).log()  # that of noise varies so from frame to frame
    return torch.logaddexp(frames * unit, level * unit + power.log()) / unit


def _hidden(drawn: Tensor, start: Tensor, where: Tensor, mels: int, strength: float) -> Tensor:
    """Return which frames and bands fall silent (SpecAugment, Park et al. 2019), (B, T · F, mels) bool."""
    per_position = drawn.size(1) // where.size(1)
    length = _length(start, where).repeat_interleave(per_position, dim=1) * per_position
    first = (start * per_position).repeat_interleave(per_position, dim=1)
    frame = torch.arange(drawn.size(1), device=drawn.device) - first  # within its sound
    band = torch.arange(mels, device=drawn.device)
    hidden = torch.zeros(*drawn.shape[:2], mels, dtype=torch.bool, device=drawn.device)
    for one in drawn.split(4, dim=-1):
        at, gap, low, width = one.unbind(dim=-1)
        begin = (at + 1) / 2 * length
        in_gap = (frame >= begin) & (frame < begin + gap.abs() * LONGEST_GAP * strength)
        lowest = ((low + 1) / 2 * mels)[..., None]
        in_band = (band >= lowest) & (band < lowest + width.abs()[..., None] * WIDEST_BAND * mels * strength)
        hidden = hidden | in_gap[..., None] | in_band
    return hidden


def _length(start: Tensor, where: Tensor) -> Tensor:
    """Return the number of positions of the sound of each position, (B, T)."""
    counts = torch.zeros_like(start).scatter_add(1, start, where.long())
    return counts.gather(1, start)
