"""What is wrong, or would go wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from glassgpt import console
from glassgpt.cli.shared import Flag, GenerationArguments, Overrides
from glassgpt.errors import UsageError


def doctor(
    target: str | None = None,
    *,
    data: Path | None = None,
    rate_range: Flag = False,
    text: Flag = False,
    settings: str | None = None,
    options: GenerationArguments | None = None,
    report: Flag = False,
    json: Flag = False,
    language: Literal["auto", "en", "ko"] = "auto",
    overrides: Overrides,
) -> None:
    """Find out what is wrong, or would go wrong, and what to change. Exit code 1: it breaks the run.

    Parameters
    ----------
    target:
        A preset's name or TOML file, before training; a run, also a dead one; a data set; or a finding's code
        (GG-NAN-002), to be explained. Without it, this machine is looked at.
    data:
        Data set that a preset is to be trained on.
    rate_range:
        Also try learning rates from 1e-7 to 1, suggest one and draw rate-range.png.
    text:
        Also let a run write, and tell whether the model or a setting is at fault for poor text. The groups below are
        the settings it writes with.
    settings:
        With --text: ready settings by purpose or a TOML file, as for generate; single options win.
    report:
        Also write a run's report.html: its curves with the events marked, and the findings.
    json:
        Print one JSON object.
    language:
        Of findings; auto takes the terminal's.
    """
    from glassgpt.cli.generation_flags import options_from_flags
    from glassgpt.diagnosis.catalogue import CODE, terminal_language
    from glassgpt.diagnosis.findings import is_fatal
    from glassgpt.diagnosis.show import print_catalogue_entry, show

    spoken = terminal_language() if language == "auto" else language
    if target is not None and CODE.fullmatch(target):
        print_catalogue_entry(target, spoken)
        return
    if not text and (settings or options):
        raise UsageError("settings of a generation are looked at with --text; add that")
    writing = options_from_flags({}, settings, dict(options or {})) if text else None
    if report and (target is None or not Path(target).is_dir()):
        raise UsageError(f"--report is written into a run; name one instead of {target or 'nothing'}")

    from glassgpt import api  # loads torch, which takes seconds: after all that can be told or refused without it

    checks = api.doctor(target, data=data, overrides=dict(overrides), rate_range=rate_range, text=writing)
    made = show(checks, spoken, as_json=json)
    if report:
        console.info(f"the report is {api.report(target or '.', made)}")
    if is_fatal(made):
        sys.exit(1)
