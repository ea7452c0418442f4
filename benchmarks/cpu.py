"""Compare glassgpt with its peers on this CPU, in one run: `make bench`.

Four things are measured: preparation (compared with tiktoken on one thread), a training step and generation with a KV
cache (compared with transformers, same weights), and start-up time (compared with `import torch`). The systems are
measured in interleaved rounds; each round gives a ratio, and the median, minimum and maximum of the ratios are reported.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from cpu_parts.measure import Row
from cpu_parts.results import report, show, write_report
from glassgpt import console

RESULTS = Path(__file__).parent / "results" / "cpu.json"
PARTS = ("prepare", "train", "generate", "startup")
PACKAGES = ("glassgpt", "torch", "transformers", "tiktoken", "fastokens", "numpy")


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Size of the measurements.

    Attributes:
        prepare_rounds: repetitions of preparation and of encoding per system.
        megabytes: size of the corpus.
        train_rounds: training steps measured per system.
        generate_rounds: texts generated per system.
        new_tokens: tokens per text.
        startup_rounds: processes started per command.
    """

    prepare_rounds: int = 5
    megabytes: float = 36.0
    train_rounds: int = 10
    generate_rounds: int = 7
    new_tokens: int = 48
    startup_rounds: int = 10


QUICK = BenchmarkSettings(
    prepare_rounds=1, megabytes=2.0, train_rounds=2, generate_rounds=2, new_tokens=16, startup_rounds=2
)


def measure(part: str, settings: BenchmarkSettings, text: Path | None) -> list[Row]:
    """Measure one part. Its imports are local, so that parts do not affect each other."""
    console.info(f"measuring: {part} …")
    if part == "prepare":
        from cpu_parts.preparing import measure_preparing

        return measure_preparing(settings.prepare_rounds, settings.megabytes, text)
    if part == "train":
        from cpu_parts.training import measure_training

        return measure_training(settings.train_rounds)
    if part == "generate":
        from cpu_parts.generation import measure_generation

        return measure_generation(settings.generate_rounds, settings.new_tokens)
    from cpu_parts.startup import measure_startup

    return measure_startup(settings.startup_rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Compare glassgpt with its peers on this CPU.")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, not a measurement")
    parser.add_argument("--text", type=Path, help="prepare this text or .jsonl file instead of the generated corpus")
    parser.add_argument("--out", type=Path, help="result file; by default none with --quick or --only")
    chosen = parser.parse_args(given)
    settings = QUICK if chosen.quick else BenchmarkSettings()
    rows = [row for part in PARTS if chosen.only in (None, part) for row in measure(part, settings, chosen.text)]
    show(rows)
    if chosen.quick:
        console.warn("with --quick this is a smoke test; it does not show whether targets are met")
    out: Path | None = chosen.out or (None if chosen.quick or chosen.only else RESULTS)
    if out is not None:
        what, measured = "glassgpt compared with its peers on one CPU", dataclasses.asdict(settings)
        write_report(out, report(what, rows, command=("cpu.py", *given), settings=measured, packages=PACKAGES))


if __name__ == "__main__":
    main()
