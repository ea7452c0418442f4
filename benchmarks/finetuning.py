"""Compare full fine-tuning with adapters: the loss on new and old text at several learning rates.

    python -m benchmarks.finetuning runs/base --new data/new --old data/old --out benchmarks/results/finetuning.json

`--old` is the held-out text that the base was trained on; nothing of it is mixed in unless `--replay` says so. Each method is
run at each of its rates, by default four around the usual one. `--also NAME=DATA` measures further texts: a part of the new
text by which no rate was chosen, or other kinds of old text. The file is written after each run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from glassgpt import api
from glassgpt.adaptation.forgetting import losses
from glassgpt.adaptation.memory import count_trainable
from glassgpt.adaptation.recipe import PRESET, Finetuning
from glassgpt.config import load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.model.accounting import count_parameters

METHODS = {
    "full": {"lora.rank": 0},
    "lora": {},
    "lora, rank 4": {"lora.rank": 4},
    "lora, rank 8": {"lora.rank": 8},
    "lora, rank 64": {"lora.rank": 64},
    "lora, attention": {"lora.targets": "attention"},
    "lora, mlp": {"lora.targets": "mlp"},
}
FACTORS = (0.3, 1.0, 3.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=DATA", help="further texts to measure")
    parser.add_argument("--methods", default="full;lora", help=f"separated by semicolons, of: {'; '.join(METHODS)}")
    parser.add_argument("--factors", default=",".join(map(str, FACTORS)), help="of the usual learning rate")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--replay", type=float, default=0.0, help="share of old text")
    parser.add_argument("--settings", nargs="*", default=[], help="further settings, such as train.device=cuda")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    for option, pairs in (("--also", given.also), ("--settings", given.settings)):
        if wrong := next((pair for pair in pairs if "=" not in pair), None):
            parser.error(f"{option} is {wrong}; it must be NAME=VALUE")
    also = dict(pair.split("=", 1) for pair in given.also)
    folders = {"new": given.new, "old": given.old, **{name: Path(data) for name, data in also.items()}}
    texts = {name: TokenDataset.open(folder) for name, folder in folders.items()}
    before = {name: loss for name, (loss, _) in losses(api.load(given.base).model, texts).items()}
    print("before", before, flush=True)
    result: dict[str, object] = {"before": before, "epochs": given.epochs, "replay": given.replay, **machine()}
    rows: list[dict[str, object]] = []
    for method in given.methods.split(";"):
        for factor in given.factors.split(","):
            rows.append(measure(given, method, float(factor), texts))
            if given.out:
                given.out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")


def measure(given: argparse.Namespace, method: str, factor: float, texts: dict[str, TokenDataset]) -> dict[str, object]:
    """Fine-tune once, without keeping the run, and return the losses."""
    model = load_config(given.base).model
    replay = (given.old, given.replay) if given.replay else None
    tokens = texts["new"].info.train.tokens
    plan = Finetuning(given.base, model, given.new, tokens, given.epochs, method == "full", replay)
    settings = plan.settings() | plan.recipe()
    settings["train.learning_rate"] *= factor
    settings |= {"train.eval_every_steps": 0, "checkpoint.keep_last": 1}
    settings |= METHODS[method] | dict(pair.split("=", 1) for pair in given.settings)
    config = load_config(PRESET, settings)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        api.train(config, Path(folder) / "run")
        seconds = time.perf_counter() - start
        after = losses(api.load(Path(folder) / "run", checkpoint="latest").model, texts)
    row = {
        "method": method,
        "learning_rate": config.train.learning_rate,
        "trained": count_trainable(config.model, config.lora) / count_parameters(config.model),
        **{name: loss for name, (loss, _) in after.items()},
        "steps": config.train.max_steps,
        "seconds": round(seconds, 1),
    }
    print(row, flush=True)
    return row


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"torch": str(torch.__version__), "device": device, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    main()
