"""Decoding with matrices and cache in 8 bits on a GPU, in turns with bfloat16: GPT-2 124M with random weights, as in `gpu_generate.py`.

Tokens per second are measured as there (decision 20). Before anything is timed, the kernels are compared with the model in
float32 whose matrices, and keys and values, are rounded in PyTorch; a sequence must have the same bits in every batch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from cpu_parts.mixed import Mixture
from glassgpt.data.files import write_atomically
from glassgpt.generation.bench import TOP_50, WARM_UPS, GenerationWorkload, endless_tokenizer, time_round
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.precision import Precision, prepare_for_decoding, to_fp8
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel
from gpu_parts.agreement import (
    KERNELS,
    PYTORCH,
    Stepping,
    is_batch_invariant,
    is_deterministic,
    is_independent_of_other_requests,
    logits_differences,
)

RESULTS = Path(__file__).parent / "results" / "generate-fp8.json"
PRECISIONS: tuple[Precision, ...] = ("auto", "fp8", "fp8-kv")
"""`auto` is bfloat16."""
PROMPT_TOKENS, NEW_TOKENS = 64, 256
GOALS = {1: 5200, 64: 140_000}
MIXTURE = Mixture(requests=64, prompts=(16, 300), outputs=(16, 200), at_once=64)
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "modern": {"arch": "modern", "bias": False, "n_layer": 4, "n_kv_head": 6, "window": 128},
    "llama": {"arch": "llama", "bias": False, "n_layer": 4, "n_kv_head": 4},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random_model(**shape: Any) -> LanguageModel:
    """GPT-2 124M, or another shape, with random weights in float32."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"vocab_size": GPT2_VOCAB_SIZE, "context_length": 1024, **shape}
    model = build_model(ModelConfig(**settings)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # Modern's zero-initialized projections would hide errors
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to(DEVICE)


def prepared(model: LanguageModel, precision: Precision) -> LanguageModel:
    """The model as it decodes on a GPU; without one, for trying the script, in float32."""
    if DEVICE == "cuda":
        return prepare_for_decoding(model, precision)
    return model if precision == "auto" else to_fp8(model, cache=precision == "fp8-kv").float()


def checked(
    model: LanguageModel, precision: Precision, *, tokens: int = 48, mixture: Mixture = MIXTURE
) -> dict[str, Any]:
    """Compare the kernels with the rounded model in float32.

    Raises:
        SystemExit: a guarantee is broken.
    """
    low = prepared(model, precision)
    reference = to_fp8(model, cache=precision == "fp8-kv").float()
    differences = logits_differences(reference, low, tokens)
    guarantees = {
        "logits as close to the rounded model in float32 as PyTorch's": differences[KERNELS]
        <= 1.25 * differences[PYTORCH] + 1e-3,
        "the same bits when run twice": is_deterministic(low),
        "a row's logits bit-equal in batches of 1 to 64": is_batch_invariant(low),
        "a request's text is the same among others and alone": is_independent_of_other_requests(low, mixture),
    }
    result = {
        "logits, largest difference from the rounded model in float32": differences,
        "logits, largest difference of the float32 model by rounding": rounding_error(model, reference),
        **guarantees,
        "logits that differ from the bfloat16 kernels with rounded matrices": differing_logits(low),
    }
    print(json.dumps({precision: result}), flush=True)
    if broken := [name for name, holds in guarantees.items() if not holds]:
        raise SystemExit(f"{precision}: broken guarantees: {'; '.join(broken)}")
    return result


@torch.inference_mode()
def rounding_error(model: LanguageModel, reference: LanguageModel) -> float:
    """The largest difference of logits that rounding the matrices makes."""
    tokens = torch.randint(model.config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(5)).to(DEVICE)
    return (model(tokens) - reference(tokens)).abs().max().item()


@torch.inference_mode()
def differing_logits(low: LanguageModel, rows: int = 8, tokens: int = 12) -> float:
    """The share of logits whose bits differ when the kernels read the same rounded matrices in bfloat16."""
    texts = torch.randint(low.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(5))
    in_fp8 = Stepping(low, rows).logits(texts)
    low.fp8_weights = False
    try:
        return (Stepping(low, rows).logits(texts) != in_fp8).float().mean().item()
    finally:
        low.fp8_weights = True


def speeds(
    models: dict[str, LanguageModel], batches: Sequence[int], rounds: int, prompt_tokens: int, new_tokens: int
) -> dict[int, dict[str, Any]]:
    """Tokens per second of each model at each batch size, the models in turns."""
    results: dict[int, dict[str, Any]] = {}
    for batch in batches:
        load = GenerationWorkload((batch,), prompt_tokens, new_tokens, rounds, TOP_50)
        engines = {
            name: Engine(model, endless_tokenizer(model), slots=batch, capacity=prompt_tokens + new_tokens)
            for name, model in models.items()
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for seed in range(WARM_UPS + rounds):
            for name, engine in engines.items():
                times[name].append(
                    time_round(engine, models[name].config.vocab_size, batch, load, seed, lambda count: None)
                )
        results[batch] = {name: _summary(taken[WARM_UPS:], batch * new_tokens) for name, taken in times.items()}
        print(batch, json.dumps(results[batch]), flush=True)
    return results


def _summary(times: Sequence[tuple[float, float]], tokens: int) -> dict[str, Any]:
    rates = sorted(tokens / last for _, last in times)
    return {
        "tokens_per_second": statistics.median(rates),
        "lowest": rates[0],
        "highest": rates[-1],
        "first_token_ms": 1e3 * statistics.median(first for first, _ in times),
    }


def main() -> None:
    """Check, measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-check", action="store_true", help="measure only")
    chosen = parser.parse_args()
    agreement: dict[str, Any] = {}
    if not chosen.no_check:
        agreement = {
            name: {precision: checked(random_model(**shape), precision) for precision in PRECISIONS[1:]}
            for name, shape in SHAPES.items()
        }
    model = random_model()
    measured = speeds(
        {each: prepared(model, each) for each in PRECISIONS}, (1, 8, 64), chosen.rounds, PROMPT_TOKENS, NEW_TOKENS
    )
    result = {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/gpu_fp8.py",
        "hardware": {"gpu": torch.cuda.get_device_name(), "cpu_cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "settings": {"rounds": chosen.rounds, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "top_k": 50, "goals": GOALS},
        "agreement": agreement,
        "speeds": measured,
    }  # fmt: skip
    write_atomically(chosen.out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
