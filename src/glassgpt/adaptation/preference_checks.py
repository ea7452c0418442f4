"""Check the settings of a run that is trained on preferences. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from glassgpt.model.lora_config import LoRAConfig
from glassgpt.training.config import TrainConfig
from glassgpt.training.preference_config import PreferenceConfig


def preference_problems(
    preference: PreferenceConfig, lora: LoRAConfig, train: TrainConfig, data: str, init_from: str
) -> list[str]:
    """Return one line for each setting that does not work with preferences, or is missing."""
    found: list[str] = []
    if not preference.data:
        return found
    if not Path(preference.data).is_file():
        found.append(
            f"preference.data is {preference.data}, which is not a file; give its location with --preference.data FILE"
        )
    if data:
        found.append("data cannot be combined with preference.data: a run is trained on text or on preferences")
    if not init_from:
        found.append("preference.data needs the run to start from; name it with --init-from RUN")
    if not lora.rank and not preference.reference:
        found.append(
            "preference.data needs a reference: train an adapter (--lora.rank 16), or add --preference.reference RUN"
        )
    if train.loss:
        found.append("train.loss cannot be combined with preference.data, which has a loss of its own; leave it out")
    if train.teacher:
        found.append("train.teacher cannot be combined with preference.data; choose one of them")
    if train.fp8 != "off":
        found.append(f"train.fp8 {train.fp8} cannot be combined with preference.data; set it to off")
    if train.sharding == "full":
        found.append("train.sharding full cannot be combined with preference.data; use none")
    if train.micro_batch_size == "auto":
        found.append("train.micro_batch_size auto cannot be combined with preference.data; set a number")
    return found
