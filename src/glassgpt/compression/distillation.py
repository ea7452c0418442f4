"""The settings of training that a compressed model is trained with. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.data.folder_kinds import rows_in
from glassgpt.errors import UsageError
from glassgpt.model.config import SHAPE_FIELDS, ModelConfig
from glassgpt.training.config import TrainConfig

MAX_STEPS = 1000
WARMUP_STEPS = 20
MAX_DROPOUT = 0.1
"""Dropout, unless the original was trained with less: measured with `textbooks-124m`, whose own is 0.4 (docs/log.md)."""
RATE_RATIO = 0.5
"""Learning rate over the original's: the weights are trained already."""
CHUNK_TOKENS = 8192
"""Tokens whose logits, of both models, are held at once: 1.6 GB each at GPT-2's vocabulary."""


def training_settings(
    run: Path,
    data: Path,
    methods: Sequence[CompressionMethod],
    model: ModelConfig,
    train: TrainConfig,
    overrides: Mapping[str, Any],
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Return the settings, by dotted name, that differ from those that the original was trained with.

    With little dropout, all tokens and without weight averages: the teacher's probabilities are a smoother target than the text.

    Args:
        run: the original.
        data: the dataset.
        methods: what makes the model smaller.
        model: the shape of the original.
        train: what the original was trained with.
        overrides: settings that the user changes.
        checkpoint: of the original.

    Raises:
        UsageError: one of them is not the user's to change, or the checkpoint is not the best.
    """
    if checkpoint != "best":
        raise UsageError(f"--checkpoint is {checkpoint}, but a model learns from the best; leave it out")
    check_overrides(overrides)
    for method in methods:
        model = method.shrunk(model)
    shape = asdict(model)
    return {
        **{f"model.{name}": shape[name] for name in SHAPE_FIELDS},
        "model.dropout": min(model.dropout, MAX_DROPOUT),
        "model.token_dropout": 0.0,
        "data": str(data.absolute()),
        "init_from": "",
        "lora.rank": 0,
        "replay.data": "",
        "preference.data": "",
        "preference.reference": "",
        "train.teacher": str(run.absolute()),
        "train.max_steps": MAX_STEPS,
        "train.learning_rate": train.learning_rate * RATE_RATIO,
        "train.loss_chunk_tokens": CHUNK_TOKENS,
        "train.ema_decay": 0.0,
        "schedule.kind": "cosine",
        "schedule.warmup_steps": WARMUP_STEPS,
        "schedule.final_ratio": 0.0,
        **{name.replace("-", "_"): value for name, value in overrides.items()},
    }


def require_text(data: Path) -> None:
    """Check that a dataset is one that a model can learn another one's predictions of.

    Raises:
        UsageError: it consists of conversations, or of documents with media.
    """
    if rows := rows_in(data):
        raise UsageError(
            f"{data} holds {rows}, but a smaller model learns from text; add --data DIR with text, "
            f"and fine-tune the result on these"
        )


def check_overrides(names: Iterable[str]) -> None:
    """Check that settings which the user changes are not those that the compression decides.

    Raises:
        UsageError: names the first that is.
    """
    decided = {f"model.{name}" for name in SHAPE_FIELDS} | {"data", "init_from", "train.teacher"}
    for name in names:
        if name.replace("-", "_") in decided:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot be set here: it follows from the run that is compressed"
            )


def require_student(teacher: str, run: Path, out: Path) -> None:
    """Check that a run to resume is one that is trained to predict what `run` predicts.

    Raises:
        UsageError: it is not.
    """
    if not teacher or Path(teacher).resolve() != run.resolve():
        taught = f"its teacher is {teacher}" if teacher else "it has no teacher"
        raise UsageError(f"{out} is not a compressed {run} in training: {taught}; start a new one without --resume")
