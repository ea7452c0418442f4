"""Perplexity of exported files in the programs that they are for, on a trained model: `python benchmarks/export_quality.py RUN`.

Each format is exported, opened in its engine, and given the held-out text of the run in windows of the context length. The
figure is its perplexity over that of the run in float32. Further columns are the largest error of a logit on the ten prompts of
`glassgpt export --check`, and how many greedy continuations are equal. Engines that are not installed are left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from cpu_parts.machine import usable_cores
from cpu_parts.results import report, write_report
from glassgpt import console
from glassgpt.api.loading import load_checkpoint
from glassgpt.config import held_out_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.data.validation import validation_windows
from glassgpt.evaluation.loss import evaluate_dataset, require_same_tokenizer
from glassgpt.interchange.agreement import compare_with_engine
from glassgpt.interchange.formats.base import Engine, ExportOptions
from glassgpt.interchange.formats.registry import FORMATS
from glassgpt.model.config import ModelConfig

PACKAGES = ("glassgpt", "torch", "onnxruntime", "cyllama", "ctranslate2", "gguf", "numpy")


@dataclass(frozen=True)
class Quality:
    """An exported model in its engine.

    Attributes:
        format: of the export.
        weights: how it stores them.
        megabytes: of the exported folder.
        perplexity: on the held-out text.
        increase: over that of the run in float32.
        max_error: largest error of a logit on the ten prompts.
        max_logit: largest logit of the run on them.
        argmax_share: share of their positions with the same most likely token.
        equal_texts: of the ten greedy continuations.
    """

    format: str
    weights: str
    megabytes: float
    perplexity: float
    increase: float
    max_error: float
    max_logit: float
    argmax_share: float
    equal_texts: int


def can_run(name: str, config: ModelConfig) -> bool:
    """Return whether a format takes the architecture and its engine is installed."""
    form = FORMATS[name]
    packages = (*form.packages, *form.engine_packages)
    return (
        form.open_engine is not None
        and config.arch in form.architectures
        and name != "web"  # the graph of onnx
        and all(importlib.util.find_spec(package) for package in packages)
    )


def engine_loss(engine: Engine, dataset: TokenDataset, context: int, limit: int) -> float:
    """Return the mean loss in nats of an engine on a held-out text."""
    total, count = 0.0, 0
    for inputs, targets in validation_windows(dataset.split("validation"), context, batch_size=1, limit=limit):
        logits = torch.from_numpy(engine.logits(inputs[0].tolist()))
        total += float(F.cross_entropy(logits, targets[0], reduction="sum"))
        count += targets.numel()
    return total / count


def measure(run: Path, data: Path | None, threads: int, name: str, weights: str, limit: int) -> Quality:
    """Export a run, and measure it in its engine; `threads` are those of PyTorch."""
    torch.set_num_threads(threads)
    loaded, _ = load_checkpoint(run, "best", "cpu", "float32", 1)
    model, form = loaded.model, FORMATS[name]
    assert form.open_engine is not None
    dataset = TokenDataset.open(held_out_folder(run, data))
    require_same_tokenizer(loaded.tokenizer.fingerprint, dataset)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        form.write(model, loaded.tokenizer, folder, ExportOptions(weights))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        engine = form.open_engine(folder, model.config)
        before = evaluate_dataset(model, dataset, limit=limit).loss
        after = engine_loss(engine, dataset, model.config.context_length, limit)
        found = compare_with_engine(model, loaded.tokenizer, engine)
    return Quality(
        name, weights, round(size / 1e6, 1), math.exp(after), math.exp(after - before) - 1,
        max(each.max_error for each in found), max(each.max_logit for each in found),
        min(each.argmax_share for each in found), sum(each.same_greedy == each.n_greedy for each in found),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Perplexity of exported files in the programs that they are for.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="dataset whose held-out text is used; by default that of the run")
    parser.add_argument("--formats", nargs="+", default=["onnx", "gguf", "ct2"], choices=FORMATS)
    parser.add_argument("--weights", nargs="+", help="how the formats store weights; by default every way")
    parser.add_argument("--tokens", type=int, default=16384, help="held-out tokens")
    parser.add_argument("--jobs", type=int, default=1, help="exports measured at once")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    chosen = parser.parse_args(given)
    loaded, _ = load_checkpoint(chosen.run, "best", "cpu", "float32", 1)
    config = loaded.model.config
    del loaded
    names = [name for name in chosen.formats if can_run(name, config)]
    work = functools.partial(measure, chosen.run, chosen.data, max(1, len(usable_cores()) // chosen.jobs))
    with ProcessPoolExecutor(chosen.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(work, name, weights, chosen.tokens)
            for name in names
            for weights in FORMATS[name].weights
            if not chosen.weights or weights in chosen.weights
        ]
        rows = [each.result() for each in waiting]
    columns = ("format", "weights", "MB", "perplexity", "increase", "largest error", "same token", "equal texts")
    console.table(f"{chosen.run.name}, {chosen.tokens:,} held-out tokens", columns, [_cells(row) for row in rows])
    if chosen.out is not None:
        what = f"{config.arch}, {config.n_layer} layers of width {config.n_embd}, exported and run in each engine"
        settings: dict[str, Any] = {"tokens": chosen.tokens}
        content = report(what, [], command=("export_quality.py", *given), settings=settings, packages=PACKAGES)
        write_report(chosen.out, content | {"what": what, "rows": [asdict(row) for row in rows]})


def _cells(row: Quality) -> list[str]:
    return [
        row.format,
        row.weights,
        f"{row.megabytes:.1f}",
        f"{row.perplexity:.4f}",
        f"{100 * row.increase:+.3f} %",
        f"{row.max_error:.1e} of {row.max_logit:.1f}",
        f"{100 * row.argmax_share:.1f} %",
        f"{row.equal_texts} of 10",
    ]


if __name__ == "__main__":
    main()
