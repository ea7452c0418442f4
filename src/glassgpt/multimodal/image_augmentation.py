"""Random changes of pictures in training, on the device.

They are drawn from PyTorch's generator of the device, as dropout is. A checkpoint holds its state, so a resumed run draws
the same numbers. Each picture is changed independently; only the filters of `convolved` are shared by a batch.

Two strengths: `augment_image` changes where things are and how they are lit, as another photo of the same thing would;
`restyle_image` changes how they are drawn, as another artist would. Changes of style keep white, the background
of drawings. `recolor_image` scales how much both change colors, and leaves shapes and brightness as they are. Three settings
are shares: `filter_image` of the pictures that random filters change, `invert_image` of those whose light and dark are
exchanged, and `hide_patches` of the patches that are covered.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.multimodal.config import MultimodalConfig

TURN, SHEAR, SHRINK, GROW, ASPECT, SHIFT, BEND = math.radians(18), 0.2, 0.3, 0.15, 0.2, 0.1, 0.04
"""Largest geometric changes at strength 1: radians, shares of the size, and shares of the picture."""
BEND_CELLS = 4
HUE, SATURATION, CONTRAST, BRIGHTNESS, MIXING, GAMMA = 0.4, 0.6, 0.3, 0.2, 0.25, 0.35
"""Largest changes of color at strength 1; the hue in radians, the last two as standard deviations."""
COVERED, LARGEST_COVER = 0.4, 0.4
"""Share of the pictures that are partly covered, and largest side of what is covered, at strength 1."""
FILTERED, LIT, OUTLINED, BLURRED, FLATTENED, NOISY = 0.4, 0.4, 0.3, 0.5, 0.25, 0.3
REPAINTED, GRAYED, THICKENED, SIMPLIFIED = 0.25, 0.05, 0.4, 0.3
"""Shares of the pictures whose style is changed in each way, at strength 1."""
SHIFTED = 0.2
"""Largest change of a color of those that are repainted; with twice as many and 0.35, flags and hearts were confused."""
FILTERS, FILTER_SIZES = 8, (1, 3, 5, 7)
"""Filters of a batch, of which each picture that is filtered gets one, and their sizes in pixels."""
LIGHTEST_GROUND = 0.8
"""Largest value of a channel of what is black after light and dark are exchanged; white stays white."""
BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def augment_images(pictures: Tensor, config: MultimodalConfig) -> Tensor:
    """Return pictures (M, 3, S, S) from -1 to 1, each changed at random as configured."""
    place, style, colors = config.augment_image, config.restyle_image, config.recolor_image
    x = pictures / 2 + 0.5
    if config.flip_image:
        x = torch.where(_uniform(x, 0, 1) < 0.5, x.flip(-1), x)
    if place:
        x = moved(x, place)
    if style:
        x = filtered(simplified(thickened(x, style), style), style, colors)
        x = repainted(x, style * colors)
    if config.filter_image:
        x = convolved(x, config.filter_image)
    if place:
        x = recolored(x, place, style, colors)
    if style:
        x = lit(grayed(x, style * colors), style, colors)
        for change in (outlined, blurred_or_sharpened, flattened, with_noise):
            x = change(x, style)
    if config.invert_image:
        x = inverted(x, config.invert_image)
    if place:
        x = covered(x, place)
    if config.hide_patches:
        x = hidden(x, config.hide_patches, config.patch_size)
    return x * 2 - 1


def _uniform(x: Tensor, low: float, high: float) -> Tensor:
    """Return a number per picture, (M, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(x), 1, 1, 1, device=x.device)


def _some(x: Tensor, share: float) -> Tensor:
    """Return 1 for a share of the pictures and 0 for the others, (M, 1, 1, 1)."""
    return (_uniform(x, 0, 1) < share).float()


def _scaled_color(change: Tensor, colors: float) -> Tensor:
    """Return changes of channels (M, 3, …) whose differences between channels are scaled by `colors`."""
    return torch.lerp(change.mean(dim=1, keepdim=True).expand_as(change), change, colors)


def moved(x: Tensor, strength: float) -> Tensor:
    """Rotate, shear, scale, stretch, shift and warp each picture; areas beyond its edge repeat the edge."""
    chosen = _some(x, 0.8).flatten() * strength
    turn, shear = (_uniform(x, -most, most).flatten() * chosen for most in (TURN, SHEAR))
    scale = 1 / (1 + _uniform(x, -SHRINK, GROW).flatten() * chosen)
    stretch = (_uniform(x, -ASPECT, ASPECT).flatten() * chosen).exp()
    right, down = (_uniform(x, -2 * SHIFT, 2 * SHIFT).flatten() * strength for _ in range(2))
    cos, sin = turn.cos(), turn.sin()
    first = torch.stack((scale * stretch * cos, scale * stretch * (shear * cos - sin), right), dim=1)
    second = torch.stack((scale / stretch * sin, scale / stretch * (shear * sin + cos), down), dim=1)
    grid = F.affine_grid(torch.stack((first, second), dim=1), list(x.shape), align_corners=False)
    flow = torch.randn(len(x), 2, BEND_CELLS, BEND_CELLS, device=x.device) * _uniform(x, 0, 2 * BEND) * strength
    bent = F.interpolate(flow, size=x.shape[2:], mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid + bent, mode="bilinear", padding_mode="border", align_corners=False)


def recolored(x: Tensor, strength: float, style: float = 0.0, colors: float = 1.0) -> Tensor:
    """Turn the hue of each picture, change saturation, contrast and brightness, and with `style` mix its channels.

    `colors` scales all but contrast and brightness.
    """
    count, chosen = len(x), _some(x, 0.8).view(-1, 1, 1) * strength
    angle = _uniform(x, -HUE, HUE).view(-1, 1, 1) * chosen * colors
    eye, gray = torch.eye(3, device=x.device), torch.full((3, 3), 1 / 3, device=x.device)
    # Colors turn around the axis from black to white (Rodrigues); `across` is the cross product with that axis.
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=x.device) / math.sqrt(3)
    turned = angle.cos() * eye + angle.sin() * across + (1 - angle.cos()) * gray
    saturation = 1 + _uniform(x, -SATURATION, SATURATION).view(-1, 1, 1) * chosen * colors
    matrix = (saturation * eye + (1 - saturation) * gray) @ turned
    matrix = matrix * (1 + _uniform(x, -CONTRAST, CONTRAST).view(-1, 1, 1) * chosen)
    if style:
        mixing = torch.randn(count, 3, 3, device=x.device) * _uniform(x, 0, MIXING).view(-1, 1, 1) * style
        matrix = matrix + mixing * colors
    ink = torch.einsum("mij,mjhw->mihw", matrix, 1 - x).clamp(0, 1)  # what is not white
    if style:
        gamma = _scaled_color(torch.randn(count, 3, 1, 1, device=x.device), colors)
        ink = ink ** (gamma * GAMMA * style).exp()
        return 1 - ink
    return (1 - ink + _uniform(x, -BRIGHTNESS, BRIGHTNESS) * strength).clamp(0, 1)


def filtered(x: Tensor, strength: float, colors: float = 1.0) -> Tensor:
    """Add to some pictures what a random filter makes of them (Xu et al. 2021); `colors` scales what it does to colors."""
    weights = torch.randn(len(x), 3, 27, device=x.device) * 0.4 / 3
    # One product per picture: a convolution in as many groups as there are pictures is slow on GPUs.
    seen = F.unfold(F.pad(1 - x, (1, 1, 1, 1), mode="replicate"), 3)  # (M, 27, S²)
    changed = (1 - x + _scaled_color((weights @ seen).view_as(x), colors)).clamp(0, 1)
    return torch.lerp(x, 1 - changed, _some(x, FILTERED * strength) * _uniform(x, 0, 1))


def convolved(x: Tensor, share: float) -> Tensor:
    """Mix a share of the pictures with what a random filter makes of them, whose size is random too (Xu et al. 2021).

    Unlike `filtered`, it may remove all colors and blur; negative values become their absolute values.
    """
    reach = max(FILTER_SIZES) // 2
    place = torch.arange(-reach, reach + 1, device=x.device).abs()
    sizes = torch.tensor(FILTER_SIZES, device=x.device)[torch.randint(len(FILTER_SIZES), (FILTERS,), device=x.device)]
    inside = torch.maximum(place[:, None], place) <= sizes.view(-1, 1, 1, 1, 1) // 2  # (F, 1, 1, 7, 7)
    weights = torch.randn(FILTERS, 3, 3, *inside.shape[-2:], device=x.device) * inside
    weights = weights / (math.sqrt(3) * sizes.view(-1, 1, 1, 1, 1))
    # Every filter on every picture is quicker than a convolution in as many groups as there are pictures.
    ink = F.pad(1 - x, (reach, reach, reach, reach), mode="replicate")
    seen = F.conv2d(ink, weights.flatten(0, 1)).unflatten(1, (FILTERS, 3))  # (M, F, 3, S, S)
    chosen = torch.randint(FILTERS, (len(x),), device=x.device)
    seen = seen[torch.arange(len(x), device=x.device), chosen]
    mixed = torch.lerp(seen, 1 - x, _uniform(x, 0, 1)).abs().clamp(max=1)
    return torch.lerp(x, 1 - mixed, _some(x, share))


def repainted(x: Tensor, strength: float) -> Tensor:
    """Give the colors of some pictures other colors, each by itself: what is red may become orange and what is blue stay blue."""
    ink = 1 - x
    turns, start = (
        torch.randn(len(x), 3, 3, device=x.device) * 4,
        torch.rand(len(x), 3, 1, 1, device=x.device) * math.tau,
    )
    shift = (torch.einsum("mij,mjhw->mihw", turns, ink) + start).sin() * _uniform(x, 0, SHIFTED)
    is_ink = (4 * ink.amax(dim=1, keepdim=True)).clamp(max=1)
    return 1 - (ink + shift * is_ink * _some(x, REPAINTED * strength)).clamp(0, 1)


def grayed(x: Tensor, strength: float) -> Tensor:
    """Take the color from some pictures."""
    return torch.lerp(x, x.mean(dim=1, keepdim=True), _some(x, GRAYED * strength))


def inverted(x: Tensor, share: float) -> Tensor:
    """Exchange light and dark in a share of the pictures, and give what becomes dark a color, as on a button or at night.

    The lightness (HSL) is exchanged, which keeps the hue: black lines on white become white on a color, red stays reddish.
    """
    most, least = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    ink = 1 - (x + 1 - most - least)
    ink = ink * (1 - torch.rand(len(x), 3, 1, 1, device=x.device) * LIGHTEST_GROUND)
    return torch.lerp(x, 1 - ink, _some(x, share))


def thickened(x: Tensor, strength: float) -> Tensor:
    """Make what is dark thicker in some pictures, and thinner in others."""
    amount = _uniform(x, -1, 1) * _some(x, THICKENED * strength)
    darkest, lightest = -F.max_pool2d(-x, 3, 1, 1), F.max_pool2d(x, 3, 1, 1)
    return torch.lerp(x, torch.where(amount > 0, darkest, lightest), amount.abs())


def simplified(x: Tensor, strength: float) -> Tensor:
    """Leave the details out of some pictures and keep their edges, as a brush does (Kuwahara et al. 1976).

    Of the four squares that have a pixel as a corner, it gets the mean of the one whose pixels differ least.
    """
    size = x.size(-1)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    mean = F.avg_pool2d(padded, 3, 1)  # (M, 3, S + 2, S + 2)
    variance = (F.avg_pool2d(padded.square(), 3, 1) - mean.square()).sum(dim=1, keepdim=True)
    best, least = x, torch.full_like(x[:, :1], math.inf)
    for top, left in ((0, 0), (0, 2), (2, 0), (2, 2)):
        corner = (slice(None), slice(None), slice(top, top + size), slice(left, left + size))
        best = torch.where(variance[corner] < least, mean[corner], best)
        least = torch.minimum(variance[corner], least)
    return torch.lerp(x, best, _some(x, SIMPLIFIED * strength))


def lit(x: Tensor, strength: float, colors: float = 1.0) -> Tensor:
    """Shade some pictures smoothly, as drawings with gradients are; `colors` scales how colored the light is."""
    field = F.interpolate(
        torch.randn(len(x), 3, 3, 3, device=x.device), size=x.shape[2:], mode="bicubic", align_corners=True
    )
    amount = _uniform(x, 0, 0.4) * _some(x, LIT * strength)
    return (
        1 - (1 - x) * (1 + amount * (1.5 * field.mean(dim=1, keepdim=True) + 0.3 * _scaled_color(field, colors)))
    ).clamp(0, 1)


def outlined(x: Tensor, strength: float) -> Tensor:
    """Draw dark lines in some pictures where the brightness changes."""
    gray = F.pad(x.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across, along = gray[:, :, 1:-1, 2:] - gray[:, :, 1:-1, :-2], gray[:, :, 2:, 1:-1] - gray[:, :, :-2, 1:-1]
    edges = (across.square() + along.square() + 1e-6).sqrt().clamp(0, 1)
    return x * (1 - _uniform(x, 0, 2) * _some(x, OUTLINED * strength) * edges).clamp(0, 1)


def blurred_or_sharpened(x: Tensor, strength: float) -> Tensor:
    """Blur some pictures, and sharpen others."""
    kernel = torch.tensor(BLUR, device=x.device, dtype=x.dtype)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(padded, kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5), groups=3)
    blurred = F.conv2d(blurred, kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1), groups=3)
    return torch.lerp(x, blurred, _uniform(x, -1.5, 1) * _some(x, BLURRED * strength)).clamp(0, 1)


def flattened(x: Tensor, strength: float) -> Tensor:
    """Fill some pictures with few levels per channel, as flat drawings have them; white stays white."""
    levels = _uniform(x, 2, 8)
    flat = 1 - (((1 - x) * levels + _uniform(x, -0.3, 0.3)).round() / levels).clamp(0, 1)
    return torch.lerp(x, flat, _some(x, FLATTENED * strength))


def with_noise(x: Tensor, strength: float) -> Tensor:
    """Add noise to some pictures."""
    return (x + torch.randn_like(x) * _uniform(x, 0, 0.1) * _some(x, NOISY * strength)).clamp(0, 1)


def covered(x: Tensor, strength: float) -> Tensor:
    """Cover a rectangle of some pictures with a color (Cutout, DeVries and Taylor 2017)."""
    size, chosen = x.size(-1), _some(x, COVERED * strength)
    place = torch.arange(size, device=x.device) + 0.5
    top, left = (_uniform(x, 0, size) for _ in range(2))
    height, width = (_uniform(x, 0.1, LARGEST_COVER) * size / 2 * chosen for _ in range(2))
    inside = ((place[:, None] - top).abs() < height) & ((place - left).abs() < width)  # (M, 1, S, S)
    return torch.where(inside, torch.rand(len(x), 3, 1, 1, device=x.device), x)


def hidden(x: Tensor, most: float, patch_size: int) -> Tensor:
    """Cover patches of each picture with a color, a random share of them (Singh and Lee 2017).

    Args:
        x: (M, 3, S, S).
        most: largest share.
        patch_size: width and height of a patch, in pixels.
    """
    side = x.size(-1) // patch_size
    is_hidden = torch.rand(len(x), 1, side, side, device=x.device) < _uniform(x, 0, most)
    is_hidden = is_hidden.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return torch.where(is_hidden, torch.rand(len(x), 3, 1, 1, device=x.device), x)
