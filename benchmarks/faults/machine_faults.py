"""Faults around the model: loader, memory, disk, process, files; and options that degrade generated text."""

from __future__ import annotations

import errno
import math
import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fault_helpers import at_step
from glassgpt.training.checkpoint import WEIGHTS, list_checkpoints, store, write_manifest
from glassgpt.training.loop import Trainer
from glassgpt.training.run_folder import RunFolder

from .case import Fault, Patch

Usage = namedtuple("Usage", "total used free")


def _slow_loader(trainer: Trainer) -> None:
    give = trainer.train_step.loader.next

    def slow(rows: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.015)
        return give(rows)

    trainer.train_step.loader.next = slow  # type: ignore[method-assign]


def busy_from(step: int, seconds: float) -> Callable[[Trainer], None]:
    """Waste CPU time in each step from a step on."""

    def inject(trainer: Trainer) -> None:
        do = trainer.train_step.run

        def slower(number: int, rate: float, **more: Any) -> Any:
            if number >= step:
                end = time.process_time() + seconds
                while time.process_time() < end:
                    math.sqrt(2.0)
            return do(number, rate, **more)

        trainer.train_step.run = slower  # type: ignore[method-assign]

    return inject


def leaking(megabytes: float) -> Callable[[Trainer], None]:
    """Leak memory in each step."""

    def inject(trainer: Trainer) -> None:
        kept: list[Tensor] = []
        do = trainer.train_step.run

        def step(number: int, rate: float, **more: Any) -> Any:
            kept.append(torch.ones(int(megabytes * 250_000)))
            return do(number, rate, **more)

        trainer.train_step.run = step  # type: ignore[method-assign]

    return inject


def short_of_memory(rows: int, step: int = 0) -> Callable[[Trainer], None]:
    """Run out of memory with more than this many sequences at once, from a step on."""

    def inject(trainer: Trainer) -> None:
        compute = trainer.train_step.loss.train

        def train(inputs: Tensor, targets: Tensor) -> Tensor:
            if len(inputs) > rows and trainer.state.step + 1 >= step:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return compute(inputs, targets)

        trainer.train_step.loss.train = train  # type: ignore[method-assign]

    return inject


def _little_memory(device: torch.device) -> int:
    return 2_000_000


def _full_disk(folder: Path) -> Usage:
    return Usage(10**12, 10**12 - 1000, 1000)


def full_from(step: int) -> Callable[[Trainer], None]:
    """Simulate a full disk for checkpoints from a step on."""

    def inject(trainer: Trainer) -> None:
        def refuse(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        at_step(trainer, step, lambda: setattr(store, "save_aligned", refuse))

    return inject


def _killed_in_the_middle_of_saving(trainer: Trainer) -> None:
    import os

    at_step(trainer, 200, lambda: setattr(store, "write_manifest", lambda folder: os.kill(os.getpid(), 9)))


def _newest(run: RunFolder) -> Path:
    return list_checkpoints(run)[-1]


def _flip_in_newest(run: RunFolder) -> None:
    weights = _newest(run) / WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-9] ^= 64
    weights.write_bytes(raw)


def _cut_optimizer(run: RunFolder) -> None:
    state = _newest(run) / "optimizer.pt"
    state.write_bytes(state.read_bytes()[:1000])


def _all_manifests_gone(run: RunFolder) -> None:
    for path in list_checkpoints(run):
        (path / "manifest.json").unlink()


def _nan_in_newest(run: RunFolder) -> None:
    folder = _newest(run)
    weights = load_file(folder / WEIGHTS)
    weights["blocks.0.mlp.up.weight"][2, 3] = math.nan
    save_file(weights, folder / WEIGHTS)
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def _no_checkpoint_left(run: RunFolder) -> None:
    for path in list_checkpoints(run):
        shutil.rmtree(path)


def _torn_lines(run: RunFolder) -> None:
    raw = run.metrics.read_bytes()
    run.metrics.write_bytes(raw[: len(raw) // 2] + b'\x00\x00{"step": 12\nnonsense' + raw[len(raw) // 2 :])


NO_MEMORY: tuple[Patch, ...] = (("glassgpt.diagnosis.checks.memory", "free_memory", _little_memory),)
NO_DISK: tuple[Patch, ...] = (("glassgpt.diagnosis.checks.settings.shutil", "disk_usage", _full_disk),)

MACHINE_FAULTS: Sequence[Fault] = (
    Fault(
        name="slow-loader", kind="speed", fatal=False, stage="during",
        what="reading a batch takes 15 ms", inject=_slow_loader, expects=("GG-SPD-002",),
    ),
    Fault(
        name="steps-become-slow", kind="speed", fatal=False, stage="during", at=200,
        what="from some step on each step wastes 40 ms of CPU time", inject=busy_from(200, 0.04),
        expects=("GG-SPD-001",),
    ),
    Fault(
        name="memory-leak", kind="memory leak", fatal=True, stage="during",
        what="each step leaks 3 MB", inject=leaking(3), expects=("GG-MEM-010",),
    ),
    Fault(
        name="memory-leak-fast", kind="memory leak", fatal=True, stage="during",
        what="each step leaks 12 MB", inject=leaking(12), settings={"train.max_steps": 200}, expects=("GG-MEM-010",),
    ),
    Fault(
        name="too-large-for-memory", kind="out of memory", fatal=True, stage="before",
        what="the configuration needs more memory than is free", patches=NO_MEMORY, expects=("GG-MEM-001",),
    ),
    Fault(
        name="out-of-memory-at-once", kind="out of memory", fatal=True, stage="during", recovery="automatic",
        what="more than 4 of 12 sequences at once run out of memory", at=1, inject=short_of_memory(4), expects=("GG-MEM-012",),
    ),
    Fault(
        name="out-of-memory-later", kind="out of memory", fatal=True, stage="during", recovery="automatic",
        what="from halfway on, more than 2 of 12 sequences at once run out of memory", at=200, inject=short_of_memory(2, 200),
        expects=("GG-MEM-012",),
    ),
    Fault(
        name="out-of-memory-for-good", kind="out of memory", fatal=True, stage="during",
        what="from halfway on, even a single sequence runs out of memory", at=200, inject=short_of_memory(0, 200),
        expects=("GG-MEM-012",),
    ),
    Fault(
        name="disk-too-small", kind="disk", fatal=True, stage="before",
        what="the disk has no space for the checkpoints", patches=NO_DISK, expects=("GG-DSK-001", "GG-CFG-001"),
    ),
    Fault(
        name="disk-full-later", kind="disk", fatal=True, stage="after", recovery="resume", at=220,
        what="the disk is full when a checkpoint is to be written", inject=full_from(220), expects=("GG-DSK-002", "GG-DSK-001"),
    ),
    Fault(
        name="killed-in-the-middle", kind="process killed", fatal=True, stage="after", recovery="resume", at=235,
        what="the process is killed between two checkpoints", kill_at=235, expects=("GG-END-001",),
    ),
    Fault(
        name="killed-at-the-beginning", kind="process killed", fatal=True, stage="after", recovery="resume", at=20,
        what="the process is killed before its first checkpoint", kill_at=20, expects=("GG-END-001", "GG-CKP-002"),
    ),
    Fault(
        name="killed-while-saving", kind="process killed", fatal=True, stage="after", recovery="resume", at=200,
        what="the process is killed while writing a checkpoint", inject=_killed_in_the_middle_of_saving,
        expects=("GG-END-001", "GG-CKP-003"),
    ),
    Fault(
        name="checkpoint-bit-flipped", kind="damaged checkpoint", fatal=True, stage="after", recovery="resume",
        what="a bit of the newest weights is flipped, and the process was killed", at=255, kill_at=255,
        damage=_flip_in_newest, expects=("GG-CKP-001",),
    ),
    Fault(
        name="checkpoint-cut-off", kind="damaged checkpoint", fatal=True, stage="after", recovery="resume",
        what="the newest optimizer file is truncated, and the process was killed", at=160, kill_at=160,
        damage=_cut_optimizer, expects=("GG-CKP-001",),
    ),
    Fault(
        name="checkpoints-all-damaged", kind="damaged checkpoint", fatal=True, stage="after",
        what="all checkpoint manifests are missing", damage=_all_manifests_gone, expects=("GG-CKP-002",),
    ),
    Fault(
        name="checkpoints-deleted", kind="damaged checkpoint", fatal=True, stage="after",
        what="all checkpoints were deleted", damage=_no_checkpoint_left, expects=("GG-CKP-002",),
    ),
    Fault(
        name="checkpoint-holds-nan", kind="damaged checkpoint", fatal=True, stage="after",
        what="the newest checkpoint contains a NaN under a correct checksum", damage=_nan_in_newest,
        expects=("GG-NAN-003",),
    ),
    Fault(
        name="metrics-torn", kind="disk", fatal=False, stage="after",
        what="the middle of the metrics file is corrupt", damage=_torn_lines, expects=("GG-END-002",),
    ),
    Fault(
        name="text-temperature", kind="generated text", fatal=True, stage="text",
        what="text is generated at temperature 3", writes={"temperature": 3.0, "top_p": 1.0},
        expects=("GG-TXT-003",),
    ),
    Fault(
        name="text-penalty", kind="generated text", fatal=True, stage="text",
        what="text is generated with a repetition penalty of 5", writes={"repetition_penalty": 5.0},
        expects=("GG-TXT-003",),
    ),
    Fault(
        name="text-ends-early", kind="generated text", fatal=True, stage="text",
        what="text ends at each letter e", writes={"stop": ("e",)}, expects=("GG-TXT-004",),
    ),
    Fault(
        name="text-undertrained", kind="generated text", fatal=True, stage="text",
        what="text is generated by a model trained for 12 steps",
        settings={"train.max_steps": 12, "schedule.warmup_steps": 2}, writes={"temperature": 0.8},
        expects=("GG-TXT-002",),
    ),
)  # fmt: skip
