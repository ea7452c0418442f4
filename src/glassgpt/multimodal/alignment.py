"""Transcripts of the sounds of documents, and a check that there are enough positions for them. Does not import torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.shards import TokenDataset
from glassgpt.multimodal.dataset import MEDIA, STARTS, SUPERVISED, MultimodalDataset

SURVEYED_ROWS = 2_048
"""Rows of the training split by which it is decided whether texts are too long for their sounds."""
MOST_SKIPPED = 0.1
"""Share of the documents whose text may be too long."""
NO_SOUNDS = "multimodal.ctc_weight is for sounds, of which the dataset has none; set it to 0"


class SpokenTexts(NamedTuple):
    """The documents of a batch that have sounds and learned text, of which N can be aligned.

    Attributes:
        places: indices of the positions of their sounds in the batch, (M,) int64, in order.
        lengths: number of these of each document, (N,) int64.
        labels: ids of their text, (N, L) int64; what is beyond a text is 0.
        label_lengths: length of each text, (N,) int64.
        skipped: documents whose text is too long for their sounds.
    """

    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    label_lengths: NDArray[np.int64]
    skipped: int


def spoken_texts(
    heard: NDArray[np.bool_], ids: NDArray[np.int64], starts: NDArray[np.bool_], special_ids: Collection[int] = ()
) -> SpokenTexts:
    """Return the texts of a batch that its sounds say; of a document with several sounds, all of them say it together.

    Args:
        heard: (B, T), True at positions of sounds.
        ids: (B, T), the tokens that are learned; negative elsewhere.
        starts: (B, T), True where a document begins, and at the beginning of each row.
        special_ids: ids that are no text, such as that of the end-of-text token.
    """
    document = starts.ravel().cumsum() - 1
    n_documents = int(document[-1]) + 1
    places = np.flatnonzero(heard)
    said = np.flatnonzero((ids >= 0) & ~np.isin(ids, list(special_ids)))
    own, of_text = ids.ravel()[said], document[said]
    # A token that follows an equal one needs a blank before it.
    repeats = np.zeros(len(own), dtype=bool)
    repeats[1:] = (own[1:] == own[:-1]) & (of_text[1:] == of_text[:-1])
    lengths = np.bincount(document[places], minlength=n_documents)
    label_lengths = np.bincount(of_text, minlength=n_documents)
    needed = label_lengths + np.bincount(of_text[repeats], minlength=n_documents)
    spoken = (lengths > 0) & (label_lengths > 0)
    fits = spoken & (needed <= lengths)
    columns = np.arange(len(said)) - (label_lengths.cumsum() - label_lengths)[of_text]
    labels = np.zeros((n_documents, int(label_lengths.max(initial=0))), dtype=np.int64)
    labels[of_text, columns] = own
    return SpokenTexts(
        places[fits[document[places]]], lengths[fits], labels[fits], label_lengths[fits], int((spoken & ~fits).sum())
    )


def alignment_problem(dataset: MultimodalDataset) -> str | None:
    """Return why positions of sounds cannot say the text of a dataset, or None if they can.

    Args:
        dataset: of which evenly spaced rows of the training split are read.
    """
    begin = dataset.multimodal.begin.get("audio")
    if begin is None or not dataset.multimodal.train.media.get("audio"):
        return NO_SOUNDS
    rows, stored = dataset.split("train"), TokenDataset.split(dataset, "train")
    n_rows = len(rows) // rows.row_length
    chosen = np.unique(np.linspace(0, n_rows - 1, min(n_rows, SURVEYED_ROWS)).astype(np.int64)) * rows.row_length
    raw = np.stack([stored.read(int(start), rows.row_length) for start in chosen])
    flags = np.stack([rows.flags(int(start), rows.row_length) for start in chosen])
    starts = flags & STARTS > 0
    starts[:, 0] = True
    special_ids = dataset.tokenizer.special_tokens.values()
    texts = spoken_texts(
        (flags & MEDIA > 0) & (raw == begin), np.where(flags & SUPERVISED > 0, raw, -1), starts, special_ids
    )
    total = texts.skipped + len(texts.lengths)
    if texts.skipped <= MOST_SKIPPED * total and total:
        return None
    if not total:
        return "multimodal.ctc_weight needs documents with sounds and learned text, of which the dataset has none; set it to 0"
    return (
        f"multimodal.ctc_weight needs a position of sound for each token, but {texts.skipped / total:.0%} of the documents have "
        f"more tokens; prepare them with fewer --frames-per-position (now {dataset.geometry.frames_per_position}), a shorter --hop, "
        "or a larger vocabulary"
    )
