"""The settings that a run takes over from its dataset: modalities and their geometry. Does not import torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from glassgpt.data.chat.dataset import row_problems as of_conversations
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.multimodal.config import MultimodalConfig, row_length_problem
from glassgpt.multimodal.dataset import MULTIMODAL_FILE, MultimodalSummary, is_multimodal
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


def row_problems(folder: Path, sequence_length: int) -> list[str]:
    """Return why the rows of a dataset have another length than the sequences to train on, if they do; text has no rows.

    Raises:
        DataError: the summary of the rows is damaged.
    """
    if not is_multimodal(folder):
        return of_conversations(folder, sequence_length)
    problem = row_length_problem(MultimodalSummary.read(folder / MULTIMODAL_FILE).row_length, sequence_length)
    return [problem] if problem else []
