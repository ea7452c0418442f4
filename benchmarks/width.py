"""Measure whether the best learning rate of a narrow model is the best of wider ones, with and without `model.base_width`.

    glassgpt prepare tinyshakespeare.txt --out data/shakespeare --tokenizer bytes
    python benchmarks/width.py --data data/shakespeare --out benchmarks/results/width.json [--picture docs/images/width.png]

Every trial trains one small model from scratch with one rate and one seed, and ends with its validation loss. Trials run in
several processes on one device, the most important ones first; each is appended to `trials.jsonl` beside the result
file as soon as it is complete, and trials found there are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from cpu_parts.machine import cpu_model, package_version
from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.model.build import build_model
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.outcomes import Skipped
from glassgpt.training.schedule import learning_rate_ratio
from glassgpt.training.step import TrainStep
from glassgpt.training.validation import Validator

BASE, HEAD_WIDTH = 64, 32
SHAPE = {"model.n_layer": 4, "model.context_length": 128, "model.init_std": 0.08, "train.batch_tokens": 4096,
         "schedule.kind": "linear", "schedule.warmup_steps": 30, "schedule.final_ratio": 0.0, "optimizer.beta2": 0.99,
         "train.eval_tokens": 65536}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "GPT2, AdamW": {},
    "Modern, Muon": {"model.arch": "modern", "model.bias": False, "optimizer.name": "muon", "train.clip_norm": 0.0,
                     "optimizer.embedding_rate_ratio": 14.0, "optimizer.head_rate_ratio": 0.4},
    "Modern, AdamW": {"model.arch": "modern", "model.bias": False, "optimizer.embedding_rate_ratio": 4.0},
    "GPT2, Muon": {"optimizer.name": "muon", "optimizer.embedding_rate_ratio": 0.3, "optimizer.vector_rate_ratio": 0.3},
}  # fmt: skip
"""Settings at the base width; everything that a rule does not scale stays the same at every width."""
RATES = {"adamw": [0.0005 * 2**i for i in range(7)], "muon": [0.0025 * 2**i for i in range(7)]}
RULES = ("none", "initial weights", "base width")
"""`none` keeps every setting, `initial weights` scales init_std alone, by 1/sqrt(width)."""
VARIANTS = (*RULES, "base width, embedding 1/sqrt(width)")
"""The rules between which the choice was made."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: what is varied. At the base width all rules are the same, so it has the rule `none`."""

    recipe: str
    rule: str
    width: int
    rate: float
    seed: int


def configuration(trial: Trial, data: Path, steps: int, changed: Mapping[str, str]) -> RunConfig:
    """Return the settings of a trial; `changed` replaces those of `SHAPE`."""
    settings = SHAPE | RECIPES[trial.recipe] | dict(changed)
    ratio = trial.width / BASE
    scaled: dict[str, Any] = {}
    if trial.rule == "initial weights":
        scaled["model.init_std"] = settings["model.init_std"] * ratio**-0.5
    if trial.rule.startswith("base width"):
        scaled["model.base_width"] = BASE
    if trial.rule.endswith("embedding 1/sqrt(width)"):
        scaled["optimizer.embedding_rate_ratio"] = settings.get("optimizer.embedding_rate_ratio", 1.0) * ratio**-0.5
    varied = {
        "data": str(data), "seed": trial.seed, "train.learning_rate": trial.rate, "train.max_steps": steps,
        "model.n_embd": trial.width, "model.n_head": trial.width // HEAD_WIDTH,
    }  # fmt: skip
    config = load_config(None, settings | scaled | varied)
    vocabulary = TokenDataset.open(data).vocab_size
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))


def train(
    trial: Trial, data: Path, steps: int, device: str, changed: Mapping[str, str]
) -> tuple[Trial, float | None, float]:
    """Train a trial; return it with its validation loss in nats, None if it diverged, and the seconds it took."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")  # rounding to 10 bits on a GPU is far below the differences of interest
    start = time.perf_counter()
    config, dataset = configuration(trial, data, steps, changed), TokenDataset.open(data)
    hardware = Hardware(torch.device(device), "fp32", compile=False)
    torch.manual_seed(trial.seed)
    model = build_model(config.model)
    step = TrainStep(model, dataset.split("train"), trainer_config(config), hardware, DistributedContext())
    try:
        with hardware.kernels():
            for number in range(1, steps + 1):
                rate = trial.rate * learning_rate_ratio(config.schedule, number - 1, steps)
                if isinstance(step.run(number, rate), Skipped):
                    return trial, None, time.perf_counter() - start
            loss = Validator(dataset.split("validation"), step, dataset, config.train).run().loss
    finally:
        step.close()
    return trial, loss if math.isfinite(loss) else None, time.perf_counter() - start


def planned(
    recipes: Sequence[str], rules: Sequence[str], widths: Sequence[int], seeds: int, chosen: Sequence[float]
) -> list[Trial]:
    """Return all trials, in order of importance: base and widest first, then more seeds, then the widths between."""
    order = sorted(widths, key=lambda width: (width != BASE, width != 4 * BASE, width))
    trials: list[Trial] = []
    for recipe, width, seed in itertools.product(recipes, order, range(1, seeds + 1)):
        rates = chosen or RATES[RECIPES[recipe].get("optimizer.name", "adamw")]
        trials += [
            Trial(recipe, rule, width, rate, seed) for rule in (rules if width != BASE else RULES[:1]) for rate in rates
        ]
    return sorted(trials, key=lambda trial: (trial.width not in (BASE, 4 * BASE), trial.seed > 2))


def run_all(trials: Iterable[Trial], log: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the trials that the log does not hold yet, until the time is over; return all lines of the log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {Trial(**{field.name: line[field.name] for field in dataclasses.fields(Trial)}) for line in lines}
    waiting = iter([trial for trial in trials if trial not in known])
    end = time.monotonic() + arguments.seconds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool, log.open("a") as file:
        running: set[Future[tuple[Trial, float | None, float]]] = set()
        while True:
            for trial in (
                itertools.islice(waiting, arguments.processes - len(running)) if time.monotonic() < end else ()
            ):
                running.add(
                    pool.submit(train, trial, arguments.data, arguments.steps, arguments.device, dict(arguments.set))
                )
            if not running:
                return lines
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial, loss, seconds = future.result()
                lines.append({**dataclasses.asdict(trial), "loss": loss, "seconds": round(seconds, 1)})
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()


def summary(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each recipe, rule and width, the mean loss of each rate over the seeds, and what follows from them.

    A rate at which any seed diverged has no loss. `loss_at_base_rate` is the loss with the rate that is best at the base
    width, `excess` how much it is above the lowest, and `steps_off` how many factors of 2 lie between the two rates.
    """
    losses: dict[tuple[str, str, int], dict[float, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        losses[line["recipe"], line["rule"], line["width"]][line["rate"]].append(line["loss"])
    rows: list[dict[str, Any]] = []
    for (recipe, rule, width), by_rate in sorted(losses.items()):
        base = _means(losses[recipe, "none", BASE])
        means = _means(by_rate)
        finite = {rate: loss for rate, loss in means.items() if loss is not None}
        if not finite or not any(loss is not None for loss in base.values()):
            continue
        best, best_at_base = min(finite, key=finite.__getitem__), _best(base)
        if best_at_base not in means:
            continue  # the time was over before the rates that matter
        spread = [max(seeds) - min(seeds) for rate in finite if (seeds := [x for x in by_rate[rate] if x is not None])]
        carried = finite.get(best_at_base)
        rows.append({
            "recipe": recipe, "rule": rule, "width": width, "seeds": min(map(len, by_rate.values())),
            "losses": {f"{rate:g}": loss and round(loss, 4) for rate, loss in sorted(means.items())},
            "best_rate": best, "best_rate_at_base": best_at_base, "steps_off": round(math.log2(best / best_at_base)),
            "loss": round(finite[best], 4), "loss_at_base_rate": carried and round(carried, 4),
            "excess": carried and round(carried - finite[best], 4), "median_spread": round(statistics.median(spread), 4),
        })  # fmt: skip
    return rows


def _means(by_rate: dict[float, list[float | None]]) -> dict[float, float | None]:
    return {
        rate: None if None in losses else statistics.fmean(x for x in losses if x is not None)
        for rate, losses in by_rate.items()
    }


def _best(means: dict[float, float | None]) -> float:
    return min((loss, rate) for rate, loss in means.items() if loss is not None)[1]


def draw(rows: Sequence[dict[str, Any]], picture: Path) -> None:
    """Plot the loss over the rate, one curve per width: recipes beside each other, without the rule above, with it below."""
    from matplotlib.figure import Figure

    recipes = [name for name in RECIPES if any(row["recipe"] == name for row in rows)]
    shown = {"none": "every setting kept", "base width": f"model.base_width = {BASE}"}
    widths = sorted({row["width"] for row in rows})
    colors = dict(zip(widths, ("#56B4E9", "#0072B2", "#D55E00", "#000000"), strict=False))
    figure = Figure(figsize=(3.4 * len(recipes), 6), layout="constrained")
    axes = figure.subplots(2, len(recipes), sharey="col", sharex="col", squeeze=False)
    for (line, (rule, title)), (column, recipe) in itertools.product(enumerate(shown.items()), enumerate(recipes)):
        own = axes[line][column]
        for row in rows:
            if row["recipe"] == recipe and (row["rule"] == rule or row["width"] == BASE):
                points = {float(rate): loss for rate, loss in row["losses"].items() if loss is not None}
                own.plot(
                    points.keys(),
                    points.values(),
                    color=colors[row["width"]],
                    label=f"width {row['width']}",
                    marker=".",
                )
                own.plot([row["best_rate"]], [row["loss"]], "o", color=colors[row["width"]])
        lowest = min(row["loss"] for row in rows if row["recipe"] == recipe)
        own.set(xscale="log", title=f"{recipe}\n{title}", ylim=(lowest - 0.03, lowest + 0.7))
        own.set_xscale("log", base=2)
        own.grid(alpha=0.3)
    for own in axes[-1]:
        own.set_xlabel("learning rate")
    axes[0][0].set_ylabel("validation loss (nats per byte)")
    axes[1][0].set_ylabel("validation loss (nats per byte)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    ordered = sorted(dict(zip(labels, handles, strict=True)).items(), key=lambda item: int(item[0].split()[1]))
    axes[0][-1].legend([handle for _, handle in ordered], [label for label, _ in ordered], loc="upper left")
    figure.savefig(picture, dpi=90)


def main() -> None:
    """Run, summarize, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3600.0, help="no trial starts later")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--rules", nargs="+", choices=VARIANTS, default=list(RULES))
    parser.add_argument("--rates", type=float, nargs="+", default=[])
    parser.add_argument(
        "--set", type=lambda text: tuple(text.split("=", 1)), nargs="+", default=[], metavar="NAME=VALUE"
    )
    parser.add_argument("--only-summarize", action="store_true")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    trials = planned(arguments.recipes, arguments.rules, arguments.widths, arguments.seeds, arguments.rates)
    lines = run_all([] if arguments.only_summarize else trials, arguments.out.parent / "trials.jsonl", arguments)
    rows = summary(lines)
    arguments.out.write_text(json.dumps(_report(rows, arguments), indent=2) + "\n")
    if arguments.picture:
        draw(rows, arguments.picture)
    for row in rows:
        cells = (
            row["recipe"],
            row["rule"],
            row["width"],
            f"best {row['best_rate']:g}",
            f"{row['steps_off']:+d}",
            row["excess"],
        )
        print(*cells, sep=" | ")


def _report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    is_gpu = arguments.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if is_gpu and torch.cuda.is_available() else cpu_model()
    return {
        "what": "validation loss over the learning rate at several widths, with and without model.base_width; mean over the seeds",
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "glassgpt": package_version("glassgpt"),
        },
        "command": "python benchmarks/width.py " + shlex.join(sys.argv[1:]),
        "settings": {
            "base_width": BASE,
            "head_width": HEAD_WIDTH,
            "steps": arguments.steps,
            **SHAPE,
            **dict(arguments.set),
            "recipes": RECIPES,
        },
        "rows": rows,
    }


if __name__ == "__main__":
    main()
