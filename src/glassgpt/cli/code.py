"""Commands about source code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer
from glassgpt.errors import UsageError, require_extra
from glassgpt.lazy import import_for_good


def complete(
    file: Path,
    *,
    at: str,
    model: Path,
    samples: Integer = 3,
    max_tokens: Integer = 128,
    extent: Literal["block", "line", "document"] = "block",
    temperature: float = 0.4,
    top_p: float = 0.95,
    seed: Integer = 0,
    test: str = "",
    test_seconds: float = 30.0,
    json: Flag = False,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
) -> None:
    """Fill a gap in a source file: print candidates between the lines around it, the best first. The file is not changed.

    Parameters
    ----------
    file:
        The source file.
    at:
        Place of the gap: LINE for the end of that line, or LINE:COLUMN of the character that will follow, both from 1.
    model:
        Folder of a run, trained on data that were prepared with --format code.
    samples:
        Candidates to generate; equal ones are printed once. They are ranked by whether the file with them is valid Python,
        then by how well they fit the text before and after the gap.
    max_tokens:
        Most tokens of a candidate.
    extent:
        What a candidate fills at most: the block that the gap is in, the line, or all that the model writes (document).
    temperature:
        Temperature of the sampling; 0 gives the most likely tokens, and one candidate.
    top_p:
        Sample from the most probable tokens that together have this probability.
    seed:
        Seed of the sampling.
    test:
        Command that tests each candidate, such as "pytest tests/test_mine.py". It runs code that the model wrote, on a copy
        of the current folder, in a process with limits of time and memory and, where the system allows it, without a network.
        This is isolation against accidents, not security.
    test_seconds:
        Time limit of each test.
    json:
        Print one JSON object.
    """
    from glassgpt.code.gap import Gap
    from glassgpt.code.project_test import check_test
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    run = RunFolder(model).require()
    gap = Gap.at(_source_text(file), at)
    if samples < 1:
        raise UsageError(f"--samples is {samples}; it must be at least 1")
    if test_seconds <= 0:
        raise UsageError(f"--test-seconds is {test_seconds}; it must be positive")
    command = check_test(test, file, Path.cwd()) if test else []
    require_checkpoint_and_hash(run, checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.code.isolation import Limits, Outcome
    from glassgpt.code.project_test import run_tests
    from glassgpt.code.show import candidates_json, show_candidates
    from glassgpt.data.code.sentinels import has_sentinels

    loaded = api.load(model, checkpoint=checkpoint, device=device, batch_size=samples)
    if not has_sentinels(loaded.tokenizer):
        console.info(
            f"note: {model} was not trained to fill in the middle, so it continues the text before the gap; what follows the "
            "gap only orders the candidates"
        )
    candidates = api.complete(
        loaded, gap.prefix, gap.suffix, extent=extent, name=file.name, max_tokens=max_tokens, temperature=temperature,
        top_p=top_p, seed=seed, num_samples=1 if temperature == 0 else samples,
    )  # fmt: skip
    outcomes: list[Outcome] = []
    if command:
        texts = [gap.filled(each.text) for each in candidates]
        outcomes = run_tests(command, file, texts, Path.cwd(), Limits(seconds=test_seconds))
        order = sorted(range(len(candidates)), key=lambda at: not outcomes[at].passed)  # stable: likelihood within
        candidates, outcomes = [candidates[at] for at in order], [outcomes[at] for at in order]
        if not outcomes[0].has_namespaces:
            console.warn("this system does not allow own namespaces, so the test could use the network")
    if json:
        found = {"file": str(file), "at": at, "candidates": candidates_json(candidates, outcomes)}
        console.output_json(found)
    else:
        show_candidates(gap, candidates, outcomes)


def _source_text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8; give a source file") from error


def check_code(exclude: Sequence[Path], *, keep_duplicates: bool) -> None:
    """Check the extra and the files of `prepare --format code`.

    Raises:
        GlassGPTError: one of them is missing.
    """
    from glassgpt.data.code.exclude import require_files
    from glassgpt.data.code.near_duplicates import RENSA

    require_files(exclude)
    if not keep_duplicates:
        require_extra(*RENSA)
