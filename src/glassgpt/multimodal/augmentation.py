"""Random changes of pictures and sounds in training, on the device.

They are drawn from PyTorch's generator of the device, as dropout is, whose state a checkpoint holds: a resumed run draws
what the run would have drawn. Each medium is changed by itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.encoder import start_index
from glassgpt.multimodal.spectrogram import RANGE, SILENCE

TURN, SCALE, SHIFT = math.radians(15), 0.2, 0.15
"""Largest turn (radians), change of size and shift (shares of the picture), at full strength."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.6, 0.6
"""Largest changes of color at full strength; the hue in radians."""
COVERED = 0.5
"""Largest side of the square that is covered in half of the pictures, as a share of the picture, at full strength."""
KERNEL = 3
"""Width of the random filters that change the style."""
SPEED, PITCH = 0.15, 0.12
"""Largest change of speed and of the frequencies of a sound, at full strength."""
LOUDEST_NOISE = 0.2
"""Loudest noise that is added, in units of a spectrogram, at full strength."""
GAPS, BANDS = 0.1, 0.2
"""Share of the positions that fall silent, and largest share of the bands, at full strength."""


def augment_images(pictures: Tensor, config: MultimodalConfig) -> Tensor:
    """Return pictures (M, 3, S, S) from -1 to 1, each changed at random as configured."""
    if strength := config.augment_image:
        pictures = _moved(pictures, strength)
    if config.flip_image:
        pictures = torch.where(_uniform(pictures) < 0.5, pictures.flip(-1), pictures)
    if config.restyle_image:
        pictures = torch.where(_uniform(pictures) < config.restyle_image, _restyled(pictures), pictures)
    if strength:
        pictures = _covered(_recolored(pictures, strength), strength)
    return pictures


def _uniform(pictures: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return a number per picture, (M, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(pictures), 1, 1, 1, device=pictures.device)


def _moved(pictures: Tensor, strength: float) -> Tensor:
    """Turn, scale and shift each picture; its edge continues in what comes into view."""
    angle = _uniform(pictures, -TURN, TURN).flatten() * strength
    scale = 1 + _uniform(pictures, -SCALE, SCALE).flatten() * strength
    right, down = (_uniform(pictures, -2 * SHIFT, 2 * SHIFT).flatten() * strength for _ in range(2))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack((cos, -sin, right, sin, cos, down), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recolored(pictures: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of each picture."""
    gray = pictures.mean(dim=1, keepdim=True)
    angle = _uniform(pictures, -HUE, HUE) * strength
    # Colors turn around the axis from black to white (Rodrigues): the cross product with it, and their gray part.
    red, green, blue = pictures.unbind(dim=1)
    across = torch.stack((green - blue, blue - red, red - green), dim=1) / math.sqrt(3)
    color = (pictures - gray) * angle.cos() + across * angle.sin()
    color = color * (1 + strength * _uniform(pictures, -SATURATION, SATURATION))
    contrast = 1 + strength * _uniform(pictures, -CONTRAST, CONTRAST)
    brightness = strength * _uniform(pictures, -BRIGHTNESS, BRIGHTNESS)
    return ((gray + color) * contrast + brightness).clamp(-1, 1)


def _restyled(pictures: Tensor) -> Tensor:
    """Mix each picture with what a random filter makes of it: shapes stay, colors and textures do not (RandConv, Xu et al. 2021)."""
    count, channels, size, _ = pictures.shape
    filters = torch.randn(count * channels, channels, KERNEL, KERNEL, device=pictures.device)
    padded = F.pad(pictures, [KERNEL // 2] * 4, mode="replicate").view(1, count * channels, size + 2, size + 2)
    filtered = F.conv2d(padded, filters, groups=count).view_as(pictures)
    filtered = filtered - filtered.mean(dim=(2, 3), keepdim=True)
    filtered = filtered / filtered.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-3) * 0.6
    share = _uniform(pictures)
    return (share * pictures + (1 - share) * filtered).clamp(-1, 1)


def _covered(pictures: Tensor, strength: float) -> Tensor:
    """Cover a gray square of half of the pictures (Cutout, DeVries and Taylor 2017)."""
    size = pictures.size(-1)
    place = torch.arange(size, device=pictures.device)
    side = _uniform(pictures, 0, COVERED * strength * size)
    top, left = (_uniform(pictures, 0, size) for _ in range(2))
    inside = ((place[:, None] - top).abs() < side / 2) & ((place - left).abs() < side / 2)  # (M, 1, S, S)
    return torch.where(inside & (_uniform(pictures) < 0.5), 0.0, pictures)


def augment_frames(frames: Tensor, where: Tensor, config: MultimodalConfig) -> Tensor:
    """Return spectrograms, each sound changed at random as configured.

    Args:
        frames: (B, T · F, mels), F frames per position, `SILENCE` where there is no sound.
        where: (B, T) bool, the positions of sounds.
        config: the settings.
    """
    strength = config.augment_audio
    if not strength:
        return frames
    start = start_index(where)
    # Five numbers from -1 to 1 for each sound: those drawn for its first position.
    drawn = torch.rand(*where.shape, 5, device=frames.device) * 2 - 1
    drawn = drawn.gather(1, start[..., None].expand(-1, -1, 5)).repeat_interleave(config.frames_per_position, dim=1)
    speed, pitch, loudness, band, width = drawn.unbind(dim=-1)  # (B, T · F) each
    changed = _at_speed(frames, start, where, 1 + SPEED * strength * speed)
    changed = _at_pitch(changed, 1 + PITCH * strength * pitch)
    level = SILENCE + (loudness[..., None] / 2 + 0.5) * (1 + LOUDEST_NOISE) * strength
    changed = _with_noise(changed, level)
    bands = torch.arange(frames.size(-1), device=frames.device) / frames.size(-1)
    is_masked = (bands - (band[..., None] / 2 + 0.5)).abs() < width[..., None].abs() * BANDS * strength / 2
    gaps = (torch.rand(where.shape, device=frames.device) < GAPS * strength).repeat_interleave(
        config.frames_per_position, dim=1
    )
    sound = where.repeat_interleave(config.frames_per_position, dim=1)
    return torch.where(is_masked | (gaps | ~sound)[..., None], SILENCE, changed)


def _at_speed(frames: Tensor, start: Tensor, where: Tensor, speed: Tensor) -> Tensor:
    """Play each sound at another speed, from its start; at its end it is cut, or silence follows."""
    per_position = frames.size(1) // where.size(1)
    first = (start * per_position).repeat_interleave(per_position, dim=1)  # (B, T · F)
    wanted = first + (torch.arange(frames.size(1), device=frames.device) - first) * speed
    before = wanted.floor()
    share = (wanted - before)[..., None]
    one, other = (_taken(frames, start, where, first, (before + step).long()) for step in (0, 1))
    return torch.lerp(one, other, share)


def _taken(frames: Tensor, start: Tensor, where: Tensor, first: Tensor, index: Tensor) -> Tensor:
    """Return the frames at an index (B, T · F); silence where that is not in the sound that begins at `first`."""
    per_position = frames.size(1) // where.size(1)
    inside = index.clamp(0, frames.size(1) - 1)
    position = inside // per_position
    is_same = where.gather(1, position) & (start.gather(1, position) * per_position == first) & (index == inside)
    taken = frames.gather(1, inside[..., None].expand(-1, -1, frames.size(2)))
    return torch.where(is_same[..., None], taken, SILENCE)


def _at_pitch(frames: Tensor, factor: Tensor) -> Tensor:
    """Stretch the bands of each frame, as another vocal tract does (Jaitly and Hinton 2013)."""
    mels = frames.size(-1)
    wanted = torch.arange(mels, device=frames.device) * factor[..., None]  # (B, T · F, mels)
    before = wanted.floor().clamp(0, mels - 1).long()
    lower, upper = frames.gather(-1, before), frames.gather(-1, (before + 1).clamp(max=mels - 1))
    return torch.lerp(lower, upper, (wanted - before).clamp(0, 1))


def _with_noise(frames: Tensor, level: Tensor) -> Tensor:
    """Add the power of noise at a level (B, T · F, 1) to that of each band."""
    unit = RANGE / 2 * math.log(10)  # of a spectrogram, in nats of power
    noise = level + 0.05 * torch.randn_like(frames)
    return torch.logaddexp(frames * unit, noise * unit) / unit
