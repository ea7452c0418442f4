"""Check the bits of `glassgpt serve` on the device that it would choose: other sequences, too little memory, warm-up.

    python benchmarks/serve_parts/exactness.py --model gpt2 --slots 64 --memory-fraction 0.03 0.02     # on a GPU
    python benchmarks/serve_parts/exactness.py --model nano --slots 8                             # on a CPU

1. Texts and log-probabilities of prompts that are alone, and among others.
2. The same on servers whose share of the GPU's memory is too small for their slots.
3. CUDA graphs captured after /ready by batches of every size: none may be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from glassgpt import api
from serve_parts.load import StreamLoad, in_other_process, random_prompts, run_streams
from serve_parts.server import Server, make_run

SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 0},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 0},
    {"temperature": 1.0, "repetition_penalty": 1.2},
    {"temperature": 1.0, "logprobs": 2},
)
MARK = "captured a graph"
COUNTING = f"""
import sys
from glassgpt.generation.gpu import graphs, prompt_graphs
def counted(function):
    def call(*arguments, **named):
        print("{MARK}", file=sys.stderr, flush=True)
        return function(*arguments, **named)
    return call
graphs.GraphDecoder._capture = counted(graphs.GraphDecoder._capture)
prompt_graphs.PromptGraph.__init__ = counted(prompt_graphs.PromptGraph.__init__)
"""


def compare_answers(run: Path, slots: int, prompts: list[list[int]], new_tokens: int, alone: int) -> dict[str, Any]:
    """Return how many answers of a server change among others, and the answers."""
    server = Server(run, slots, "auto").wait()
    try:
        load = StreamLoad(server.port, prompts, new_tokens, 0, extras=SETTINGS)
        together = in_other_process(run_streams, load).answers
        single = [
            in_other_process(
                run_streams,
                replace(load, prompts=[prompts[at]], seed=at, extras=(SETTINGS[at % len(SETTINGS)],)),
            ).answers[0]
            for at in range(alone)
        ]
    finally:
        server.stop()
    return {
        "different": sum(a != b for a, b in zip(single, together[:alone], strict=True)),
        "compared": alone,
        "answers": together,
    }


def answers_with_little_memory(
    run: Path, slots: int, prompts: list[list[int]], new_tokens: int, fraction: float
) -> tuple[list[Any], list[str]]:
    """Return the answers of a server with little memory, none if it could not start, and what it said about it."""
    server = Server(run, slots, "auto", memory_fraction=fraction)
    try:
        server.wait()
    except RuntimeError:  # it has ended
        return [], server.lines[-1:]
    try:
        load = StreamLoad(server.port, prompts, new_tokens, 0, extras=SETTINGS)
        answers = in_other_process(run_streams, load).answers
    finally:
        server.stop()
    return answers, [line.strip() for line in server.lines if "memory" in line]


def graphs_after_ready(run: Path, slots: int, prompts: list[list[int]]) -> tuple[int, int]:
    """Return how many graphs were captured before /ready, and how many by later requests of the usual settings."""
    server = Server(run, slots, "auto", prelude=COUNTING).wait()
    before = sum(MARK in line for line in server.lines)
    try:
        for settings in SETTINGS[:4]:
            for size in (1, 2, 3, 5, 8, 13, 21, 30, 38, 45, 52, 60, 64):
                load = StreamLoad(server.port, prompts[:size], 20, 0, extras=(settings,))
                in_other_process(run_streams, load)
    finally:
        server.stop()
    return before, sum(MARK in line for line in server.lines) - before


def main() -> None:
    """Print the results as JSON; exit with 1 if bits differ or graphs were captured late."""
    parser = argparse.ArgumentParser(description="Bits of glassgpt serve.")
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--alone", type=int, default=12, help="answers that are also generated alone")
    parser.add_argument("--memory-fraction", type=float, nargs="+", default=[], help="one server for each share")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(given.model, Path(folder))
        loaded = api.load(run)
        vocab_size, context = loaded.tokenizer.vocab_size, loaded.model.config.context_length
        lengths = [1 + (37 * at) % min(200, context - given.new_tokens) for at in range(given.slots)]
        prompts = [random_prompts(vocab_size, 1, length, at)[0] for at, length in enumerate(lengths)]
        compared = compare_answers(run, given.slots, prompts, given.new_tokens, min(given.alone, given.slots))
        answers = compared.pop("answers")
        result: dict[str, Any] = {"alone and among others": compared}
        failed = compared["different"] > 0
        ran_short = False
        for fraction in given.memory_fraction:
            little, said = answers_with_little_memory(run, given.slots, prompts, given.new_tokens, fraction)
            different = sum(a != b for a, b in zip(answers, little, strict=bool(little)))
            found = {"different": different, "compared": len(little), "said": said}
            result[f"with {fraction:g} of the memory"] = found
            print(f"with {fraction:g} of the memory: {found}", file=sys.stderr)
            failed |= different > 0
            ran_short |= bool(said)
        if given.memory_fraction:
            before, after = graphs_after_ready(run, given.slots, prompts)
            result["graphs"] = {"before /ready": before, "later": after}
            failed |= after > 0 or not ran_short
    print(json.dumps(result, indent=1))
    sys.exit(failed)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
