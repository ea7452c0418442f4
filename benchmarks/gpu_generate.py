"""Generation on a GPU by glassgpt and transformers, in one run: GPT-2 124M with random weights in bfloat16, top-k 50.

Tokens per second are over the whole call, prefill included, after two warm-up calls. The mixed part asks for 64 texts of
different length: continuous batching against static batches, where all prompts are padded to the longest and all texts are
generated to the length of the longest. Before anything is timed, `gpu_parts.agreement` compares the kernels with float32,
and samples with processors and noise in PyTorch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import triton

from cpu_parts.measure import Row, Target, compare
from cpu_parts.mixed import Mixture, Request, continuous, left_pad, useful_tokens
from glassgpt.data.files import write_atomically
from glassgpt.generation.bench import TOP_50, GenerationSpeed, GenerationWorkload, endless_tokenizer, measure_generation
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import to_bfloat16
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel
from gpu_parts.agreement import agreement

RESULTS = Path(__file__).parent / "results" / "generate-gpu.json"
PROMPT_TOKENS, NEW_TOKENS, TOP_K = 64, 256, 50
ROUNDS = 3
MIXTURE = Mixture(requests=64, prompts=(16, 900), outputs=(16, 400), at_once=64)
TARGETS = {1: 2800, 64: 80_000}
GOALS = {1: 4500, 64: 120_000}
DEFAULT, STATIC = "transformers", "transformers, static cache, compiled"


def our_model(context: int = 1024, **shape: Any) -> LanguageModel:
    """GPT-2 124M with random weights, in float32."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=GPT2_VOCAB_SIZE, context_length=context, **shape)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # Modern's zero-initialized projections would hide errors
            torch.nn.init.normal_(parameter, std=0.02)
    return model.cuda()


def checked() -> dict[str, Any]:
    """Compare the kernels with readable reference implementations for each architecture."""
    shapes: dict[str, dict[str, Any]] = {
        "gpt2": {},
        "modern": {"arch": "modern", "bias": False, "n_kv_head": 6, "window": 128},
        "llama": {"arch": "llama", "bias": False, "n_kv_head": 4},
    }
    return {
        name: agreement(our_model(MIXTURE.prompts[1] + MIXTURE.outputs[1], **shape), mixture=MIXTURE)
        for name, shape in shapes.items()
    }


def ours(
    model: LanguageModel, batches: tuple[int, ...], rounds: int, options: GenerationOptions = TOP_50
) -> tuple[dict[int, GenerationSpeed], dict[str, Any]]:
    """Return the speed at each batch size, and the conditions of the measurement."""
    load = GenerationWorkload(batches, PROMPT_TOKENS, NEW_TOKENS, rounds, options)
    speeds, about = measure_generation(model, load)
    return {speed.batch: speed for speed in speeds}, about


def their_model(context: int) -> Any:
    """GPT-2 124M as transformers has it."""
    config = transformers.GPT2Config(n_positions=context, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(config).eval().to("cuda", torch.bfloat16)


def their_rates(model: Any, batch: int, rounds: int, **how: Any) -> list[float]:
    """Tokens per second of each round."""
    rates: list[float] = []
    for seed in range(2 + rounds):
        prompts = torch.randint(
            GPT2_VOCAB_SIZE, (batch, PROMPT_TOKENS), generator=torch.Generator().manual_seed(seed)
        ).cuda()
        seconds = timed(lambda prompts=prompts: their_texts(model, prompts, NEW_TOKENS, **how))
        rates.append(batch * NEW_TOKENS / seconds)
    return rates[2:]


def their_texts(model: Any, prompts: torch.Tensor, new_tokens: int, **how: Any) -> torch.Tensor:
    """Measure generation with transformers."""
    texts = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=TOP_K, temperature=1.0,
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=0, **how,
    )  # fmt: skip
    if texts.shape[1] != prompts.shape[1] + new_tokens:
        raise SystemExit(f"transformers wrote {texts.shape[1] - prompts.shape[1]} tokens instead of {new_tokens}")
    return texts


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds of some work, until the GPU has finished it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def mixed(rounds: int, *, compiled: bool) -> dict[str, list[float]]:
    """Useful tokens per second of each way to serve the mixed requests."""
    requests, context = MIXTURE.draw(), MIXTURE.prompts[1] + MIXTURE.outputs[1]
    useful, most = useful_tokens(requests), max(request.new_tokens for request in requests)
    prompts, _ = left_pad([request.prompt for request in requests])
    padded = [Request(prompt, most) for prompt in prompts.tolist()]
    model = to_bfloat16(our_model(context))
    serve = continuous(model, endless_tokenizer(model), MIXTURE.at_once, replace(TOP_50, seed=0))
    rates = {
        "glassgpt, continuous": [useful / timed(lambda: serve(requests)) for _ in range(2 + rounds)][2:],
        "glassgpt, static": [useful / timed(lambda: serve(padded)) for _ in range(2 + rounds)][2:],
    }
    there, peer = prompts.cuda(), their_model(context)
    rates[DEFAULT] = [useful / timed(lambda: their_texts(peer, there, most)) for _ in range(1 + rounds)][1:]
    if compiled:
        how = {"cache_implementation": "static"}
        rates[STATIC] = [useful / timed(lambda: their_texts(peer, there, most, **how)) for _ in range(2 + rounds)][2:]
    return rates


def promised(row: Row, least: float) -> Row:
    """Return a row with a target for its figure, not for a ratio."""
    return replace(row, target=f">= {least:g} {row.unit}", met=row.figure >= least)


def measure(rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Measure everything; return the content of the result file."""
    rows: list[Row] = []
    agrees = checked()
    print(json.dumps(agrees, indent=1), flush=True)
    model = our_model()
    speeds, about = ours(model, (1, 8, 64), rounds)
    by_default, _ = ours(model, (1, 64), rounds, GenerationOptions())
    for of in (speeds, by_default):
        print({batch: round(speed.tokens_per_second) for batch, speed in of.items()}, flush=True)
    peer = their_model(1024)
    for batch, target in TARGETS.items():
        rates = {DEFAULT: their_rates(peer, batch, rounds)}
        if compiled:
            rates[STATIC] = their_rates(peer, batch, rounds, cache_implementation="static")
        speed = speeds[batch]
        rates["glassgpt"] = [speed.spread[0], speed.tokens_per_second, speed.spread[1]]
        part = f"batch {batch}, prompt {PROMPT_TOKENS}, {NEW_TOKENS} new tokens"
        *others, written = compare(part, "tokens/s", rates, DEFAULT)
        rows += [*others, promised(written, target)]
        print(part, {name: [round(rate) for rate in of] for name, of in rates.items()}, "target", target, flush=True)
    rates = mixed(rounds, compiled=compiled)
    print("mixed", {name: [round(rate) for rate in of] for name, of in rates.items()}, flush=True)
    rows += compare(
        "64 requests of mixed length, useful tokens",
        "tokens/s",
        rates,
        STATIC if compiled else DEFAULT,
        {"glassgpt, continuous": Target(">=", 3)},
    )
    return {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": f"python benchmarks/gpu_generate.py{'' if compiled else ' --no-compile'}",
        "hardware": {"gpu": torch.cuda.get_device_name(), "cpu_cores": len(os.sched_getaffinity(0))},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "triton": triton.__version__,
        },
        "settings": {
            "rounds": rounds, "mixture": asdict(MIXTURE),
            "targets_tokens_per_second": TARGETS, "goals_tokens_per_second": GOALS, **about,
        },
        "agreement": agrees,
        "glassgpt": [asdict(speed) for speed in speeds.values()],
        "glassgpt, generate's own settings": [asdict(speed) for speed in by_default.values()],
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled transformers, which take minutes")
    chosen = parser.parse_args()
    result = measure(ROUNDS, compiled=not chosen.no_compile)
    write_atomically(chosen.out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
