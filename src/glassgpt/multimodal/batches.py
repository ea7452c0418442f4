"""Batches of multimodal documents; `multimodal/inputs.py` describes their layout."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import build_batches
from glassgpt.data.chat.batches import row_targets
from glassgpt.data.row_batches import RowBatches, row_starts
from glassgpt.data.shards import Split, TokenDataset
from glassgpt.data.threads import worker_threads
from glassgpt.data.token_view import TokenView
from glassgpt.data.validation import validation_windows
from glassgpt.data.verification import other_files
from glassgpt.device import free_memory
from glassgpt.diagnosis.checks.data import counted_tokens
from glassgpt.errors import DataError
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.config import MultimodalConfig, row_length_problem
from glassgpt.multimodal.dataset import SUPERVISED, MultimodalDataset, MultimodalTokens
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.loss import multimodal_loss
from glassgpt.multimodal.media import MediaItem
from glassgpt.multimodal.validation import SpeechValidator
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.losses import build_loss
from glassgpt.training.trainable import TrainableModel
from glassgpt.training.validation import Validator, build_validator

LEAST_KEPT, MOST_KEPT, KEPT_SHARE = 1 << 30, 8 << 30, 1 / 16
"""Bytes of payloads that the processes of a machine keep for the next epoch together, and their share of the free memory: a
spectrogram takes 25 times as long to compute as to copy. A gigabyte holds 23 hours of sound."""
PROCESSES_VARIABLE = "LOCAL_WORLD_SIZE"
"""Environment variable in which torchrun gives the number of its processes on this machine."""


def kept_bytes_of_a_process() -> int:
    """Return the bytes of payloads that this process may keep, one of those that torchrun started on this machine."""
    share = int((free_memory(torch.device("cpu")) or 0) * KEPT_SHARE)
    processes = os.environ.get(PROCESSES_VARIABLE, "")
    return min(MOST_KEPT, max(LEAST_KEPT, share)) // max(1, int(processes) if processes.isdecimal() else 1)


class Payloads:
    """Bytes of media at their positions; safe in several threads.

    Nothing is evicted: each epoch reads every medium once, in a new random order, so evicting the oldest would discard most of
    the bytes that the next epoch needs.

    Args:
        config: the settings.
        kept_bytes: bytes of payloads that are kept; None takes a share of the memory.
    """

    def __init__(self, config: MultimodalConfig, kept_bytes: int | None = None) -> None:
        self.config = config
        self._free = kept_bytes_of_a_process() if kept_bytes is None else kept_bytes
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def of_many(self, media: Sequence[tuple[MediaItem, int]]) -> list[NDArray[np.uint8]]:
        """Return the bytes of several media; those of sounds that are not kept are computed by several threads."""
        missing = {number: item for item, number in media if item.modality != "image" and number not in self._kept}
        if len(missing) < 2:
            return [self.of(item, number) for item, number in media]
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(worker_threads())
        computed = dict(
            zip(missing, self._pool.map(partial(payload_of, config=self.config), missing.values()), strict=True)
        )
        found = [computed[number] if number in computed else self.of(item, number) for item, number in media]
        for number, payload in computed.items():
            self._keep(number, payload)
        return found

    def of(self, item: MediaItem, number: int) -> NDArray[np.uint8]:
        """Return the bytes of a medium of the dataset, (positions, bytes) uint8.

        Args:
            item: the medium.
            number: what identifies it.
        """
        if (found := self._kept.get(number)) is not None:
            return found
        payload = payload_of(item, self.config)
        if item.modality != "image":  # which is as fast as a copy
            self._keep(number, payload)
        return payload

    def _keep(self, number: int, payload: NDArray[np.uint8]) -> None:
        with self._lock:
            if number not in self._kept and payload.nbytes <= self._free:
                self._kept[number] = payload
                self._free -= payload.nbytes


class RowReader:
    """Reads rows as inputs and targets.

    Args:
        tokens: the rows.
        payloads: of the dataset's media.
    """

    def __init__(self, tokens: MultimodalTokens, payloads: Payloads) -> None:
        self._tokens, self._words = tokens, payload_words(payloads.config)
        self._payloads = payloads

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the inputs (B, T, 1 + W) and targets (B, T) of the rows that begin there; see `row_targets`."""
        tokens, length = self._tokens, self._tokens.row_length
        ids = np.stack([tokens.read(int(start), length) for start in starts])
        flags = np.stack([tokens.flags(int(start), length) for start in starts])
        media = [tokens.media(int(start)) for start in starts]
        numbers = [number for start in starts for number in tokens.media_numbers(int(start))]
        items = [item for of_row in media for _, item in of_row]
        payloads = iter(self._payloads.of_many(list(zip(items, numbers, strict=True))))
        inputs = np.stack(
            [
                assemble(row[:-1], [(first, item, next(payloads)) for first, item in of_row], self._words)
                for row, of_row in zip(ids, media, strict=True)
            ]
        )
        return torch.from_numpy(inputs), torch.from_numpy(row_targets(ids, flags))


class EncodedTokens(TokenView):
    """The rows of one split, with what makes bytes of media.

    Args:
        rows: the rows.
        payloads: of the dataset's media.
        special_ids: ids of the special tokens, which no sound says.
    """

    def __init__(self, rows: MultimodalTokens, payloads: Payloads, special_ids: Collection[int] = ()) -> None:
        super().__init__(rows)
        self.special_ids = special_ids
        self.row_length, self.supervised_share = rows.row_length, rows.supervised_share
        self.reader = RowReader(rows, payloads)
        self._rows = rows

    def learned(self) -> NDArray[np.int64]:
        """Return the tokens that are learned, in order."""
        rows = self._rows
        return rows.read(0, len(rows))[rows.flags(0, len(rows)) & SUPERVISED > 0]


class EncodedDataset(TokenDataset):
    """A dataset of documents with media, to be trained on.

    Args:
        dataset: the dataset.
        config: the settings by which media become bytes.

    Attributes:
        multimodal: see `MultimodalDataset`, as is `store`.
        store: the media.
    """

    def __init__(self, dataset: MultimodalDataset, config: MultimodalConfig) -> None:
        super().__init__(dataset.folder, dataset.info, dataset.headers)
        self._dataset, self.multimodal = dataset, dataset.multimodal
        self._payloads = Payloads(config)  # of all splits, whose media have numbers of the same store
        self.store = dataset.store

    def split(self, name: Split) -> EncodedTokens:
        """Return the rows of one split."""
        special_ids = self._dataset.tokenizer.special_tokens.values()
        return EncodedTokens(self._dataset.split(name), self._payloads, tuple(special_ids))

    def verify(self) -> None:
        """See `MultimodalDataset.verify`."""
        self._dataset.verify()


@other_files.register
def _(dataset: EncodedDataset) -> Mapping[str, str]:
    return dataset.multimodal.files


class EncodedBatches(RowBatches):
    """A stream of rows: each epoch is a seeded permutation of them; see `Batches`.

    Args:
        tokens: the rows.
        context_length: positions of a training sequence, for which the rows must have been packed.
        seed: determines every permutation.
        rank: see `Batches`, as is `world_size`.

    Raises:
        DataError: the rows have another length.
    """

    def __init__(
        self, tokens: EncodedTokens, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        _require_length(tokens, context_length)
        super().__init__(tokens, context_length, seed, rank=rank, world_size=world_size)
        self._rows = tokens

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs (B, T, 1 + W) and targets (B, T) of the given rows; see `RowReader`."""
        return self._rows.reader.read(starts)


@validation_windows.register
def encoded_rows_in_order(
    tokens: EncodedTokens, context_length: int, *, batch_size: int = 1, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows in order; see `validation_windows`.

    Raises:
        DataError: they have another length.
    """
    _require_length(tokens, context_length)
    for starts in row_starts(tokens, context_length, batch_size, limit):
        yield tokens.reader.read(starts)


def _require_length(tokens: EncodedTokens, length: int) -> None:
    if problem := row_length_problem(tokens.row_length, length):
        raise DataError(problem)


build_batches.register(EncodedTokens, EncodedBatches)


@build_loss.register
def _(tokens: EncodedTokens, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    return multimodal_loss(model, config, tokens.supervised_share, tokens.special_ids)


@build_validator.register
def _(held_out: EncodedTokens, trained: TrainableModel, dataset: TokenDataset, train: TrainConfig) -> Validator:
    kind = SpeechValidator if "ctc_loss" in trained.loss.metric_names else Validator
    return kind(held_out, trained, dataset, train)


@counted_tokens.register
def _(tokens: EncodedTokens, max_tokens: int) -> NDArray[np.int64]:
    return tokens.learned()[:max_tokens]
