"""Faults of the text, its tokens, and the batches made from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fault_helpers import poison_window
from glassgpt.data.batches import Batches
from glassgpt.training.loop import Trainer

from . import datasets
from .case import Fault, Patch

Tokens = NDArray[np.int64]


def batches_from(kind: type[Batches]) -> tuple[Patch, ...]:
    """Replace the program's class of batches."""
    return tuple(
        (module, "build_batches", kind) for module in ("glassgpt.training.trainable", "glassgpt.diagnosis.doctor")
    )


class _TwoAhead(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        return inputs, targets.roll(-1, dims=1)


class _NotShifted(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, _ = super().read(starts)
        return inputs, inputs.clone()


class _NeighborTargets(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        return inputs, targets.roll(1, dims=0)


class _SomeWrong(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        targets[:, ::3] = targets.flip(1)[:, ::3]
        return inputs, targets


class _SameWindow(Batches):
    def starts_at(self, position: int, batch_size: int) -> Tokens:
        return np.repeat(super().starts_at(position, batch_size)[:1], batch_size)


class _SameBatch(Batches):
    def starts_at(self, position: int, batch_size: int) -> Tokens:
        return super().starts_at(0, batch_size)


class _FileOrder(Batches):
    def _shuffled_starts(self, epoch: int) -> Tokens:
        return np.sort(super()._shuffled_starts(epoch))


class _Scrambled(Batches):
    """Shuffles the tokens of each window, as a wrong reshape does."""

    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        whole = torch.cat([inputs, targets[:, -1:]], dim=1)
        order = torch.randperm(whole.size(1), generator=torch.Generator().manual_seed(int(starts.sum()) % 2**31))
        whole = whole[:, order]
        return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()


def nan_sequences(*places: tuple[int, int]) -> Any:
    """Make the sequences at these (step, row) of the batches produce NaN, wherever they occur again."""

    def inject(trainer: Trainer) -> None:
        for step, row in places:
            poison_window(trainer, step, row)

    return inject


def _out_of_range(tokens: Tokens) -> Tokens:
    changed = tokens.copy()
    changed[:: len(tokens) // 50] = 40_000
    return changed


def _one_out_of_range(tokens: Tokens) -> Tokens:
    changed = tokens.copy()
    changed[len(tokens) // 3] = 257
    return changed


def _noise(tokens: Tokens) -> Tokens:
    return np.random.default_rng(0).integers(1, 256, len(tokens))


def _mostly_padding(tokens: Tokens) -> Tokens:
    changed = tokens.copy()
    changed[len(tokens) // 5 :] = 32
    return changed


def _leaked(share: float) -> datasets.MakeDataset:
    def make(folder: Path) -> Path:
        held_out = datasets.held_out_text()
        known = held_out[: int(share * len(held_out))]
        return datasets.prepared(folder, datasets.training_text() + known, held_out)

    return make


def _twice(folder: Path) -> Path:
    text = datasets.training_text()
    return datasets.prepared(folder, text + text, datasets.held_out_text())


def _few_pages_often(folder: Path) -> Path:
    return datasets.prepared(folder, datasets.grammar_text(300, datasets.SEED) * 20, datasets.held_out_text())


def _another_kind(folder: Path) -> Path:
    return datasets.prepared(folder, datasets.training_text(), "0123456789 %&/() " * 2000)


def _too_little(folder: Path) -> Path:
    return datasets.prepared(folder, datasets.grammar_text(60, datasets.SEED), datasets.held_out_text())


SHARD = ("GG-DAT-007",)
TARGETS = ("GG-DAT-002",)

DATA_FAULTS: Sequence[Fault] = (
    Fault(
        name="nan-row-first-step", kind="sequence that gives NaN", fatal=True, recovery="automatic", stage="during",
        what="one sequence of the very first batch has embeddings that are NaN", at=1, persists=True,
        inject=nan_sequences((1, 3)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-row-middle", kind="sequence that gives NaN", fatal=True, recovery="automatic", stage="during",
        what="one sequence of one batch has embeddings that are NaN", at=180, persists=True,
        inject=nan_sequences((180, 7)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-rows-two-micro-batches", kind="sequence that gives NaN", fatal=True, recovery="automatic",
        what="two sequences of one batch, in different micro-batches of a step, are NaN", at=120, persists=True,
        stage="during", settings={"train.micro_batch_size": 4}, inject=nan_sequences((120, 2), (120, 9)),
        expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-row-with-dropout-late", kind="sequence that gives NaN", fatal=True, recovery="automatic",
        what="one sequence of a late batch is NaN, in a training run with dropout", at=281, persists=True, stage="during",
        settings={"model.dropout": 0.1}, inject=nan_sequences((281, 0)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="targets-two-ahead", kind="mislabeled targets", fatal=True, stage="before",
        what="targets are shifted by two instead of one", patches=batches_from(_TwoAhead), expects=TARGETS,
    ),
    Fault(
        name="targets-not-shifted", kind="mislabeled targets", fatal=True, stage="before",
        what="targets are the inputs themselves", patches=batches_from(_NotShifted), expects=TARGETS,
    ),
    Fault(
        name="targets-of-other-rows", kind="mislabeled targets", fatal=True, stage="before",
        what="each sequence has the targets of its neighbor", patches=batches_from(_NeighborTargets), expects=TARGETS,
    ),
    Fault(
        name="targets-a-third-wrong", kind="mislabeled targets", fatal=True, stage="before",
        what="every third target is another token of the window", patches=batches_from(_SomeWrong), expects=TARGETS,
    ),
    Fault(
        name="batch-of-one-row", kind="batches that do not vary", fatal=True, stage="before",
        what="all sequences of a batch are the same window", patches=batches_from(_SameWindow), expects=("GG-DAT-003",),
    ),
    Fault(
        name="same-batch-each-step", kind="batches that do not vary", fatal=True, stage="before",
        what="the position does not advance: each step sees the same batch", patches=batches_from(_SameBatch),
        expects=("GG-DAT-003",),
    ),
    Fault(
        name="unshuffled", kind="order of the data", fatal=False, stage="before",
        what="windows are read in file order", patches=batches_from(_FileOrder), expects=("GG-DAT-004",),
    ),
    Fault(
        name="tokens-scrambled", kind="order of the data", fatal=True, stage="during",
        what="the tokens of each window are in random order", patches=batches_from(_Scrambled),
        expects=("GG-DAT-013", "GG-DAT-002", "GG-LAD-002", "GG-DAT-012"),
    ),
    Fault(
        name="shard-bit-flipped", kind="damaged dataset", fatal=True, stage="before",
        what="one bit of a shard is flipped", dataset=datasets.with_files(datasets.flip_bit), expects=SHARD,
    ),
    Fault(
        name="shard-cut-off", kind="damaged dataset", fatal=True, stage="before",
        what="the last third of a shard is missing", dataset=datasets.with_files(datasets.truncate_shard), expects=SHARD,
    ),
    Fault(
        name="ids-out-of-range", kind="damaged dataset", fatal=True, stage="before",
        what="some token ids are far outside the vocabulary, the checksum is correct", dataset=datasets.with_tokens(_out_of_range),
        expects=("GG-DAT-001",),
    ),
    Fault(
        name="one-id-out-of-range", kind="damaged dataset", fatal=True, stage="before",
        what="a single token id is one above the last of the vocabulary", dataset=datasets.with_tokens(_one_out_of_range),
        expects=("GG-DAT-001",),
    ),
    Fault(
        name="tokenizer-swapped", kind="damaged dataset", fatal=True, stage="before",
        what="the dataset's tokenizer is another one of the same size",
        dataset=datasets.with_files(datasets.swap_tokenizer), expects=("GG-DAT-010",),
    ),
    Fault(
        name="validation-a-third-known", kind="leaked or repeated text", fatal=False, stage="before",
        what="a third of the validation text is also in the training text", dataset=_leaked(1 / 3),
        expects=("GG-DAT-005",),
    ),
    Fault(
        name="validation-all-known", kind="leaked or repeated text", fatal=True, stage="before",
        what="the whole validation text is also in the training text", dataset=_leaked(1.0),
        expects=("GG-DAT-005",),
    ),
    Fault(
        name="text-doubled", kind="leaked or repeated text", fatal=False, stage="before",
        what="the training text is repeated twice", dataset=_twice, expects=("GG-DAT-006",),
    ),
    Fault(
        name="few-pages-twenty-times", kind="leaked or repeated text", fatal=False, stage="before",
        what="300 sentences are repeated twenty times", dataset=_few_pages_often, expects=("GG-DAT-006",),
    ),
    Fault(
        name="text-is-noise", kind="unsuitable text", fatal=True, stage="before",
        what="the training text is random bytes, with a correct checksum", dataset=datasets.with_tokens(_noise),
        expects=("GG-DAT-012", "GG-DAT-011"),
    ),
    Fault(
        name="text-mostly-padding", kind="unsuitable text", fatal=True, stage="before",
        what="four fifths of the training text are the same token", dataset=datasets.with_tokens(_mostly_padding),
        expects=("GG-DAT-006", "GG-DAT-011"),
    ),
    Fault(
        name="validation-of-another-kind", kind="unsuitable text", fatal=False, stage="before",
        what="the validation text is digits, the training text is English", dataset=_another_kind,
        expects=("GG-DAT-011",),
    ),
    Fault(
        name="too-little-text", kind="unsuitable text", fatal=False, stage="before",
        what="60 sentences are read for a hundred epochs", dataset=_too_little, expects=("GG-CFG-006", "GG-OVF-001"),
    ),
)  # fmt: skip
