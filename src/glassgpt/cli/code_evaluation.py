"""`glassgpt evaluate --code`."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping
from pathlib import Path

from glassgpt import console
from glassgpt.errors import UsageError

NEW_TOKENS = 256
"""Most tokens of a solution by default."""


def require_code(given: Mapping[str, bool]) -> None:
    """Check that no option that is for code is given without --code.

    Args:
        given: for each option, whether it is.

    Raises:
        UsageError: one is.
    """
    if names := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{names[0]} is for code; add --code humaneval, mbpp or infilling")


def evaluate_code(
    run: Path,
    benchmark: str,
    problems: Path | None,
    *,
    execute: bool,
    attempts: int,
    limit: int,
    decoding: str,
    new_tokens: int | None,
    seed: int,
    samples: int,
    checkpoint: str,
    device: str,
    json: bool,
    json_file: Path | None,
    force: bool,
) -> None:
    """Evaluate a run on a benchmark of code; the arguments are those of `evaluate`."""
    from glassgpt.code.problems import read_problems
    from glassgpt.data.files import check_output_path, write_atomically
    from glassgpt.evaluation.chat.rows import require_file
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    folder = RunFolder(run).require()
    if problems is None:
        raise UsageError(f"--code {benchmark} needs its problems: add --problems FILE")
    require_file("--problems", problems)
    for option, number, least in (("--attempts", attempts, 1), ("--limit", limit, 0), ("--samples", samples, 0)):
        if number < least:
            raise UsageError(f"{option} must be {least} or more, not {number}")
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    given = read_problems(benchmark, problems, limit)
    require_checkpoint_and_hash(folder, checkpoint)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.code.benchmark import evaluate_problems
    from glassgpt.code.completion import CodeModel
    from glassgpt.code.isolation import Limits
    from glassgpt.code.show_benchmark import report_json, show_report
    from glassgpt.evaluation.compare import parse_one_setting
    from glassgpt.evaluation.show import ConsoleObserver
    from glassgpt.generation.options import options_from_kwargs

    chosen = parse_one_setting(decoding, "--decoding")
    options = options_from_kwargs(
        {"temperature": 0.0, **chosen, "max_tokens": new_tokens or NEW_TOKENS, "num_samples": attempts, "seed": seed}
    )
    options.check()
    if attempts > 1 and options.is_greedy:
        raise UsageError(
            f"--attempts is {attempts}, but --decoding is greedy, which gives one; add --decoding temperature=0.8"
        )
    loaded = api.load(run, checkpoint=checkpoint, device=device, batch_size=min(len(given) * attempts, 16))
    console.info(f"checkpoint: {loaded.checkpoint}")
    code = CodeModel(loaded.model, loaded.decoding_model, loaded.tokenizer)
    limits = Limits(seconds=5.0) if execute else None
    report = evaluate_problems(code, given, options, limits=limits, observer=ConsoleObserver())
    if execute and not report.had_namespaces:
        console.warn("this system does not allow own namespaces, so the test could use the network")
    found = report_json(benchmark, report)
    if json_file is not None:
        write_atomically(json_file, json_format.dumps(found, indent=2).encode())
    if json:
        console.output_json(found)
    else:
        show_report(benchmark, report, samples)
