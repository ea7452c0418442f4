"""`glassgpt evaluate --code`."""

from __future__ import annotations

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
        raise UsageError(f"{names[0]} is for code; add --code humaneval, mbpp, infilling or exercism")


def evaluate_code(
    run: Path,
    benchmark: str,
    problems: Path | None,
    *,
    execute: bool,
    attempts: int,
    ranked: bool,
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
    from glassgpt.data.files import check_output_path
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    folder = RunFolder(run).require()
    if problems is None:
        raise UsageError(f"--code {benchmark} needs its problems: add --problems FILE")
    if not problems.exists():
        raise UsageError(f"--problems is {problems}, which does not exist; give the file that its authors publish")
    least_values = (
        ("--attempts", attempts, 1),
        ("--limit", limit, 0),
        ("--samples", samples, 0),
        ("--new-tokens", new_tokens, 1),
    )
    for option, number, least in least_values:
        if number is not None and number < least:
            raise UsageError(f"{option} must be {least} or more, not {number}")
    if ranked and attempts == 1:
        raise UsageError("--ranked chooses the best of several attempts; add --attempts 4 --decoding temperature=0.6")
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    given = read_problems(benchmark, problems, limit)
    require_checkpoint_and_hash(folder, checkpoint)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.api.figures import report_figures
    from glassgpt.code.benchmark import evaluate_problems
    from glassgpt.code.completion import CodeModel
    from glassgpt.code.isolation import Limits
    from glassgpt.code.show_benchmark import report_json, show_report
    from glassgpt.evaluation.compare import parse_one_setting
    from glassgpt.evaluation.show import ConsoleObserver
    from glassgpt.generation.options import options_from_kwargs

    chosen = parse_one_setting(decoding, "--decoding")
    options = options_from_kwargs(
        {
            "temperature": 0.0,
            **chosen,
            "max_tokens": NEW_TOKENS if new_tokens is None else new_tokens,
            "num_samples": attempts,
            "seed": seed,
        }
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
    report = evaluate_problems(code, given, options, best_only=ranked, limits=limits, observer=ConsoleObserver())
    if execute and not report.had_namespaces:
        console.warn("this system does not allow own namespaces, so the test could use the network")
    report_figures(
        report_json(benchmark, report),
        lambda: show_report(benchmark, report, samples),
        as_json=json,
        json_file=json_file,
    )
