"""Changes of colors and of light and dark in pictures."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from glassgpt.multimodal import image_augmentation
from glassgpt.multimodal.config import MultimodalConfig

STRONG = MultimodalConfig(augment_image=1.0, restyle_image=1.0)


def test_light_and_dark_are_exchanged_in_a_share_of_the_pictures():
    torch.manual_seed(0)
    x = torch.ones(400, 3, 4, 4)
    x[:, :, 1:3] = 0.0
    changed = image_augmentation.inverted(x, 0.25)
    is_changed = (changed != x).flatten(1).any(dim=1)
    assert 0.15 < is_changed.float().mean() < 0.35
    assert (changed[is_changed][:, :, 1:3] == 1).all()  # what was black is white, what was white has a color
    ground = changed[is_changed][:, :, 0, 0]
    assert ground.max() <= 0.8
    assert ground.std(dim=1).mean() > 0.1


def test_the_hue_is_kept_where_light_and_dark_are_exchanged(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_augmentation, "LIGHTEST_GROUND", 0.0)
    orange = torch.tensor([1.0, 0.6, 0.2]).view(1, 3, 1, 1)
    assert image_augmentation.inverted(orange, 1.0).flatten().tolist() == pytest.approx([0.8, 0.4, 0.0], abs=1e-6)


def colorfulness(pictures: Tensor) -> Tensor:
    """Return the mean difference of the channels of pictures (M, 3, S, S)."""
    return (pictures.amax(dim=1) - pictures.amin(dim=1)).mean(dim=(1, 2))


def test_colors_stay_while_shapes_and_brightness_change():
    torch.manual_seed(0)
    gray = torch.rand(64, 1, 16, 16).expand(-1, 3, -1, -1) * 2 - 1
    torch.manual_seed(1)
    colored = image_augmentation.augment_images(gray, STRONG)
    torch.manual_seed(1)
    kept = image_augmentation.augment_images(gray, dataclasses.replace(STRONG, recolor_image=0.0))
    assert (colorfulness(colored) > 0.2).float().mean() > 0.5
    assert (colorfulness(kept) < 0.1).float().mean() > 0.3  # noise and what covers a part are colored still
    assert colorfulness(kept).mean() < colorfulness(colored).mean() / 2
    assert (kept.mean(dim=1) - gray.mean(dim=1)).abs().mean() > 0.1


def test_an_exchange_alone_changes_pictures_and_weights_fit_other_changes():
    plain = MultimodalConfig(modalities="image", augment_image=0.0)
    assert not plain.changes_images
    assert dataclasses.replace(plain, invert_image=0.1).changes_images
    assert plain.difference(dataclasses.replace(plain, invert_image=0.1, recolor_image=0.5)) is None
    x = torch.rand(8, 3, 8, 8) * 2 - 1
    changed = image_augmentation.augment_images(x, dataclasses.replace(plain, invert_image=1.0))
    assert (changed - x).abs().flatten(1).amax(dim=1).min() > 0.1
    assert -1 <= changed.min() <= changed.max() <= 1


def test_invalid_changes_are_reported_together():
    problems = dataclasses.replace(STRONG, recolor_image=-1.0, invert_image=2.0).problems()
    assert problems == [
        "multimodal.recolor_image is -1.0; it must be between 0 and 2",
        "multimodal.invert_image is 2.0; it must be between 0 and 1",
    ]
