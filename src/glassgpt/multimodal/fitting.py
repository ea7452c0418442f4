"""The settings that a run takes over from its dataset, and those that do not fit it. Does not import torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from glassgpt.data.chat.dataset import row_problems as of_conversations
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.multimodal.alignment import NO_SOUNDS, alignment_problem
from glassgpt.multimodal.config import MultimodalConfig, row_length_problem
from glassgpt.multimodal.dataset import MULTIMODAL_FILE, MultimodalDataset, MultimodalSummary, is_multimodal
from glassgpt.multimodal.image_files import Fit
from glassgpt.multimodal.media import MODALITIES


def fitted(config: MultimodalConfig, folder: Path) -> MultimodalConfig:
    """Return the settings for a dataset, of text or of documents with media.

    Raises:
        DataError: the summary of the documents is damaged.
    """
    if not is_multimodal(folder):
        return replace(config, modalities="")
    summary = MultimodalSummary.read(folder / MULTIMODAL_FILE)
    names = tuple(name for name in MODALITIES if summary.train.media.get(name))
    fit = DatasetSummary.read(folder / SUMMARY_FILE).options.get("fit", config.fit)
    return config.fitted(names, summary.geometry, fit if fit in get_args(Fit) else config.fit)


def data_problems(config: MultimodalConfig, folder: Path, sequence_length: int) -> list[str]:
    """Return what does not fit a dataset: the length of its rows, if it has any, and the loss of the positions of sounds.

    Args:
        config: the settings.
        folder: of the dataset.
        sequence_length: positions of the sequences to train on.

    Raises:
        DataError: the dataset is damaged.
    """
    if not is_multimodal(folder):
        return of_conversations(folder, sequence_length) + ([NO_SOUNDS] if config.ctc_weight else [])
    summary = MultimodalSummary.read(folder / MULTIMODAL_FILE)
    problems = (
        row_length_problem(summary.row_length, sequence_length),
        _unlearned_problem(summary),
        alignment_problem(MultimodalDataset.open(folder)) if config.ctc_weight else None,
    )
    return [problem for problem in problems if problem]


def is_augmented(config: MultimodalConfig, folder: Path) -> bool:
    """Return whether a dataset's documents have a picture or a sound each that training changes at random.

    Raises:
        DataError: the summary of the documents is damaged.
    """
    if not is_multimodal(folder):
        return False
    train = MultimodalSummary.read(folder / MULTIMODAL_FILE).train
    return sum(train.media.get(name, 0) for name in config.changed) >= train.documents


def _unlearned_problem(summary: MultimodalSummary) -> str | None:
    """Return a problem if only the validation split has a modality, for which no encoder would be learned."""
    for name in MODALITIES:
        if summary.validation.media.get(name) and not summary.train.media.get(name):
            return (
                f"the validation documents have media of the kind {name}, of which the training documents have none; prepare more "
                "of them, or name the data to validate on with --validation-source"
            )
    return None
