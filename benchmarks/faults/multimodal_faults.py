"""Faults of pictures and sound, and healthy training runs with them. The datasets are those of the tests of multimodal data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.image import ImageEncoder

from .case import Fault, Healthy
from .datasets import ROOT, MakeDataset

sys.path.insert(0, str(ROOT / "tests" / "multimodal"))

import media_faults as datasets

SETTINGS = {
    "model.context_length": 64,
    "model.n_layer": 2,
    "model.n_head": 2,
    "model.n_embd": 32,
    "train.batch_tokens": 512,
    "train.max_steps": 150,
    "train.eval_every_steps": 50,
    "train.learning_rate": 5e-3,
    "schedule.warmup_steps": 15,
    "multimodal.mels": 16,
    "multimodal.augment_image": 0.2,
    "multimodal.augment_audio": 0.0,
}


def _inside(make: MakeDataset) -> MakeDataset:
    """Return a function that makes a dataset in a folder that does not exist yet."""

    def made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return make(folder / "data")

    return made


def patches_by_column(data: Any, config: MultimodalConfig, original: Any = ImageEncoder.payload) -> Any:
    """Return the patches of a picture from top to bottom first, which is the wrong order."""
    side = config.image_size // config.patch_size
    patches = original(data, config).reshape(side, side, -1).swapaxes(0, 1)
    return np.ascontiguousarray(patches).reshape(side * side, -1)


def _fault(name: str, what: str, make: MakeDataset, code: str, *, fatal: bool = True, **more: Any) -> Fault:
    return Fault(
        name=f"media-{name}", what=what, kind="pictures and sound", stage=more.pop("stage", "before"), fatal=fatal,
        dataset=_inside(make), settings=SETTINGS, expects=(code,), **more,
    )  # fmt: skip


MEDIA_FAULTS: Sequence[Fault] = (
    _fault("positions-off-by-one", "every medium begins one position early", datasets.positions_off_by_one, "GG-MED-001"),
    _fault("texts-equal", "every picture and sound has the same text", datasets.equal_texts, "GG-MED-002"),
    _fault("answers-leaked", "prompts hold the file's name, which is the answer", datasets.leaked, "GG-MED-003"),
    _fault("blank", "four of five pictures and sounds are blank", datasets.blank, "GG-MED-004"),
    _fault("low-rate", "sound of half the rate, resampled", datasets.low_rate, "GG-MED-006", fatal=False),
    _fault("shared", "the validation split is trained on", datasets.shared_media, "GG-MED-007"),
    _fault("pictures-mixed-up", "pictures and their texts are shuffled", datasets.mixed_up, "GG-MED-008", fatal=False, stage="after"),
    _fault(
        "patches-by-column", "a bug orders patches by column", datasets.many, "GG-MED-010", stage="after",
        patches=(("glassgpt.multimodal.image", "ImageEncoder.payload", staticmethod(patches_by_column)),),
    ),
)  # fmt: skip
MEDIA_HEALTHY: Sequence[Healthy] = tuple(
    Healthy(
        name=f"media-seed-{seed}", what=f"names of pictures and sounds, seed {seed}", dataset=_inside(datasets.many),
        settings=SETTINGS | {"seed": seed},
    )
    for seed in (11, 12, 13)
)  # fmt: skip
