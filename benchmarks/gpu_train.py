"""Compare training on GPUs with peers: throughput, time to a loss, loss after three minutes, two GPUs.

    python benchmarks/gpu_train.py time-to-loss --data DATA --out benchmarks/results/time-to-loss.json --peers FILE

Each part writes one file of rows with `system, figure, unit, ratio_to_reference`. Peers are measured with their own
programs on the same machine, ideally at the same time on another of its GPUs. Their results are passed in a JSON file
(`--peers`): `{"peers": {NAME: {"repository": …, "commit": …, "settings": …}}, "rows": {PART: [ROW, …]}}`.
The first peer of a part is the reference; without peers, our first row is. `merge` adds peers to an existing result
file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import GlassGPTError

Row = dict[str, Any]
OF_RUNS = ("data", "preset", "set", "seeds")
OPTIONS = {
    "throughput": ("data", "repeat"),
    "speed-ups": ("data", "only", "rows", "lock"),
    "time-to-loss": (*OF_RUNS, "loss"),
    "three-minutes": (*OF_RUNS, "seconds"),
    "two-gpus": ("data", "repeat"),
    "merge": (),
}
"""The options that each part uses, beside --out and --peers."""
REFERENCE_LOSS = 4.3066
"""Final loss of a tuned nanoGPT on the first 393,216 validation tokens, in nats."""
GPT2_AS_PEERS_TRAIN_IT = (
    "gpt2 --model.bias false --model.vocab-size 50304 --train.batch-tokens 65536 --train.micro-batch-size 64"
)
TWO_GPUS = "textbooks-124m --model.dropout 0 --train.batch-tokens 131072 --train.micro-batch-size 64"

WHAT = {
    "throughput": "tokens per second of training GPT-2 124M, T = 1024, bf16, no dropout, no biases, 65,536 tokens per step",
    "speed-ups": "tokens per second of training GPT-2 124M (T = 1024, bf16), enabling one optimization after another",
    "time-to-loss": "seconds of training, without compilation and validation, until the validation loss on the first "
    "393,216 tokens reaches the reference's; interpolated between two validations; median over seeds",
    "three-minutes": "validation loss after at most three minutes of training, without compilation",
    "two-gpus": "tokens per second on one and on two GPUs of one host with the same global batch of 131,072 tokens",
}


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the throughput of GPT-2: the median over repetitions in separate processes."""
    command = [*shlex.split(GPT2_AS_PEERS_TRAIN_IT), "--data", str(arguments.data), "--steps", "40"]
    return {"rows": [_bench("glassgpt", command, arguments.repeat)]}


def two_gpus(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the throughput on one and on two GPUs."""
    command = [*shlex.split(TWO_GPUS), "--data", str(arguments.data), "--steps", "15"]
    one = _bench("glassgpt, 1 GPU", command, arguments.repeat)
    return {"rows": [one, _bench("glassgpt, 2 GPUs", [*command, "--gpus", "2"], arguments.repeat)]}


def speed_ups(arguments: argparse.Namespace) -> dict[str, Any]:
    """Enable one optimization after another, and profile a step."""
    from gpu_parts.steps import OPTIMIZATIONS, measure_optimizations

    rows, profiles = measure_optimizations(
        arguments.only or list(OPTIMIZATIONS), arguments.rows, arguments.data, arguments.lock
    )
    return {"rows": rows, "profiles": profiles}


def time_to_loss(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the time to a loss with several seeds."""
    from gpu_parts import runs

    overrides = {"data": str(arguments.data), **dict(arguments.set)}
    row, details = runs.time_to_loss(arguments.preset, overrides, arguments.seeds, arguments.loss)
    return {"rows": [row], "runs": details}


def three_minutes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the loss after three minutes with several seeds."""
    from gpu_parts import runs

    overrides = {"data": str(arguments.data), **dict(arguments.set)}
    row, details = runs.three_minutes(arguments.preset, overrides, arguments.seeds, arguments.seconds)
    return {"rows": [row], "runs": details}


def _bench(system: str, command: Sequence[str], repeat: int) -> Row:
    found = [_bench_once(command) for _ in range(repeat)]
    rates = [one["tokens_per_second"] for one in found]
    middle = sorted(found, key=lambda one: one["tokens_per_second"])[len(found) // 2]
    return {
        "system": system,
        "figure": round(statistics.median(rates)),
        "unit": "tokens/s",
        "least_most": [round(min(rates)), round(max(rates))],
        "step_ms": round(middle["step_ms"], 2),
        "phase_ms": {phase: round(ms, 2) for phase, ms in middle["phase_ms"].items()},
        "mfu": middle["mfu"],
        "peak_memory_bytes": middle["peak_memory_bytes"],
        "attention": middle["attention"],
    }


def _bench_once(command: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        whole = [sys.executable, "-m", "glassgpt", "bench", "train", *command, "--json", str(out)]
        subprocess.run(whole, check=True)
        return json.loads(out.read_text())


def with_peers(result: dict[str, Any], part: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the result with the peers' rows before ours, and all ratios relative to the first row."""
    theirs: list[Row] = given.get("rows", {}).get(part, [])
    names = {row["system"] for row in theirs}
    rows = [*theirs, *(row for row in result["rows"] if row["system"] not in names)]
    reference = rows[0]["figure"]
    for row in rows:
        row["ratio_to_reference"] = None if row["figure"] is None else round(row["figure"] / reference, 3)
    return {**result, "peers": given.get("peers", result.get("peers", {})), "rows": rows}


def description_of(part: str) -> dict[str, Any]:
    """Return a description of the measurement, the hardware and the versions."""
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    return {
        "what": WHAT[part],
        "part": part,
        "date": datetime.date.today().isoformat(),
        "hardware": {"gpus": names or "none", "cpu": platform.machine(), "cpu_cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": shlex.join(["python", "benchmarks/gpu_train.py", *sys.argv[1:]]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one part, or merge peers into its result file."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(parser, given)
    peers = _read_json(parser, "--peers", given.peers) if given.peers else {}
    if given.part == "merge":
        result = _read_json(parser, "--out", given.out)
        part = result["part"]
    else:
        part = given.part
        measure = {
            "throughput": throughput,
            "speed-ups": speed_ups,
            "time-to-loss": time_to_loss,
            "three-minutes": three_minutes,
            "two-gpus": two_gpus,
        }[part]
        result = {**description_of(part), **measure(given)}
    text = json.dumps(with_peers(result, part, peers), indent=2, ensure_ascii=False)
    write_atomically(given.out, text.encode() + b"\n")
    print(text)


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Exit with a message if an option is given that the part does not use, or the dataset cannot be opened."""
    used = OPTIONS[given.part]
    for name in dict.fromkeys(name for names in OPTIONS.values() for name in names):
        if name not in used and getattr(given, name) != parser.get_default(name):
            users = ", ".join(part for part, names in OPTIONS.items() if name in names)
            parser.error(f"{given.part} does not use --{name}; leave it out (it is for {users})")
    if given.data is not None:
        try:
            TokenDataset.open(given.data)
        except GlassGPTError as error:
            parser.error(f"--data: {error}")
    elif "data" in used and given.part != "speed-ups":  # which can train on random tokens
        parser.error(f"{given.part} needs --data, a dataset created by glassgpt prepare")


def _read_json(parser: argparse.ArgumentParser, option: str, path: Path) -> dict[str, Any]:
    """Return the content of a file, or exit with a message if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"{option} {path} cannot be read: {error.strerror}")
    except ValueError as error:
        parser.error(f"{option} {path} is not JSON: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=OPTIONS)
    parser.add_argument("--data", type=Path, help="dataset created by glassgpt prepare")
    parser.add_argument("--out", type=Path, required=True, help="result file")
    parser.add_argument("--peers", type=Path, help="JSON file with the peers' results")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions of a throughput measurement")
    parser.add_argument("--preset", default="textbooks-124m", help="preset to train (time-to-loss, three-minutes)")
    parser.add_argument(
        "--set",
        type=_pair,
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="overrides of the preset's settings (time-to-loss, three-minutes)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="fit the steps to this time by a trial run (three-minutes); 0: do not",
    )
    parser.add_argument("--loss", type=float, default=REFERENCE_LOSS, help="loss to reach (time-to-loss)")
    parser.add_argument("--only", nargs="*", help="groups of optimizations (speed-ups)")
    parser.add_argument("--rows", type=int, default=64, help="sequences per step (speed-ups)")
    parser.add_argument(
        "--lock",
        type=Path,
        help="lock file held while timing (speed-ups), so that other processes can compile in between",
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    return name, value


if __name__ == "__main__":
    main()
