"""Text to calibrate a compression on."""

from __future__ import annotations

import torch
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import WrongDataError

SEED = 0


def calibration_windows(dataset: TokenDataset, context_length: int, tokens: int) -> Tensor:
    """Return windows of the training text, spread over all of it: (N, context_length) int64, N at least 1.

    Args:
        dataset: its `train` split is read.
        context_length: tokens per window.
        tokens: tokens of all windows together, rounded to whole windows.

    Raises:
        DataError: the text is shorter than one window.
        WrongDataError: the dataset is of another kind, whose rows are no windows of a text.
    """
    text = dataset.split("train")
    if text.row_length:
        raise WrongDataError(
            f"{dataset.folder} holds {rows_in(dataset.folder) or 'preferences'}; give a dataset of text"
        )
    batches = Batches(text, context_length, SEED)
    windows, _ = batches.next(max(1, min(round(tokens / context_length), batches.windows_per_epoch)))
    return torch.as_tensor(windows)
