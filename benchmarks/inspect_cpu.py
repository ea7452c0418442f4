"""How long one waits to see something: the first overview and one further head, at GPT-2's size, on this CPU.

    python benchmarks/inspect_cpu.py

The weights are random, which costs the same. Figures are the median of the rounds, with the least and most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from glassgpt import console
from glassgpt.data import load_tokenizer
from glassgpt.inspection.trace import Trace, trace_tokens
from glassgpt.inspection.wire import array, overview
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

MOST_SECONDS = {"first overview": 2.0, "one further head": 0.15}
"""What was promised."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    model, tokenizer = build_model(ModelConfig(vocab_size=50257)).eval(), load_tokenizer("gpt2")
    tokens = torch.randint(50256, (asked.tokens,)).tolist()
    rounds = [measure(model, tokenizer, tokens, layer) for layer in range(asked.rounds)]
    rows = [_row(name, [each[name] for each in rounds]) for name in rounds[0]]
    title = f"GPT-2's size, {asked.tokens} tokens, {asked.threads} threads"
    console.table(title, ["what", "median", "least", "most", "bytes", "promised"], rows)


def measure(model: Any, tokenizer: Any, tokens: list[int], round_number: int) -> dict[str, tuple[float, int]]:
    """Seconds and bytes sent, by what was asked for; another block's head in each round."""
    found: dict[str, tuple[float, int]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        size = len(result) if isinstance(result, bytes) else 0
        found[name] = time.perf_counter() - start, size
        return result

    traced: Trace = timed("run and record", lambda: trace_tokens(model, tokenizer, tokens))
    timed("overview alone", lambda: json.dumps(overview(traced)).encode())
    found["first overview"] = found["run and record"][0] + found["overview alone"][0], found["overview alone"][1]
    head = f"blocks.{round_number % model.config.n_layer}.attention.weights"
    fresh = trace_tokens(model, tokenizer, tokens)  # in which nothing was computed yet
    timed("one further head", lambda: array(fresh, head, 3)[0])
    timed("logits of a token", lambda: array(fresh, "logits", 7)[0])
    return found


def _row(name: str, figures: list[tuple[float, int]]) -> list[str]:
    seconds = [each[0] for each in figures]
    promised = f"< {1000 * MOST_SECONDS[name]:,.0f} ms" if name in MOST_SECONDS else ""
    times = [statistics.median(seconds), min(seconds), max(seconds)]
    return [name, *(f"{1000 * value:,.1f} ms" for value in times), f"{figures[0][1]:,}", promised]


if __name__ == "__main__":
    main()
