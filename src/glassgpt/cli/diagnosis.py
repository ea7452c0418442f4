"""The command `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from glassgpt import console
from glassgpt.cli.generation_flags import GenerationArguments
from glassgpt.cli.shared import Flag, Overrides
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder


def doctor(
    target: str | None = None,
    *,
    data: Path | None = None,
    init_from: Path | None = None,
    rate_range: Flag = False,
    coordinates: Flag = False,
    text: Flag = False,
    settings: str | None = None,
    options: GenerationArguments | None = None,
    report: Flag = False,
    json: Flag = False,
    language: Literal["auto", "en", "ko"] = "auto",
    overrides: Overrides,
) -> None:
    """Find problems and their causes, before, during or after training. Exit code 1 means that something breaks the run.

    Parameters
    ----------
    target:
        What to diagnose: a preset's name or TOML file (before training), the folder of a run (even a crashed one), the
        folder of a dataset, or the code of a finding to explain (GG-NAN-002). Default: this machine.
    data:
        Dataset that a preset is to be trained on, or that replaces a run's own.
    init_from:
        Run whose weights training is to start from, as for train.
    rate_range:
        Also run a learning-rate range test from 1e-7 to 1: suggest a rate and write rate-range.png.
    coordinates:
        Also train models of a quarter to four times the width for a few steps, show how much their activations change,
        and write coordinates.png.
    text:
        Also generate text from a run, and find out whether the model or a setting causes poor text. The generation
        options below apply.
    settings:
        With --text: generation preset or TOML file, as for generate; single options override it.
    report:
        Also write the run's report.html: curves with events, and all findings.
    json:
        Print one JSON object, in English unless --language is given.
    language:
        Language of everything that is printed; auto means GLASSGPT_LANGUAGE (en or ko), or else the locale.
    """
    from glassgpt.cli.checks import check_diagnosis
    from glassgpt.cli.generation_flags import options_from_flags
    from glassgpt.diagnosis.catalogue import CODE
    from glassgpt.diagnosis.findings import is_fatal
    from glassgpt.diagnosis.show import print_catalogue_entry, show
    from glassgpt.locale import to_korean, user_language

    chosen = user_language() if language == "auto" else language
    console.use_translation(to_korean if chosen == "ko" else None)
    if target is not None and CODE.fullmatch(target):
        print_catalogue_entry(target, chosen)
        return
    if not text and (settings or options):
        raise UsageError("generation options need --text")
    generation = options_from_flags({}, settings, dict(options or {})) if text else None
    check_diagnosis(target, data, init_from)
    if report and (target is None or not RunFolder(Path(target)).exists()):
        raise UsageError(f"--report writes into a run; give the folder of a run instead of {target or 'nothing'}")

    from glassgpt import api  # imports torch, which takes seconds; usage errors are reported before that

    named = {"init_from": str(init_from)} if init_from is not None else {}
    results = show(
        api.doctor(
            target,
            data=data,
            overrides={**overrides, **named},
            rate_range=rate_range,
            coordinates=coordinates,
            text=generation,
        ),
        chosen,
        json_in=("en" if language == "auto" else language) if json else None,
    )
    if report:
        console.info(f"wrote {api.report(target or '.', results)}")
    if is_fatal(results):
        sys.exit(1)
