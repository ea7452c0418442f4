"""Decide whether training in 8 bits ends with the loss of bf16: pairs of runs that continue one checkpoint.

    python benchmarks/gpu_fp8_gate.py train --variant off --base --data DATA --work FOLDER --out off.json
    python benchmarks/gpu_fp8_gate.py train --variant head --data DATA --work FOLDER --out head.json
    python benchmarks/gpu_fp8_gate.py report --out fp8-gate.json off.json head.json

`--base` trains the common checkpoint; other processes compile meanwhile and wait for it. Each variant then continues it
with the batches of each seed while the rate falls to zero, validates on the whole text, and writes its result after each
seed; a process that is started again continues behind the last one. If other programs fill the GPU, it waits for free
memory first. The differences from `off` at equal seeds are reported with a 95 % interval. `other` is bf16 with other
micro-batches: its difference from `off` is the noise of rounding alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from glassgpt.config import load_config
from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.data.validation import validation_windows
from glassgpt.model.build import build_model
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.fp8 import head
from glassgpt.training.fp8.linear import FP8Linear
from glassgpt.training.fp8.quantize import Quantized, quantize
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.outcomes import OutOfMemory, Skipped
from glassgpt.training.parallel import ParallelLoss
from glassgpt.training.step import TrainStep
from gpu_parts.memory import reserve_memory

T_95 = (math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
"""97.5 % quantiles of Student's t, by degrees of freedom; 1.96 beyond."""


class Variant(NamedTuple):
    """A way to train.

    Attributes:
        fp8: see `train.fp8`.
        uncorrected: without the bias that corrects rounded weights of the head.
        halved: with micro-batches of half the size, which round differently.
    """

    fp8: str = "off"
    uncorrected: bool = False
    halved: bool = False


VARIANTS = {
    "off": Variant(),
    "other": Variant(halved=True),
    "head": Variant("head"),
    "uncorrected": Variant("head", uncorrected=True),
    "mlp": Variant("mlp"),
    "all": Variant("all"),
}


class Branches:
    """Trains one variant from the common checkpoint, once for each seed.

    Args:
        given: the arguments of the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._given, self._variant = given, VARIANTS[given.variant]
        self._dataset = TokenDataset.open(given.data)
        self._step = self._build()
        self._base_file = given.work / "base.pt"
        step = self._step
        self._plain = ParallelLoss(TrainingLoss(step.model), self._train, step.hardware, step.dist)
        self._rows_per_branch = given.steps * self._step.batch_size

    def _build(self) -> TrainStep:
        rows = self._given.micro_batch // 2 if self._variant.halved else self._given.micro_batch
        settings = dict(setting.split("=", 1) for setting in self._given.set)
        config = load_config(
            self._given.preset,
            {
                "train.batch_tokens": str(self._given.batch_tokens),
                "train.micro_batch_size": str(rows),
                "train.learning_rate": str(self._given.rate),
                "train.deterministic": "off",
                "train.fp8": self._variant.fp8,
                **settings,
            },
        )
        torch.manual_seed(config.seed)
        trainer = TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)
        hardware = resolve_hardware(config.train)
        self._train, self._hardware = config.train, hardware
        model = build_model(config.model)
        return TrainStep(model, self._dataset.split("train"), trainer, hardware, DistributedContext())

    def run(self) -> None:
        """Train every seed that has no result yet, until the time is over."""
        results = _read(self._given.out)
        correction = patch.object(head, "quantize_rows", _uncorrected) if self._variant.uncorrected else nullcontext()
        with self._hardware.kernels(), correction:
            base = self._base()
            for seed in range(1, self._given.seeds + 1):
                done = {row["seed"] for row in results["rows"]}
                if seed in done or time.time() > self._given.until:
                    continue
                results["rows"].append(self._branch(seed, base))
                results["settings"] = {key: str(value) for key, value in vars(self._given).items()}
                write_atomically(self._given.out, json.dumps(results, indent=1).encode() + b"\n")
                print(json.dumps(results["rows"][-1]), flush=True)
        self._step.close()

    def _base(self) -> dict[str, Any]:
        """Return the common checkpoint: train it, or compile and wait for it."""
        rate, warmup = self._given.rate, max(1, self._given.base_steps // 10)
        if self._given.base and not self._base_file.exists():
            self._steps(self._given.base_steps, lambda i: rate * min(1.0, (i + 1) / warmup))
            staged = self._base_file.with_suffix(".part")
            torch.save(self._state(), staged)
            staged.rename(self._base_file)
        else:
            self._steps(2, lambda i: rate)
        waited = 0
        while not self._base_file.exists():
            if (waited := waited + 1) > 600:
                raise SystemExit(f"{self._base_file} was not written within ten minutes")
            time.sleep(1)
        return torch.load(self._base_file, map_location=self._hardware.device, weights_only=True)

    def _state(self) -> dict[str, Any]:
        return {
            "model": copy.deepcopy(self._step.model.state_dict()),
            "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in self._step.optimizers],
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._step.model.load_state_dict(state["model"])
        for optimizer, values in zip(self._step.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(copy.deepcopy(values))

    def _steps(self, count: int, rate: Callable[[int], float]) -> None:
        """Run steps; fail if one is skipped or memory runs out, so that no difference comes from that."""
        self._step.model.train()
        for i in range(count):
            outcome = self._step.run(i + 1, rate(i))
            if isinstance(outcome, OutOfMemory):
                raise SystemExit(
                    f"step {i + 1} of {self._given.variant}: out of GPU memory. End other programs on this GPU and start"
                    f" again; seeds with a result are kept.\n{outcome.message[:200]}"
                )
            if isinstance(outcome, Skipped):
                raise SystemExit(f"step {i + 1} of {self._given.variant} was not applied: {outcome}")
        if isinstance(outcome := self._step.finish(), Skipped):
            raise SystemExit(f"the last step of {self._given.variant} was not applied: {outcome}")

    def _branch(self, seed: int, base: dict[str, Any]) -> dict[str, Any]:
        """Train one seed and return its losses.

        With `--tail` the last part is also trained in bf16, from where the variant was then.
        """
        start, steps = time.perf_counter(), self._given.steps
        self._load(base)
        self._step.seek((self._given.base_steps * self._step.batch_size) + (seed - 1) * self._rows_per_branch)
        tail = round(steps * self._given.tail) if self._variant.fp8 != "off" else 0

        def rate(i: int) -> float:
            return self._given.rate * (1 - i / steps)

        self._steps(steps - tail, rate)
        row: dict[str, Any] = {"seed": seed}
        if tail:
            before, position = self._state(), self._step.batches.position
            with _in_16_bits(self._step, self._plain):
                self._steps(tail, lambda i: rate(steps - tail + i))
            row["loss_with_tail_in_bf16"] = self._exact()
            self._load(before)
            self._step.seek(position)
            self._steps(tail, lambda i: rate(steps - tail + i))
        row |= {"loss": self._exact(), "seconds": round(time.perf_counter() - start, 1)}
        if seed <= self._given.rounded:
            row |= self._rounded()
        return row

    def _exact(self) -> float:
        """Return the loss of the whole validation text with exact weights."""
        self._step.model.eval()
        return self._mean(TrainingLoss(self._step.model), whole=True)

    def _rounded(self) -> dict[str, float]:
        """Return the losses of the full windows of the validation text: exact, and as training in 8 bits computes them."""
        model = self._step.model.eval()
        found = {"exact_full_windows": self._mean(TrainingLoss(model), whole=False)}
        loss = head.FP8HeadLoss(model)
        model.train()
        with patch.object(head, "quantize_rows", _uncorrected):
            found["rounded_uncorrected"] = self._mean(loss, whole=False)
        if not self._variant.uncorrected:
            found["rounded"] = self._mean(loss, whole=False)
        return found

    @torch.no_grad()
    def _mean(self, loss: nn.Module, *, whole: bool) -> float:
        device, nats, count = self._hardware.device, 0.0, 0
        held_out: TokenArray = self._dataset.split("validation")
        length = self._step.batches.context_length
        for inputs, targets in validation_windows(
            held_out, length, batch_size=8, limit=self._given.eval_tokens or None
        ):
            if not whole and inputs.size(1) < length:
                continue  # 8-bit products need a multiple of 16 tokens
            with self._hardware.autocast():
                nats += loss(inputs.to(device), targets.to(device)).item() * targets.numel()
            count += targets.numel()
        return nats / count


def _uncorrected(x: Tensor, padded: int, along: Tensor) -> tuple[Quantized, Tensor]:
    """Do the same as `quantize_rows` without the correction."""
    return quantize(x, padded), torch.zeros(padded, device=x.device)


@contextmanager
def _in_16_bits(step: TrainStep, loss: ParallelLoss) -> Generator[None]:
    """Train without 8-bit products within a `with` block."""
    kept, layers = step.loss, [layer for layer in step.model.modules() if isinstance(layer, FP8Linear)]
    step.loss = loss
    for layer in layers:
        layer.__class__ = nn.Linear  # type: ignore[assignment]
    try:
        yield
    finally:
        step.loss = kept
        for layer in layers:
            layer.__class__ = FP8Linear


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"variant": "", "rows": []}


def interval(differences: list[float]) -> dict[str, Any]:
    """Return the mean of paired differences, half the width of its 95 % interval, and their standard deviation."""
    n = len(differences)
    if n < 2:
        return {"pairs": n, "mean": differences[0] if differences else None}
    spread = statistics.stdev(differences)
    t = T_95[n - 1] if n <= len(T_95) else 1.96
    return {
        "pairs": n,
        "mean": round(statistics.mean(differences), 5),
        "half_interval_95": round(t * spread / math.sqrt(n), 5),
        "standard_deviation": round(spread, 5),
        "differences": [round(x, 5) for x in differences],
    }


def report(files: list[Path]) -> dict[str, Any]:
    """Return the differences of every variant from `off`, which must be among the files, by kind of loss."""
    rows = {file.stem: {row["seed"]: row for row in _read(file)["rows"]} for file in files}
    off = rows["off"]
    found: dict[str, Any] = {"losses": {name: [row["loss"] for row in by.values()] for name, by in rows.items()}}
    for name, by in rows.items():
        seeds = [seed for seed in by if seed in off]
        if name != "off":
            found[name] = interval([by[seed]["loss"] - off[seed]["loss"] for seed in seeds])
        if tails := [seed for seed in seeds if "loss_with_tail_in_bf16" in by[seed]]:
            found[f"{name}, tail in bf16"] = interval(
                [by[seed]["loss_with_tail_in_bf16"] - off[seed]["loss"] for seed in tails]
            )
        for kind in ("rounded", "rounded_uncorrected"):
            if both := [row for row in by.values() if kind in row]:
                found[f"{name}, {kind} - exact"] = interval([row[kind] - row["exact_full_windows"] for row in both])
    return found


def main() -> None:
    """Train a variant, or report the differences."""
    given = _parser().parse_args()
    if given.part == "train":
        given.work.mkdir(parents=True, exist_ok=True)
        reserve_memory(given.memory_gb, seconds=min(given.wait_seconds, given.until - time.time()))
        Branches(given).run()
        return
    text = json.dumps(report(given.files), indent=1)
    write_atomically(given.out, text.encode() + b"\n")
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    train = parts.add_parser("train", help="train a variant")
    train.add_argument("--variant", choices=list(VARIANTS), required=True)
    train.add_argument("--base", action="store_true", help="train the common checkpoint")
    train.add_argument("--data", type=Path, required=True, help="dataset created by glassgpt prepare")
    train.add_argument("--work", type=Path, required=True, help="folder for the common checkpoint")
    train.add_argument("--out", type=Path, required=True, help="result file")
    train.add_argument("--preset", default="gpt2")
    train.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="overrides of the preset's settings")
    train.add_argument("--base-steps", type=int, default=500)
    train.add_argument("--steps", type=int, default=200)
    train.add_argument("--seeds", type=int, default=8)
    train.add_argument("--tail", type=float, default=0.0, help="share of the steps that are also trained in bf16")
    train.add_argument("--rounded", type=int, default=3, help="seeds whose loss is also computed with rounded weights")
    train.add_argument("--batch-tokens", type=int, default=32768)
    train.add_argument("--micro-batch", type=int, default=16, help="sequences")
    train.add_argument("--rate", type=float, default=1e-3)
    train.add_argument("--eval-tokens", type=int, default=0, help="validation tokens; 0 for all")
    train.add_argument("--until", type=float, default=math.inf, help="Unix time from which no seed is begun")
    train.add_argument("--memory-gb", type=float, default=16, help="GPU memory to wait for before training; 0 for none")
    train.add_argument("--wait-seconds", type=float, default=120, help="longest time to wait for it")
    compare = parts.add_parser("report", help="report the differences from off")
    compare.add_argument("files", type=Path, nargs="+", help="results; off.json is the reference")
    compare.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    main()
