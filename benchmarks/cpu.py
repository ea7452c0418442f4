"""glassgpt beside its peers on this CPU, in one run, as ratios: `make bench`.

Four things are measured: preparing (against tiktoken on one thread), a training step and cached generation
(against transformers, same weights), and start-up (against `import torch`). The systems take turns; a ratio
is formed within each round, and its median, least and most are told. Run it on a machine at rest.
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
class Settings:
    """How much is measured.

    Attributes:
        prepare_rounds: repetitions of preparing and of encoding, by each system.
        megabytes: size of the corpus.
        train_rounds: training steps measured, by each system.
        generate_rounds: texts generated, by each system.
        new_tokens: tokens of each text.
        startup_rounds: processes started, of each kind.
    """

    prepare_rounds: int = 5
    megabytes: float = 36.0
    train_rounds: int = 10
    generate_rounds: int = 7
    new_tokens: int = 48
    startup_rounds: int = 10


QUICK = Settings(prepare_rounds=1, megabytes=2.0, train_rounds=2, generate_rounds=2, new_tokens=16, startup_rounds=2)


def measure(part: str, settings: Settings, text: Path | None) -> list[Row]:
    """Measure one part; what it needs is imported only here, so that no part weighs on another."""
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
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="glassgpt beside its peers on this CPU, as ratios.")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, no measurement")
    parser.add_argument("--text", type=Path, help="prepare this text or .jsonl file instead of the made corpus")
    parser.add_argument("--out", type=Path, help="where the JSON goes; with --quick or --only, nowhere by default")
    chosen = parser.parse_args(given)
    settings = QUICK if chosen.quick else Settings()
    rows = [row for part in PARTS if chosen.only in (None, part) for row in measure(part, settings, chosen.text)]
    show(rows)
    if chosen.quick:
        console.warn("so few repetitions on so little text are a smoke test; whether targets are met is open")
    out: Path | None = chosen.out or (None if chosen.quick or chosen.only else RESULTS)
    if out is not None:
        what, measured = "glassgpt beside its peers on one CPU", dataclasses.asdict(settings)
        write_report(out, report(what, rows, command=("cpu.py", *given), settings=measured, packages=PACKAGES))


if __name__ == "__main__":
    main()
