"""Compare full, windowed and linear attention on a GPU: agreement with the formula, time and memory over the context, loss.

    python benchmarks/gpu_attention.py agreement --out OUT
    python benchmarks/gpu_attention.py kernels steps --out OUT
    python benchmarks/gpu_attention.py alternate --out OUT --contexts 4096 --only full "windows SSSL"
    python benchmarks/gpu_attention.py loss --data DATA --out OUT [--seeds 1 2]

Each part writes OUT/PART.json after every row: a part that is stopped keeps its rows. `agreement` ends with exit code 1
if an implementation is further from the formula than PyTorch's own kernel for full attention is. The parts with times
need the GPU for themselves.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glassgpt.data.files import write_atomically
from gpu_parts import alternating, mixing

Row = dict[str, Any]


class Results:
    """The rows of one part, written after each."""

    def __init__(self, folder: Path, part: str) -> None:
        self._path = folder / f"{part}.json"
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Append a row, write the file, and print the row."""
        self.rows.append(row)
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "command": " ".join(["python", "benchmarks/gpu_attention.py", *sys.argv[1:]]),
        }
        write_atomically(self._path, json.dumps({**about, "rows": self.rows}, indent=1).encode() + b"\n")
        print(json.dumps(row), flush=True)


def attempt(results: Results, row: Row, measure: Callable[[], Row]) -> bool:
    """Add what was measured to a row, or why it failed, and add the row; return whether it succeeded."""
    try:
        row = {**row, **measure()}
    except Exception as error:  # noqa: BLE001 - one failure must not cost the other rows; it is a result
        row = {**row, "failed": f"{type(error).__name__}: {str(error)[:300]}"}
    results.add(row)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return "failed" not in row


def agreement(arguments: argparse.Namespace, results: Results) -> bool:
    """Compare every implementation with the formula in double precision, forward and backward."""
    done = [attempt(results, case.describe(), case.compare) for case in mixing.agreement_cases(arguments.small)]
    # As exact as PyTorch's kernel for full attention in the same precision, with a margin for the other order of sums.
    limits = {row["dtype"]: 2 * max(row["errors"].values()) for row in results.rows if row["name"] == mixing.YARDSTICK}
    exact = [max(row["errors"].values()) <= limits[row["dtype"]] for row in results.rows if "errors" in row]
    return all(done) and all(exact)


def linear(arguments: argparse.Namespace, results: Results) -> bool:
    """Compare the forms of the gated delta rule with the one by token in double precision."""
    done = [attempt(results, row, measure) for row, measure in mixing.delta_rule_cases(arguments.small)]
    return all(done)


def decode(arguments: argparse.Namespace, results: Results) -> bool:
    """Measure memory and speed of decoding over the context."""
    for row, measure in mixing.decode_cases(arguments.only, arguments.contexts, arguments.small):
        attempt(results, row, measure)
    return True


def kernels(arguments: argparse.Namespace, results: Results) -> bool:
    """Time attention alone, forward and backward, over the context."""
    for case in mixing.kernel_cases(arguments.contexts, arguments.small):
        attempt(results, case.describe(), case.time)
    return True


def steps(arguments: argparse.Namespace, results: Results) -> bool:
    """Time training steps of a 124M model and record their memory, over the context."""
    for row, measure in mixing.step_cases(arguments.only, arguments.contexts, arguments.small):
        attempt(results, row, measure)
    return True


def alternate(arguments: argparse.Namespace, results: Results) -> bool:
    """Time training steps of the variants in turns, at each context; ratios are relative to the first variant."""
    all_good = True
    for context in arguments.contexts:
        together = alternating.Together(arguments.out, *arguments.together)
        rows, failed = alternating.alternate(
            arguments.only, context, arguments.rounds, arguments.seconds, arguments.small, together
        )
        for row in (*rows, *failed):
            results.add({"context": context, **row})
        all_good = all_good and not failed
        torch.cuda.empty_cache()
    return all_good


def loss(arguments: argparse.Namespace, results: Results) -> bool:
    """Train on the same tokens with each kind of attention."""
    for row, measure in mixing.loss_cases(arguments.only, arguments.data, arguments.seeds, arguments.small):
        attempt(results, row, measure)
    return True


PARTS = {
    "agreement": agreement, "linear": linear, "kernels": kernels, "steps": steps, "alternate": alternate, "loss": loss,
    "decode": decode,
}  # fmt: skip


def main() -> int:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="dataset in GPT-2's tokens, for loss")
    parser.add_argument("--only", nargs="*", choices=mixing.VARIANTS, default=list(mixing.VARIANTS)[:-1])
    parser.add_argument("--contexts", type=int, nargs="*", default=mixing.CONTEXTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--rounds", type=int, default=12, help="how often alternate times a variant; 0 compiles only")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no round of alternate starts later")
    parser.add_argument(
        "--together",
        type=int,
        nargs=2,
        metavar=("PROCESSES", "SECONDS"),
        default=(1, 0),
        help="alternate: compile beside other such processes, whose OUT are in one folder, and be timed after each other; "
        "wait for the others that long at most",
    )
    parser.add_argument("--tf32", action="store_true", help="round float32 products to 10 bits on a GPU")
    parser.add_argument(
        "--trust-fla",
        action="store_true",
        help="run the backward pass of flash-linear-attention with Triton 3.4 to 3.7.0 on Hopper too, which it refuses because "
        "heads of width 64 get wrong gradients there; `linear` compares them",
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the program on a CPU")
    arguments = parser.parse_args()
    if arguments.tf32:
        torch.set_float32_matmul_precision("high")
    if arguments.trust_fla:
        mixing.trust_kernels()
    arguments.out.mkdir(parents=True, exist_ok=True)
    good = [PARTS[part](arguments, Results(arguments.out, part)) for part in arguments.parts]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
