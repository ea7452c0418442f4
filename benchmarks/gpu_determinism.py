"""Check on a GPU that `train.deterministic = on` gives bit-equal weights, and measure what it costs.

    python benchmarks/gpu_determinism.py --out benchmarks/results/gpu-determinism.json [--gpus 2]

For each architecture: two undisturbed runs with one seed, and a run that is killed with SIGKILL and resumed, must end
with the same bits in weights and optimizer; each is a separate process, compiled as in normal training. The replay of
`glassgpt doctor`, from the checkpoint in the middle, must reach the same bits too. Then a training step of GPT-2 124M is
timed with and without. Exits with 1 if any bits differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cpu_parts.machine import package_version
from glassgpt.api.runs import trainer_config
from glassgpt.config import load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.replay import replay_saved_run
from glassgpt.model.build import build_model
from glassgpt.training.loop import Trainer
from glassgpt.training.run_folder import RunFolder

STEPS, KILL_AFTER, SAVE_EVERY = 40, 25, 20
SMALL = "--model.vocab-size 50257 --model.n-layer 4 --train.batch-tokens 16384 --train.micro-batch-size 8"
"""Few layers compile quickly; width, heads, context and vocabulary are GPT-2's."""
ARCHITECTURES = {
    "gpt2": "gpt2 --model.dropout 0",
    "gpt2 with dropout": "gpt2 --model.dropout 0.1",
    "modern": "textbooks-124m --model.window 0",
}
TIMED = {
    "gpt2": "gpt2 --model.dropout 0 --train.batch-tokens 65536 --train.micro-batch-size 64",
    "modern": "textbooks-124m",
}
Row = dict[str, Any]


def glassgpt(*arguments: str) -> list[str]:
    """The command line of `glassgpt`, in this Python."""
    return [sys.executable, "-m", "glassgpt", *arguments]


def train_command(preset: str, data: Path, out: Path, gpus: int, deterministic: str) -> list[str]:
    """A short training run."""
    settings = (
        f"--train.max-steps {STEPS} --train.eval-every-steps {STEPS} --train.eval-tokens 16384 --seed 1 "
        f"--checkpoint.every-steps {SAVE_EVERY} --checkpoint.keep-last 9 --train.deterministic {deterministic}"
    )
    several = ("--gpus", str(gpus)) if gpus > 1 else ()
    words = shlex.split(f"{preset} {SMALL} {settings}")
    return glassgpt("train", *words, "--data", str(data), "--out", str(out), *several)


def run(command: Sequence[str]) -> None:
    """Run a command to its end; its output is shown only if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def run_and_kill(command: Sequence[str], out: Path) -> None:
    """Start training and kill all of its processes once step `KILL_AFTER` is in its metrics."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    metrics = out / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and f'"step": {KILL_AFTER}' in metrics.read_text():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.02)
    raise RuntimeError(f"training ended before step {KILL_AFTER} was seen: {shlex.join(command)}")


def digest(out: Path) -> dict[str, str]:
    """SHA-256 of each weight file and of the optimizer's at the last step."""
    folder = out / "checkpoints" / f"step-{STEPS:06d}"
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".pt")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def replays_equal(out: Path) -> bool:
    """Replay a run's steps from the checkpoint in the middle, as the doctor does; return whether the weights are equal."""
    config = load_config(out)
    with tempfile.TemporaryDirectory() as unused:
        trainer = Trainer(
            build_model(config.model),
            TokenDataset.open(Path(config.data)),
            trainer_config(config),
            RunFolder(Path(unused)),
        )
        replay_saved_run(trainer, out / "checkpoints" / f"step-{SAVE_EVERY:06d}", STEPS - SAVE_EVERY)
    saved = load_file(out / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors")
    own = trainer.train_step.model.state_dict()
    return all(torch.equal(own[name].cpu(), weight) for name, weight in saved.items())


def in_new_process(out: Path) -> bool:
    """Return `replays_equal(out)` of a new process, which has no compiled code and no random state of ours."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(replays_equal, (out,))


def check(name: str, preset: str, data: Path, folder: Path, gpus: int) -> Row:
    """Compare the final bits of undisturbed, repeated, killed and resumed, and replayed runs (one GPU)."""
    outs = [folder / f"{name}-{gpus}-{part}".replace(" ", "-") for part in ("first", "second", "killed")]
    for out in outs[:2]:
        run(train_command(preset, data, out, gpus, "on"))
    run_and_kill(train_command(preset, data, outs[2], gpus, "on"), outs[2])
    several = ("--gpus", str(gpus)) if gpus > 1 else ()
    run(glassgpt("train", "--resume", "--out", str(outs[2]), *several))
    first, second, killed = map(digest, outs)
    row = {"model": name, "gpus": gpus, "files": sorted(first), "repeated": first == second, "resumed": first == killed}
    if gpus == 1:  # the doctor replays runs of one process
        row["replayed"] = in_new_process(outs[0])
    print(f"{name:20s} {gpus} GPU(s): {row}", flush=True)
    return row


def cost(name: str, preset: str, folder: Path) -> Row:
    """Time a training step with deterministic off and on."""
    found: Row = {"model": name, "preset": preset}
    for choice in ("off", "on"):
        file = folder / f"{name}-{choice}.json"
        run(glassgpt("bench", "train", *shlex.split(preset), "--train.deterministic", choice, "--json", str(file)))
        speed = json.loads(file.read_text())
        found[choice] = {key: speed[key] for key in ("step_ms", "step_ms_spread", "tokens_per_second", "attention")}
    found["ratio"] = round(found["on"]["step_ms"] / found["off"]["step_ms"], 4)
    print(f"{name:20s} step {found['off']['step_ms']:.2f} -> {found['on']['step_ms']:.2f} ms, {found['ratio']:.3f}x")
    return found


def main() -> int:
    """Run the checks and the timings, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count())
    parser.add_argument("--only", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run(glassgpt("prepare", "grammar", "--tokenizer", "bytes", "--out", str(folder / "data")))
        rows = [check(name, ARCHITECTURES[name], folder / "data", folder, 1) for name in options.only]
        if options.gpus > 1:
            rows.append(check("gpt2", ARCHITECTURES["gpt2"], folder / "data", folder, options.gpus))
        costs = [cost(name, preset, folder) for name, preset in TIMED.items() if name in options.only]
    report = {
        "what": "bits of weights and optimizer after a repeated and after a killed and resumed run, and the cost",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": torch.cuda.get_device_name(),
        "versions": {
            "python": platform.python_version(),
            **{n: package_version(n) for n in ("torch", "nvidia-cudnn-frontend")},
        },
        "steps": STEPS,
        "checks": rows,
        "costs": costs,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["repeated"] and row["resumed"] and row.get("replayed", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
