"""Compare training on rows with pictures with training on text alone, on a GPU: exactness of the attention, tokens per second.

    python benchmarks/gpu_multimodal.py agreement --out OUT
    python benchmarks/gpu_multimodal.py throughput --out OUT [--only text pictures] [--rounds 12]

The data are random: captions of GPT-2's vocabulary to pictures of 32 pixels in 64 patches. A step is one of `multimodal-124m`
with 65,536 positions, in two passes; each round times every variant, and another one begins each round. OUT/PART.json is written
after every row and round. `agreement` ends with exit code 1 if FlexAttention is further from the formula in double precision than
twice PyTorch's kernel with a dense mask is. `throughput` needs the GPU for itself; `--rounds 0` only compiles, which fills
PyTorch's caches for the next process.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from glassgpt.data.files import write_atomically
from gpu_parts import media
from gpu_parts.media import Row, Training

STEPS = 4
"""Steps that are timed together, behind one that is not."""


def write(folder: Path, part: str, rows: Sequence[Row]) -> None:
    """Write the rows of a part, with what they were measured on."""
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": " ".join(["python", "benchmarks/gpu_multimodal.py", *sys.argv[1:]]),
    }
    write_atomically(folder / f"{part}.json", json.dumps({**about, "rows": [*rows]}, indent=1).encode() + b"\n")


def agreement(arguments: argparse.Namespace) -> bool:
    """Compare FlexAttention and a dense mask with the formula, forward and backward."""
    rows: list[Row] = []
    for case in media.agreement_cases(arguments.small):
        row = case.describe()
        try:
            row |= case.compare()
        except Exception as error:  # noqa: BLE001 - one failure must not cost the other rows; it is a result
            row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        rows.append(row)
        print(json.dumps(row), flush=True)
        write(arguments.out, "agreement", rows)
    return all(_is_exact(row) for row in rows)


def _is_exact(row: Row) -> bool:
    if "errors" not in row:
        return False
    limit = 2 * max(row["errors"][media.YARDSTICK].values())
    return all(max(errors.values()) <= limit for errors in row["errors"].values())


def throughput(arguments: argparse.Namespace) -> bool:
    """Time training steps of the variants in turns; ratios of speeds are relative to the first variant."""
    failed: list[Row] = []
    # The variants share the model's code: each is compiled once, for its own shapes, and never silently not at all.
    with torch._dynamo.config.patch(  # pyright: ignore
        recompile_limit=64, automatic_dynamic_shapes=False, fail_on_recompile_limit_hit=True
    ):
        trained = [one for name in arguments.only if (one := _built(name, arguments, failed))]
        end = time.monotonic() + arguments.seconds
        for number in range(arguments.rounds):
            if number and time.monotonic() > end:
                break
            for place in range(len(trained)):
                _time(trained[(place + number) % len(trained)])
            print(f"round {number + 1}:", *(f"{one.name} {one.times[-1]:.1f} ms" for one in trained), flush=True)
            write(arguments.out, "throughput", [*(_row(one, trained[0]) for one in trained), *failed])
        if arguments.rounds and torch.cuda.is_available():
            rows = [_row(one, trained[0]) | {"longest_kernels_ms": _longest_kernels(one)} for one in trained]
            write(arguments.out, "throughput", [*rows, *failed])
    for one in trained:
        one.step.close()
    return not failed


def _built(name: str, arguments: argparse.Namespace, failed: list[Row]) -> Training | None:
    """Build a variant and run its first step, which compiles."""
    start = time.perf_counter()
    try:
        one = media.build(name, arguments.context, arguments.small)
        _run(one, 1)
    except Exception as error:  # noqa: BLE001 - one failure must not cost the other variants; it is a result
        failed.append({"variant": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        print(failed[-1], flush=True)
        write(arguments.out, "throughput", failed)
        return None
    one.first_seconds = time.perf_counter() - start
    print(f"{name}: first step {one.first_seconds:.0f} s", flush=True)
    return one


def _run(one: Training, count: int) -> float:
    """Run steps and return the milliseconds of one."""
    start = time.perf_counter()
    with one.step.hardware.kernels():
        for _ in range(count):
            one.step.run(1, one.config.train.learning_rate)
        one.step.finish()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / count


def _time(one: Training) -> None:
    _run(one, 1)
    one.times.append(_run(one, STEPS))  # wall-clock time: batches with pictures must be ready in time


def _longest_kernels(one: Training) -> dict[str, float]:
    """Return the milliseconds of the kernels that take longest in a step, and of all of them."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _run(one, 1)
    times = {event.key[:110]: event.self_device_time_total / 1e3 for event in profiler.key_averages()}
    longest = sorted(times.items(), key=lambda item: -item[1])[:24]
    return {"all": round(sum(times.values()), 2), **{name: round(ms, 2) for name, ms in longest}}


def _row(one: Training, first: Training) -> Row:
    middle, speeds = statistics.median(one.times), [a / b for a, b in zip(first.times, one.times, strict=True)]
    return {
        "variant": one.name,
        "context": one.config.model.context_length,
        "first_step_seconds": round(one.first_seconds, 1),
        "supervised_share": round(one.supervised_share, 3),
        "rounds": len(one.times),
        "step_ms": round(middle, 2),
        "step_ms_spread": [round(min(one.times), 2), round(max(one.times), 2)],
        "positions_per_second": round(1e3 * one.config.train.batch_tokens / middle),
        "speed_ratio": round(statistics.median(speeds), 4),
        "speed_ratio_spread": [round(min(speeds), 4), round(max(speeds), 4)],
    }


PARTS = {"agreement": agreement, "throughput": throughput}


def main() -> int:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=media.VARIANTS, default=list(media.VARIANTS))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=12, help="how often throughput times a variant; 0 compiles only")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no round starts later")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the program on a CPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    good = [PARTS[part](arguments) for part in arguments.parts]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
