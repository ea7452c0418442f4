"""Does TPE with pruning find better settings than random search in the same time?

    python -m benchmarks.sweep --data PLAYS --out benchmarks/results/sweep.json

For each seed of the sampler, four sweeps of the same space run side by side, each with the same number of processes and
the same time: random and TPE, without and with the median pruner. The best settings of each are then trained with other
seeds; the mean of those losses is the figure, since the loss in the search is that of the luckiest trial.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ARMS = (("random", "none"), ("random", "median"), ("tpe", "none"), ("tpe", "median"))
SPACE = """[search]
"train.learning-rate" = { low = 5e-4, high = 1e-1, log = true }
"schedule.warmup-steps" = { low = 0, high = 100 }
"schedule.kind" = ["cosine", "linear", "wsd"]
"optimizer.weight-decay" = { low = 0.01, high = 1.0, log = true }
"optimizer.beta2" = { low = 0.9, high = 0.999 }
"model.init-std" = { low = 0.01, high = 0.3, log = true }
"train.clip-norm" = [0.0, 0.3, 1.0, 3.0]
"""


def sweeps(arguments: argparse.Namespace, folder: Path, sampler_seed: int) -> list[dict[str, Any]]:
    """Run the four sweeps of one seed of the sampler side by side; return a row for each."""
    space = folder / "space.toml"
    space.write_text(SPACE)
    running: list[tuple[str, str, Path, subprocess.Popen[bytes]]] = []
    for sampler, pruner in ARMS:
        out = folder / f"{sampler}-{pruner}-{sampler_seed}"
        command = [
            sys.executable, "-m", "glassgpt", "sweep", arguments.preset, "--data", str(arguments.data), "--out", str(out),
            "--space", str(space), "--sampler", sampler, "--pruner", pruner, "--sampler-seed", str(sampler_seed),
            "--minutes", str(arguments.minutes), "--trials", "100000", "--jobs", str(arguments.jobs),
            "--seeds", str(arguments.seeds), "--yes", "--train.device", "cpu",
            "--train.max-steps", str(arguments.steps), "--train.eval-every-steps", str(arguments.steps // 6),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with open(folder / f"{out.name}.txt", "wb") as log:
            running.append((sampler, pruner, out, subprocess.Popen(command, env=environment, stdout=log, stderr=log)))
    rows: list[dict[str, Any]] = []
    for sampler, pruner, out, process in running:
        if process.wait():
            raise SystemExit((folder / f"{out.name}.txt").read_text()[-2000:])
        rows.append(row(sampler, pruner, sampler_seed, json.loads((out / "sweep.json").read_text())))
    return rows


def row(sampler: str, pruner: str, sampler_seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """Return what one sweep found."""
    best, luck = found["best"], found["luck"]
    if best is None or luck is None:
        raise SystemExit(f"{sampler} with pruner {pruner}: no trial was trained to the end; give more --minutes")
    return {
        "sampler": sampler, "pruner": pruner, "sampler_seed": sampler_seed, "seconds": found["seconds"],
        "trials": found["counts"], "best_in_search": best["loss"], "best_values": best["values"],
        "losses_by_seed": luck["losses_by_seed"], "mean_of_seeds": luck["mean"],
        "standard_deviation_of_seeds": luck["standard_deviation"], "within_spread": len(found["within_spread"]),
        "importance": found["importance"],
        "codes": sorted({each["code"] for each in found["trials"] if each["code"]}),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over the sampler's seeds, by sampler and pruner."""
    means: list[dict[str, Any]] = []
    for sampler, pruner in ARMS:
        mine = [each for each in rows if (each["sampler"], each["pruner"]) == (sampler, pruner)]
        figures = [each["mean_of_seeds"] for each in mine]
        means.append(
            {
                "system": f"{sampler}, pruner {pruner}", "figure": round(statistics.mean(figures), 4), "unit": "nats per token",
                "lowest": min(figures), "highest": max(figures),
                "best_in_search": round(statistics.mean(each["best_in_search"] for each in mine), 4),
                "trials_begun": statistics.mean(sum(each["trials"].values()) for each in mine),
            }
        )  # fmt: skip
    return means


def main() -> None:
    """Run the sweeps and write the result after each seed of the sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--sampler-seeds", type=int, default=2)
    parser.add_argument("--hardware", default=platform.processor() or platform.machine())
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for sampler_seed in range(arguments.sampler_seeds):
            rows += sweeps(arguments, Path(folder), sampler_seed)
            write(arguments, rows)


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the result file."""
    import optuna
    import torch

    given = ["--data PLAYS", f"--steps {arguments.steps}", f"--minutes {arguments.minutes}", f"--jobs {arguments.jobs}"]
    given += [f"--seeds {arguments.seeds}", f"--sampler-seeds {arguments.sampler_seeds}"]
    content = {
        "what": f"validation loss that the best settings of a sweep of {arguments.preset} reach with other seeds, after "
        f"{arguments.minutes:g} minutes of search with {arguments.jobs} processes of one thread, all four sweeps side by side",
        "date": datetime.date.today().isoformat(),
        "hardware": {"cpu": arguments.hardware, "cpu_cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "optuna": optuna.__version__
        },
        "command": f"python -m benchmarks.sweep --out benchmarks/results/sweep.json {' '.join(given)}",
        "space": SPACE.splitlines()[1:],
        "rows": summary(rows),
        "sweeps": rows,
    }  # fmt: skip
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
