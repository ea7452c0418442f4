"""Measure the cost of adapters at generation, and of quantizing them.

    python -m benchmarks.adapters --out benchmarks/results/adapters.json
    python -m benchmarks.adapters --adapter runs/book --data data/book      # of a real adapter: the loss in int8 and int4

The first measures decoding of GPT-2 124M with random weights on this CPU: eight sequences without adapters, the same ones
with four adapters of rank 16 beside the weights, and two sequences on each of four merged models, one after the other. The
programs take turns; the least time of many steps counts.
The second compares a merged model in int8 and int4 with the adapter in float32 beside the quantized weights of its base.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from glassgpt import api
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.adapters import AdapterLayers, Selection, adapter_layers, with_adapters
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import add_lora
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import find_base, find_checkpoint, load_adapter, load_model, read_adapter
from glassgpt.training.hardware import versions
from glassgpt.training.run_folder import RunFolder

PROMPT, SEQUENCES, ADAPTERS = 64, 8, 4
TOKENS = 65_536
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = steps(given.rounds) if given.adapter is None else losses(given.adapter, given.data)
    conditions = {**versions(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    if given.out:
        given.out.write_text(json.dumps({"rows": rows, **conditions}, indent=1) + "\n")
    print(conditions)


def steps(rounds: int) -> list[dict[str, object]]:
    """Return the milliseconds of a step of all sequences, by precision and way of having adapters."""
    torch.manual_seed(0)
    original = build_model(ModelConfig(vocab_size=50257)).eval()
    four = Int4("nearest").apply(original, None, SILENT.progress).eval()
    rows: list[dict[str, object]] = []
    for precision, model in {
        "float32": prepare_for_decoding(original, "float32", batch_size=SEQUENCES),
        "int8": prepare_for_decoding(original, "int8", batch_size=SEQUENCES),
        "int4": prepare_for_decoding(four, batch_size=SEQUENCES),
    }.items():
        times = measure(programs(model, random_adapters(original)), rounds)
        rows += [{"precision": precision, "program": name, "ms": ms} for name, ms in times.items()]
        print(precision, {name: round(ms, 1) for name, ms in times.items()}, flush=True)
    return rows


def random_adapters(model: LanguageModel) -> dict[str, AdapterLayers]:
    found: dict[str, AdapterLayers] = {}
    for number in range(ADAPTERS):
        adapted = add_lora(build_model(model.config), Adapter("", LoRAConfig(rank=16)))
        found[f"a{number}"] = adapter_layers(adapted)
    return found


def programs(model: LanguageModel, adapters: dict[str, AdapterLayers]) -> dict[str, Step]:
    selection = Selection()
    selection.select([list(adapters)[at % ADAPTERS] for at in range(SEQUENCES)])
    alone = step_of(model, SEQUENCES // ADAPTERS)
    return {
        "no adapter": step_of(model, SEQUENCES),
        "4 adapters beside the weights": step_of(with_adapters(model, adapters, selection), SEQUENCES),
        # The weights of merged models differ; for the time only their number counts, if one does not fit the cache.
        "4 merged models in turn": lambda: [alone() for _ in range(ADAPTERS)],
    }


def step_of(model: LanguageModel, batch: int) -> Step:
    cache = KVCache(model.config, batch, 2 * PROMPT)
    with torch.inference_mode():
        model.features(torch.randint(50257, (batch, PROMPT)), cache)
    tokens = torch.randint(50257, (batch, 1))

    @torch.inference_mode()
    def step() -> object:
        cache.truncate([PROMPT] * batch)
        return model(tokens, cache)

    return step


def measure(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the least milliseconds of each step; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(taken) for name, taken in times.items()}


def losses(run: Path, data: Path) -> list[dict[str, object]]:
    """Return the held-out loss of an adapter, merged and beside the weights of its base, in each precision."""
    path = find_checkpoint(RunFolder(run), "best")
    adapter = read_adapter(path)
    if adapter is None:
        raise SystemExit(f"{run} is not an adapter")
    base, merged, dataset = (
        load_model(find_base(path, adapter)),
        api.load(run, device="cpu").model,
        TokenDataset.open(data),
    )
    layers = {"a": adapter_layers(load_adapter(base, path))}

    def beside(model: LanguageModel) -> LanguageModel:
        return with_adapters(model, layers, Selection("a"))

    models: dict[str, LanguageModel] = {"base": base, "float32, merged": merged, "float32, beside": beside(base)}
    for name, method in {"int8": Int8(), "int4": Int4("nearest")}.items():
        for way, model in {"merged": merged, "beside": base}.items():
            quantized = method.apply(model, None, SILENT.progress).eval()
            models[f"{name}, {way}"] = quantized if way == "merged" else beside(quantized)
    rows: list[dict[str, object]] = []
    for name, model in models.items():
        loss = evaluate_dataset(model, dataset, limit=TOKENS).loss
        rows.append({"model": name, "loss": loss})
        print(f"{name:20} {loss:.5f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
