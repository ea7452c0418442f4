"""Measure Muon's update on GPUs, captured in CUDA graphs and plain, in turns; and what audits add to the first steps.

    python benchmarks/gpu_muon.py bits --out FILE
    python benchmarks/gpu_muon.py steps --data DATA --out FILE
    torchrun --nproc-per-node 2 benchmarks/gpu_muon.py steps --data DATA --out FILE --set train.batch_tokens=131072
    python benchmarks/gpu_muon.py audits --data DATA --out FILE
    python benchmarks/gpu_muon.py products --out FILE

`bits` compares weights and momentum of both ways after some steps with random gradients, and exits with 1 if they differ.
`steps` trains with both in turns in one process, with the same compiled model. `audits` trains a few steps as
`glassgpt train` does, and times each part of an audit. `products` compares the products of Muon's iterations, as they are and
by a kernel for symmetric ones, with float64, and times them in turns. Without a GPU its matrices are small.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from glassgpt.config import load_config
from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.model.build import build_model
from glassgpt.training.bench import random_tokens
from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext, process_group
from glassgpt.training.garbage import manual_garbage_collection
from glassgpt.training.hardware import resolve_hardware, versions
from glassgpt.training.muon import Muon
from glassgpt.training.muon_choice import captured_kind
from glassgpt.training.step import TrainStep
from gpu_parts.audit_parts import time_audits
from gpu_parts.exchange import exchange_times, measure_collectives, of_all_ranks, other_exchange
from gpu_parts.moments import HAS_GPU, Moment, seconds_of, wait
from gpu_parts.steps import kind_of
from gpu_parts.timeline import DEVICE, kernels_of

WARMUP, PROFILED_STEPS, LISTED = 4, 5, 30
SAME_BITS: dict[str, type[Muon]] = {"plain": Muon, "captured": CapturedMuon if HAS_GPU else Muon}
WAYS: dict[str, type[Muon]] = {**SAME_BITS, "symmetric": captured_kind(torch.device("cuda")) if HAS_GPU else Muon}
"""Ways to compute the update; the last one is for GPUs that have the kernel of symmetric products."""


def bits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare the bits of both ways on the preset's matrices, and time the update alone."""
    device = torch.device("cuda" if HAS_GPU else "cpu")
    sets = _equal_sets(arguments, device)
    skip = torch.zeros((), device=device)
    muons = {
        way: kind(sets[way], lr=0.02, weight_decay=0.05, momentum_warmup_steps=100, compiled=HAS_GPU)
        for way, kind in SAME_BITS.items()
    }
    for muon in muons.values():
        muon.found_inf = skip
    generator = torch.Generator(device).manual_seed(1)
    rows: list[dict[str, Any]] = []
    for step in range(1, arguments.steps + 1):
        skip.fill_(float(step == 4))  # one skipped step
        for pair in zip(*sets.values(), strict=True):
            gradient = torch.randn(pair[0].shape, device=device, generator=generator)
            for matrix in pair:
                matrix.grad = gradient.clone()
        row: dict[str, Any] = {"step": step}
        for way, muon in muons.items():
            muon.param_groups[0]["lr"] = 0.02 / step
            row |= {f"{way}_{name}": ms for name, ms in _timed_update(muon).items()}
        row["differ"] = _differences(sets, muons)
        rows.append(row)
        print(row, flush=True)
    return {"rows": rows, "equal": all(row["differ"] == [0, 0] for row in rows)}


def _equal_sets(arguments: argparse.Namespace, device: torch.device) -> dict[str, list[nn.Parameter]]:
    """Return the preset's matrices, drawn at random, once for each way."""
    model = build_model(load_config(arguments.preset, dict(arguments.set)).model).to(device)
    kinds = model.parameter_kinds()
    matrices = [parameter for name, parameter in model.named_parameters() if kinds[name] == "matrix"]
    generator = torch.Generator(device).manual_seed(0)
    for matrix in matrices:
        nn.init.normal_(matrix, std=0.02, generator=generator)  # projections start at zero, where decay does nothing
    return {way: [nn.Parameter(matrix.detach().clone()) for matrix in matrices] for way in SAME_BITS}


def _timed_update(muon: Muon) -> dict[str, float]:
    """Return milliseconds of an update, of the host until everything is queued and of the device."""
    wait()
    start, began = time.perf_counter(), Moment()
    muon.step()
    host, ended = time.perf_counter() - start, Moment()
    wait()
    return {"host_ms": round(1e3 * host, 2), "device_ms": round(1e3 * began.until(ended), 2)}


def _differences(sets: dict[str, list[nn.Parameter]], muons: dict[str, Muon]) -> list[int]:
    """Return how many matrices and how many momenta do not have the same bits."""
    weights = zip(*sets.values(), strict=True)
    momenta = zip(*([muons[way].state[p]["momentum"] for p in sets[way]] for way in SAME_BITS), strict=True)
    return [sum(not torch.equal(*pair) for pair in pairs) for pairs in (weights, momenta)]


def steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with all ways in turns; then profile each."""
    config = load_config(arguments.preset, dict(arguments.set))
    hardware = resolve_hardware(config.train)
    with process_group(hardware.device) as dist, _exchange(arguments):
        torch.manual_seed(config.seed)
        needed = 8 * config.train.batch_tokens
        tokens = TokenDataset.open(arguments.data).split("train") if arguments.data else None
        settings = TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)
        train_step = TrainStep(
            build_model(config.model),
            tokens or random_tokens(config.model.vocab_size, needed),
            settings,
            hardware,
            dist,
        )
        train_step.model.train()
        ways = {way: _muon_like(train_step.optimizers[0], WAYS[way], dist) for way in arguments.ways}
        rate = config.train.learning_rate / 10  # far from divergence, also after a thousand steps
        try:
            with hardware.kernels(), manual_garbage_collection():
                start = time.perf_counter()
                train_step.run_and_wait(1, rate)
                first = time.perf_counter() - start
                rounds = [
                    {way: _timed(train_step, muon, rate, arguments.steps) for way, muon in ways.items()}
                    for _ in range(arguments.rounds)
                ]
                found = {"first_step_seconds": round(first, 1), "processes": dist.world_size, **_summary(rounds)}
                found["collectives"] = measure_collectives(dist, hardware.device, seconds_of)
                print(json.dumps(found, indent=1) if dist.is_main else "", flush=True)
                profiles = (
                    {way: _profile(train_step, muon, rate) for way, muon in ways.items()} if arguments.profile else {}
                )
        finally:
            train_step.close()
    return {**found, "profiles": profiles, "rank": dist.rank}


def _muon_like(muon: torch.optim.Optimizer, kind: type[Muon], dist: DistributedContext) -> Muon:
    """Return another Muon on the same state and settings, so that they can take turns."""
    assert isinstance(muon, Muon)
    other = kind(muon.param_groups[0]["params"], dist=dist, compiled=HAS_GPU)
    other.param_groups, other.state, other.found_inf = muon.param_groups, muon.state, muon.found_inf
    return other


def _exchange(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    return other_exchange(
        bucket_mb=arguments.bucket_mb, whole_backward=arguments.whole_backward, bf16=arguments.exchange_bf16
    )


def _timed(train_step: TrainStep, muon: Muon, rate: float, count: int) -> dict[str, float]:
    """Return milliseconds: of a step, of the update on the device, of the host in the update and outside of waiting."""
    train_step.optimizers[0] = muon
    for _ in range(WARMUP):
        train_step.run(1, rate)
    train_step.finish()
    wait()
    clock = _UpdateClock(train_step)
    with patch.object(train_step, "_update", clock):
        ends = [Moment()]
        for _ in range(count):
            train_step.run(1, rate)
            ends.append(Moment())
        train_step.finish()
        wait()
    taken = [before.until(after) for before, after in pairwise(ends)]
    return {
        "step_ms": 1e3 * statistics.median(taken),
        "mean_step_ms": 1e3 * statistics.mean(taken),
        "update_device_ms": 1e3 * statistics.median(start.until(end) for start, end in clock.moments),
        "update_host_ms": 1e3 * statistics.median(clock.host),
    }


class _UpdateClock:
    """Times the updates of a train step without synchronizing."""

    def __init__(self, train_step: TrainStep) -> None:
        self._update = train_step._update  # pyright: ignore[reportPrivateUsage]
        self.moments: list[tuple[Moment, Moment]] = []
        self.host: list[float] = []

    def __call__(self, step: int) -> None:
        start, began = time.perf_counter(), Moment()
        self._update(step)
        self.moments.append((began, Moment()))
        self.host.append(time.perf_counter() - start)


def _summary(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    names = next(iter(rounds[0].values()))
    return {way: {name: [round(one[way][name], 2) for one in rounds] for name in names} for way in rounds[0]}


def _profile(train_step: TrainStep, muon: Muon, rate: float) -> dict[str, Any]:
    """Return milliseconds per step by kind of kernel, the longest kernels, and the longest operations of the host."""
    train_step.optimizers[0] = muon
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if HAS_GPU else [])]
    for _ in range(WARMUP):
        train_step.run(1, rate)
    train_step.finish()
    wait()
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            train_step.run(1, rate)
        wait()
        wall = time.perf_counter() - start
    train_step.finish()
    kernels, host = _sums(profile)
    kinds: dict[str, float] = {}
    for name, (ms, _) in kernels.items():
        kind = "NCCL" if "nccl" in name.lower() else kind_of(name)
        kinds[kind] = round(kinds.get(kind, 0.0) + ms, 2)
    exchange = exchange_times(kernels_of(profile), PROFILED_STEPS)
    result = {
        "wall_ms": round(1e3 * wall / PROFILED_STEPS, 2),
        "kernels_ms": round(sum(ms for ms, _ in kernels.values()), 2),
        "launches": sum(count for _, count in kernels.values()),
        "ms_by_kind": kinds,
        "exchange": exchange,
        "exchange_by_rank": of_all_ranks(exchange, train_step.dist),
        "kernels": _longest(kernels),
        "host": _longest(host),
    }
    if train_step.dist.is_main:
        print(type(muon).__name__, json.dumps(result, indent=1), flush=True)
    return result


def _sums(profile: torch.profiler.profile) -> tuple[dict[str, tuple[float, int]], dict[str, tuple[float, int]]]:
    """Return milliseconds and calls per step by name: of what ran on the device, and of the host's operations."""
    kernels: dict[str, tuple[float, int]] = {}
    host: dict[str, tuple[float, int]] = {}
    for event in profile.key_averages():
        on_device = event.device_type == DEVICE
        microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
        if not getattr(event, "is_user_annotation", False):
            (kernels if on_device else host)[event.key] = (
                microseconds / 1e3 / PROFILED_STEPS,
                event.count // PROFILED_STEPS,
            )
    return kernels, host


def _longest(taken: dict[str, tuple[float, int]]) -> list[list[Any]]:
    ordered = sorted(taken.items(), key=lambda item: -item[1][0])[:LISTED]
    return [[name[:110], round(ms, 3), count] for name, (ms, count) in ordered]


def audits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps with the diagnosis of the preset, and time steps and the parts of the audits."""
    overrides = {"data": str(arguments.data), "train.max_steps": str(arguments.steps), **dict(arguments.set)}
    return time_audits(arguments.preset, overrides)


def products(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare and time the ways to compute the products of Muon's iterations, for the matrices of several presets."""
    from gpu_parts.products import compare_products  # imports Triton, which is for Linux

    return compare_products(arguments.rounds)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "bits": bits,
    "steps": steps,
    "audits": audits,
    "products": products,
}


def main(given: Sequence[str] | None = None) -> None:
    """Measure one part and write its result; only the first process writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="dataset created by glassgpt prepare; random tokens by default")
    parser.add_argument("--out", type=Path, required=True, help="result file")
    parser.add_argument("--preset", default="textbooks-124m-fast")
    parser.add_argument(
        "--set", type=lambda text: tuple(text.split("=", 1)), nargs="*", default=[], metavar="NAME=VALUE"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="profile each way after it was timed (steps)")
    parser.add_argument("--bucket-mb", type=int, default=0, help="size of the buckets in which gradients are exchanged")
    parser.add_argument("--whole-backward", action="store_true", help="compile the backward pass of two GPUs as one")
    parser.add_argument("--exchange-bf16", action="store_true", help="exchange gradients rounded to bfloat16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways to time (steps)")
    arguments = parser.parse_args(given)
    result = PARTS[arguments.part](arguments)
    if not result.pop("rank", 0):
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        described = {"command": sys.argv, "devices": devices, "versions": versions(), **result}
        write_atomically(arguments.out, json.dumps(described, indent=1).encode() + b"\n")
    if result.get("equal") is False:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
