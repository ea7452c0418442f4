"""Time training steps in 8 bits and nanoGPT's in turns on one GPU, check the kernels, and list where the time goes.

    python benchmarks/gpu_fp8_speed.py check --out check.json
    python benchmarks/gpu_fp8_speed.py compile --variants head
    python benchmarks/gpu_fp8_speed.py turns --peer NANOGPT --work FOLDER --rounds 3 --out turns.json --profile head mlp

`check` compares the head's loss and gradients with float64, and times its parts. `compile` fills PyTorch's caches, so that
several processes can do so at once. `turns` keeps all variants and nanoGPT's train.py on the GPU and times one after the
other; nanoGPT is a process that is stopped meanwhile, and its times are those that it prints. Results are written after each
turn. If other programs fill the GPU, all wait for free memory first. `--small` runs everything on a CPU with tiny sizes,
without 8-bit variants.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config
from glassgpt.data.files import write_atomically
from glassgpt.model.build import build_model
from glassgpt.training import parallel
from glassgpt.training.bench import random_tokens
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.outcomes import OutOfMemory, Skipped
from glassgpt.training.step import TrainStep
from gpu_parts.fp8_check import checks, part_times
from gpu_parts.memory import reserve_memory
from gpu_parts.moments import Moment, wait
from gpu_parts.nanogpt import NanoGPT
from gpu_parts.timeline import timeline

SETTINGS = {"model.bias": "false", "model.vocab_size": "50304", "train.batch_tokens": "65536",
            "train.micro_batch_size": "64", "train.deterministic": "off"}  # fmt: skip
SMALL = {"model.vocab_size": "512", "model.context_length": "64", "model.n_layer": "1", "model.n_head": "2",
         "model.n_embd": "32", "train.batch_tokens": "256", "train.micro_batch_size": "4"}  # fmt: skip
TUNED = "-tuned"
"""End of the name of a variant whose generated kernels are tuned by trial, which takes longer to compile."""
OPTIONS = ("coordinate_descent_tuning", "triton.mix_order_reduction_autotune_split_size")
VARIANTS = ("off", "head", "mlp", "all", "off-tuned", "head-tuned", "mlp-tuned")
WARM_UP = 3
ALONE_GB, OWN_GB, PEER_GB = 34, 48, 52
"""Memory to wait for: of one variant or check, of all variants, which share it in turns, and of nanoGPT beside them."""


@dataclass
class Variant:
    """A model in training.

    Attributes:
        name: `train.fp8`, with `TUNED` at its end or not.
        config: the settings.
        step: trains it.
        first_seconds: of the first step, which compiles.
        peak_bytes: of its steps, without what the other variants hold.
        times: milliseconds of each step, by round.
    """

    name: str
    config: RunConfig
    step: TrainStep
    first_seconds: float = 0.0
    peak_bytes: int | None = None
    times: list[list[float]] = field(default_factory=list)

    def run(self, count: int) -> None:
        """Queue steps."""
        for _ in range(count):
            outcome = self.step.run(1, self.config.train.learning_rate)
            if isinstance(outcome, OutOfMemory | Skipped):
                raise RuntimeError(f"a step of {self.name} was not applied: {outcome}")

    def finish(self) -> None:
        """Wait for all queued steps."""
        if isinstance(outcome := self.step.finish(), Skipped):
            raise RuntimeError(f"a step of {self.name} was not applied: {outcome}")
        wait()


def build(name: str, small: bool) -> Variant:
    """Build a variant and run its first steps."""
    before, start = _allocated(), time.perf_counter()
    config = load_config("gpt2", {**SETTINGS, **(SMALL if small else {}), "train.fp8": name.removesuffix(TUNED)})
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    tokens = random_tokens(config.model.vocab_size, config.train.batch_tokens * 2 + config.model.context_length + 1)
    with _tuned_kernels() if name.endswith(TUNED) else nullcontext():
        step = TrainStep(model, tokens, trainer_config(config), resolve_hardware(config.train), DistributedContext())
    step.model.train()
    variant = Variant(name, config, step)
    with step.hardware.kernels():
        variant.run(1)
        variant.finish()
        variant.first_seconds = time.perf_counter() - start
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        variant.run(2)
        variant.finish()
    if torch.cuda.is_available():
        variant.peak_bytes = torch.cuda.max_memory_allocated() - before
    print(f"{name}: first step {variant.first_seconds:.0f} s, {variant.peak_bytes} bytes", flush=True)
    return variant


@contextmanager
def _tuned_kernels() -> Generator[None]:
    """Build losses whose compiler tries several sizes of its kernels."""
    known = torch._inductor.list_options()  # pyright: ignore
    options: dict[str, Any] = {name: True for name in OPTIONS if name in known}

    def compiled(loss: TrainingLoss, by_block: bool) -> nn.Module:
        return torch.compile(loss, options=options)  # type: ignore[return-value]

    with patch.object(parallel, "_compiled", compiled):
        yield


def time_turn(variant: Variant, steps: int) -> None:
    """Time steps that are queued as in training, each from its end to the end of the next one."""
    with variant.step.hardware.kernels():
        variant.run(WARM_UP)
        ends = list[Moment]()
        for _ in range(steps + 1):
            variant.run(1)
            ends.append(Moment())
        variant.finish()
    variant.times.append([round(1e3 * before.until(after), 2) for before, after in pairwise(ends)])


def turns(given: argparse.Namespace) -> None:
    """Time all variants and nanoGPT in turns, then profile some."""
    result = _description(given)
    peer = NanoGPT(given.peer, given.work, given.small) if given.peer else None
    try:
        variants = [variant for name in given.variants if (variant := _try(build, name, given.small))]
        peer_times: list[list[float]] = []
        if peer and not _try(peer.wait_until_compiled, given.peer_seconds):
            peer.close()
            peer = None
        for number in range(given.rounds):
            if number and time.time() > given.until:
                break
            if peer and (taken := _try(peer.turn, given.steps, WARM_UP)):
                peer_times.append(taken)
            for place in range(len(variants)):  # another one begins each round
                _try(time_turn, variants[(place + number) % len(variants)], given.steps)
            result["rows"] = rows(variants, peer_times)
            _write(given.out, result)
            print(f"round {number + 1}: {_short(result['rows'])}", flush=True)
        result["profiles"] = {}
        for variant in (one for one in variants if one.name in given.profile):
            result["profiles"][variant.name] = _try(timeline, variant)
            _write(given.out, result)
    finally:
        if peer:
            peer.close()


def rows(variants: list[Variant], peer_times: list[list[float]]) -> list[dict[str, Any]]:
    """Return a row per system; ratios are those of tokens per second to nanoGPT's, or to the first variant's without it."""
    timed = [("nanoGPT", peer_times, 65536, {})] if peer_times else []
    for one in variants:
        more = {"first_step_seconds": round(one.first_seconds, 1), "peak_memory_bytes": one.peak_bytes}
        timed.append((f"glassgpt, train.fp8 {one.name}", one.times, one.config.train.batch_tokens, more))
    found, reference = [], [statistics.median(taken) for taken in timed[0][1]]
    for system, times, tokens, more in timed:
        medians = [statistics.median(taken) for taken in times]
        ratios = [theirs / own for theirs, own in zip(reference, medians, strict=False)]
        middle = statistics.median(medians) if medians else None
        found.append({
            "system": system, "figure": round(1e3 * tokens / middle) if middle else None, "unit": "tokens/s",
            "step_ms_by_round": [round(ms, 2) for ms in medians],
            "least_most_ms": [[min(taken), max(taken)] for taken in times],
            "ratio_by_round": [round(ratio, 4) for ratio in ratios],
            "ratio_to_reference": round(statistics.median(ratios), 4) if ratios else None, **more,
        })  # fmt: skip
    return found


def _short(found: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{row['system'].removeprefix('glassgpt, train.fp8 ')} {row['step_ms_by_round'][-1:]} ms {row['ratio_by_round'][-1:]}"
        for row in found
    )


def check(given: argparse.Namespace) -> None:
    """Compare the kernels with float64, and time the parts of the head.

    Raises:
        SystemExit: an error is too large.
    """
    result = _description(given)
    result["checks"] = checks(given.small)
    _write(given.out, result)
    print(json.dumps(result["checks"], indent=1), flush=True)
    result["part_ms"] = _try(part_times, given.small)
    _write(given.out, result)
    print(json.dumps(result["part_ms"], indent=1), flush=True)
    if wrong := [one["what"] for one in result["checks"] if not one["holds"]]:
        raise SystemExit(f"does not hold: {'; '.join(wrong)}")


def _try(work: Any, *arguments: Any) -> Any:
    """Return what a function returns, True for None; False, with a line that is printed, if it fails."""
    try:
        found = work(*arguments)
    except Exception as error:  # noqa: BLE001 - one failure must not cost the other rows
        name = getattr(work, "__name__", "work")
        subject = getattr(arguments[0], "name", arguments[0])
        print(f"FAILED {name} {subject}: {type(error).__name__}: {str(error)[:1000]}", flush=True)
        return False
    return True if found is None else found


def _description(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "what": __doc__.splitlines()[0] if __doc__ else "",
        "command": " ".join(["python benchmarks/gpu_fp8_speed.py", *sys.argv[1:]]),
        "hardware": {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": {key: str(value) for key, value in vars(given).items()},
    }


def _write(out: Path, result: dict[str, Any]) -> None:
    write_atomically(out, json.dumps(result, indent=1).encode() + b"\n")


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)  # so that nanoGPT is ended too


def main() -> None:
    """Check, compile, or time in turns."""
    given = _parser().parse_args()
    signal.signal(signal.SIGTERM, _exit)
    if not given.small:
        peers = PEER_GB if given.part == "turns" and given.peer else 0
        reserve_memory(OWN_GB if given.part == "turns" else ALONE_GB, peers, seconds=given.wait_seconds)
    if given.part == "check":
        check(given)
        return
    # The variants share the model's code: each is compiled once, for its own shapes, and never silently not at all.
    with torch._dynamo.config.patch(  # pyright: ignore
        recompile_limit=64, automatic_dynamic_shapes=False, fail_on_recompile_limit_hit=True
    ):
        if given.part == "turns":
            turns(given)
        else:
            for name in given.variants:
                build(name, given.small).step.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    checked = parts.add_parser("check", help="compare the kernels with float64, and time the parts of the head")
    compiled = parts.add_parser("compile", help="fill PyTorch's caches")
    timed = parts.add_parser("turns", help="time variants and nanoGPT in turns")
    for part in (checked, compiled, timed):
        part.add_argument("--small", action="store_true", help="tiny sizes")
        part.add_argument("--wait-seconds", type=float, default=120, help="longest time to wait for free GPU memory")
    for part in (checked, timed):
        part.add_argument("--out", type=Path, required=True, help="result file")
    for part in (compiled, timed):
        part.add_argument("--variants", nargs="+", choices=VARIANTS, default=["off", "head", "mlp", "all"])
    timed.add_argument("--peer", type=Path, help="folder with nanoGPT's train.py")
    timed.add_argument("--peer-seconds", type=float, default=240, help="longest time to wait for its first steps")
    timed.add_argument("--work", type=Path, default=Path("."), help="folder for nanoGPT's data and output")
    timed.add_argument("--rounds", type=int, default=3)
    timed.add_argument("--steps", type=int, default=40, help="timed steps of a turn")
    timed.add_argument("--until", type=float, default=float("inf"), help="Unix time from which no round begins")
    timed.add_argument("--profile", nargs="*", default=[], choices=VARIANTS, help="variants to profile at the end")
    return parser


if __name__ == "__main__":
    main()
