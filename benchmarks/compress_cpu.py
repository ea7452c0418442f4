"""Measure decoding of GPT-2 124M in float32, int8 and int4 on this CPU: `python -m benchmarks.compress_cpu [--onnx FILE]`.

A step is one new token for each sequence after 64 tokens, without sampling. The programs take turns, and the least time of many
steps counts, as wall time and as CPU time. With `--onnx`, the model that `glassgpt export --format onnx --weights int4` wrote is
measured in ONNX Runtime in the same turns (batch 1). Weights are random: the time does not depend on them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.bench import memory_bandwidth
from glassgpt.generation.cpu.int4 import instruction_level
from glassgpt.generation.cpu.packed_product import LEVELS
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.hardware import versions

RESULT = Path(__file__).parent / "results" / "compress.json"
PROMPT = 64
VOCABULARY = 50257
Step = Callable[[], object]


def models() -> dict[str, LanguageModel]:
    torch.manual_seed(0)
    original = build_model(ModelConfig(vocab_size=VOCABULARY)).eval()
    compressed = {
        method.name: method.apply(original, None, SILENT.progress).eval() for method in (Int8(), Int4("nearest"))
    }
    return {
        "float32": prepare_for_decoding(original, "float32"),
        **{name: prepare_for_decoding(model) for name, model in compressed.items()},
    }


@torch.inference_mode()
def step_of(model: LanguageModel, batch: int) -> Step:
    cache = KVCache(model.config, batch, 2 * PROMPT)
    model.features(torch.randint(VOCABULARY, (batch, PROMPT)), cache)
    tokens = torch.randint(VOCABULARY, (batch, 1))

    @torch.inference_mode()
    def step() -> object:
        cache.truncate([PROMPT] * batch)
        return model(tokens, cache)

    return step


def step_of_onnx(file: Path, threads: int) -> Step:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    shape = {"batch_size": 1, "sequence_length": 1, "past_sequence_length": PROMPT, "total_sequence_length": PROMPT + 1}
    feeds = {}
    for each in session.get_inputs():
        size = [d if isinstance(d, int) else shape.get(d, PROMPT + 1) for d in each.shape]
        kind = np.int64 if "int64" in each.type else np.float32
        feeds[each.name] = np.full(size, PROMPT if each.name == "position_ids" else 1, dtype=kind)
    return lambda: session.run(None, feeds)


def least(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    wall = dict.fromkeys(steps, float("inf"))
    cpu = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            for _ in range(4):
                start, used = time.perf_counter(), time.process_time()
                step()
                wall[name] = min(wall[name], time.perf_counter() - start)
                cpu[name] = min(cpu[name], time.process_time() - used)
    return {name: {"wall_ms": round(1e3 * wall[name], 3), "cpu_ms": round(1e3 * cpu[name], 3)} for name in steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, help="model.onnx with 4-bit weights, to measure in ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    prepared = models()
    results: list[dict[str, object]] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch in (1, 4, 8):
            steps = {name: step_of(model, batch) for name, model in prepared.items()}
            if arguments.onnx is not None and batch == 1:
                steps["onnxruntime int4"] = step_of_onnx(arguments.onnx, threads)
            measured = least(steps, arguments.rounds)
            for name, times in measured.items():
                rate = batch / times["wall_ms"] * 1e3
                print(
                    f"{threads} threads, batch {batch}, {name}: {times['wall_ms']:.2f} ms, {rate:.1f} tokens/s",
                    flush=True,
                )
                results.append(
                    {"threads": threads, "batch": batch, "name": name, **times, "tokens_per_second": round(rate, 1)}
                )
    content = {
        "what": "one decoding step of GPT-2 124M after 64 tokens, without sampling, the least of many",
        "instructions": LEVELS.get(instruction_level(), "none"),
        "load_average": os.getloadavg(),
        "copy_bandwidth_bytes_per_second": memory_bandwidth(torch.device("cpu")),
        "versions": versions(),
        "steps": results,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
