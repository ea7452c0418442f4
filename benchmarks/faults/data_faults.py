"""Faults of the text, of its tokens, and of the batches that are cut from it."""

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

from . import texts
from .case import Fault, Patch

Tokens = NDArray[np.int64]


def cut_by(kind: type[Batches]) -> tuple[Patch, ...]:
    """The program cuts batches in another way."""
    return (("glassgpt.training.step", "Batches", kind), ("glassgpt.diagnosis.doctor", "Batches", kind))


class _TwoAhead(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        return inputs, targets.roll(-1, dims=1)


class _NotShifted(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, _ = super().read(starts)
        return inputs, inputs.clone()


class _OtherRows(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        return inputs, targets.roll(1, dims=0)


class _SomeWrong(Batches):
    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        targets[:, ::3] = targets.flip(1)[:, ::3]
        return inputs, targets


class _OneRow(Batches):
    def starts_at(self, position: int, batch_size: int) -> Tokens:
        return np.repeat(super().starts_at(position, batch_size)[:1], batch_size)


class _OneBatch(Batches):
    def starts_at(self, position: int, batch_size: int) -> Tokens:
        return super().starts_at(0, batch_size)


class _InOrder(Batches):
    def _shuffled_starts(self, epoch: int) -> Tokens:
        return np.sort(super()._shuffled_starts(epoch))


class _Scrambled(Batches):
    """Each window's tokens in an order of chance, as a wrong reshape makes them."""

    def read(self, starts: Tokens) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        whole = torch.cat([inputs, targets[:, -1:]], dim=1)
        order = torch.randperm(whole.size(1), generator=torch.Generator().manual_seed(int(starts.sum()) % 2**31))
        whole = whole[:, order]
        return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()


def bad_rows(*places: tuple[int, int]) -> Any:
    """Rows of batches, by step and row, whose values are no numbers wherever they come again."""

    def arm(trainer: Trainer) -> None:
        for step, row in places:
            poison_window(trainer, step, row)

    return arm


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


def _leaked(share: float) -> texts.Text:
    def make(folder: Path) -> Path:
        held_out = texts.held_out_text()
        known = held_out[: int(share * len(held_out))]
        return texts.prepared(folder, texts.training_text() + known, held_out)

    return make


def _twice(folder: Path) -> Path:
    text = texts.training_text()
    return texts.prepared(folder, text + text, texts.held_out_text())


def _few_pages_often(folder: Path) -> Path:
    return texts.prepared(folder, texts.grammar_text(300, texts.SEED) * 20, texts.held_out_text())


def _another_kind(folder: Path) -> Path:
    return texts.prepared(folder, texts.training_text(), "0123456789 %&/() " * 2000)


def _too_little(folder: Path) -> Path:
    return texts.prepared(folder, texts.grammar_text(60, texts.SEED), texts.held_out_text())


SHARD = ("GG-DAT-007",)
TARGETS = ("GG-DAT-002",)

DATA_FAULTS: Sequence[Fault] = (
    Fault(
        name="nan-row-first-step", kind="a row that gives no number", fatal=True, recovery="automatic", station="while",
        what="one row of the very first batch gives embeddings that are no number", at=1, stays=True,
        arm=bad_rows((1, 3)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-row-middle", kind="a row that gives no number", fatal=True, recovery="automatic", station="while",
        what="one row of one batch gives embeddings that are no number", at=180, stays=True,
        arm=bad_rows((180, 7)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-rows-two-micro-batches", kind="a row that gives no number", fatal=True, recovery="automatic",
        what="two rows of one batch, in different micro-batches of an accumulated step", at=120, stays=True,
        station="while", settings={"train.micro_batch_size": 4}, arm=bad_rows((120, 2), (120, 9)),
        expects=("GG-NAN-011",),
    ),
    Fault(
        name="nan-row-with-dropout-late", kind="a row that gives no number", fatal=True, recovery="automatic",
        what="one row of a late batch, in a training with dropout", at=281, stays=True, station="while",
        settings={"model.dropout": 0.1}, arm=bad_rows((281, 0)), expects=("GG-NAN-011",),
    ),
    Fault(
        name="targets-two-ahead", kind="mislabeled targets", fatal=True, station="before",
        what="targets are shifted by two instead of one", world=cut_by(_TwoAhead), expects=TARGETS,
    ),
    Fault(
        name="targets-not-shifted", kind="mislabeled targets", fatal=True, station="before",
        what="targets are the inputs themselves", world=cut_by(_NotShifted), expects=TARGETS,
    ),
    Fault(
        name="targets-of-other-rows", kind="mislabeled targets", fatal=True, station="before",
        what="each row has the targets of its neighbour", world=cut_by(_OtherRows), expects=TARGETS,
    ),
    Fault(
        name="targets-a-third-wrong", kind="mislabeled targets", fatal=True, station="before",
        what="every third target is another token of the window", world=cut_by(_SomeWrong), expects=TARGETS,
    ),
    Fault(
        name="batch-of-one-row", kind="batches that do not vary", fatal=True, station="before",
        what="all rows of a batch are the same window", world=cut_by(_OneRow), expects=("GG-DAT-003",),
    ),
    Fault(
        name="same-batch-each-step", kind="batches that do not vary", fatal=True, station="before",
        what="the position does not move: each step sees the same batch", world=cut_by(_OneBatch),
        expects=("GG-DAT-003",),
    ),
    Fault(
        name="unshuffled", kind="order of the data", fatal=False, station="before",
        what="windows come in the order of the file", world=cut_by(_InOrder), expects=("GG-DAT-004",),
    ),
    Fault(
        name="tokens-scrambled", kind="order of the data", fatal=True, station="while",
        what="the tokens of each window are in an order of chance", world=cut_by(_Scrambled),
        expects=("GG-LAD-002", "GG-DAT-012"),
    ),
    Fault(
        name="shard-bit-flipped", kind="damaged data set", fatal=True, station="before",
        what="one bit of a shard is another", text=texts.with_files(texts.flip_a_bit), expects=SHARD,
    ),
    Fault(
        name="shard-cut-off", kind="damaged data set", fatal=True, station="before",
        what="the last third of a shard is missing", text=texts.with_files(texts.cut_off), expects=SHARD,
    ),
    Fault(
        name="ids-out-of-range", kind="damaged data set", fatal=True, station="before",
        what="some ids are far outside of the vocabulary, the checksum right", text=texts.with_tokens(_out_of_range),
        expects=("GG-DAT-001",),
    ),
    Fault(
        name="one-id-out-of-range", kind="damaged data set", fatal=True, station="before",
        what="a single id is one above the last of the vocabulary", text=texts.with_tokens(_one_out_of_range),
        expects=("GG-DAT-001",),
    ),
    Fault(
        name="tokenizer-swapped", kind="damaged data set", fatal=True, station="before",
        what="the tokenizer beside the shards is another of the same size",
        text=texts.with_files(texts.swap_tokenizer), expects=("GG-DAT-010",),
    ),
    Fault(
        name="validation-a-third-known", kind="text that tells too much", fatal=False, station="before",
        what="a third of the validation text also stands in the training text", text=_leaked(1 / 3),
        expects=("GG-DAT-005",),
    ),
    Fault(
        name="validation-all-known", kind="text that tells too much", fatal=True, station="before",
        what="the whole validation text also stands in the training text", text=_leaked(1.0),
        expects=("GG-DAT-005",),
    ),
    Fault(
        name="text-doubled", kind="text that tells too much", fatal=False, station="before",
        what="the training text stands there twice", text=_twice, expects=("GG-DAT-006",),
    ),
    Fault(
        name="few-pages-twenty-times", kind="text that tells too much", fatal=False, station="before",
        what="300 sentences stand there twenty times", text=_few_pages_often, expects=("GG-DAT-006",),
    ),
    Fault(
        name="text-is-noise", kind="unsuitable text", fatal=True, station="before",
        what="the training text is random bytes, sealed as if it were right", text=texts.with_tokens(_noise),
        expects=("GG-DAT-012", "GG-DAT-011"),
    ),
    Fault(
        name="text-mostly-padding", kind="unsuitable text", fatal=True, station="before",
        what="four fifths of the training text are the same token", text=texts.with_tokens(_mostly_padding),
        expects=("GG-DAT-006", "GG-DAT-011"),
    ),
    Fault(
        name="validation-of-another-kind", kind="unsuitable text", fatal=False, station="before",
        what="the validation text is digits, the training text is English", text=_another_kind,
        expects=("GG-DAT-011",),
    ),
    Fault(
        name="too-little-text", kind="unsuitable text", fatal=False, station="before",
        what="60 sentences are read a hundred times over", text=_too_little, expects=("GG-CFG-006", "GG-OVF-001"),
    ),
)  # fmt: skip
