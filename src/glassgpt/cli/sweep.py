"""The command that trains with many settings and compares them: `sweep`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glassgpt import console
from glassgpt.cli.shared import Flag, Integer, Overrides
from glassgpt.errors import UsageError

if TYPE_CHECKING:
    from glassgpt.config import RunConfig
    from glassgpt.sweep.setup import SweepSetup


def sweep(
    preset: str | None = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    seed: Integer | None = None,
    init_from: Path | None = None,
    space: Path | None = None,
    trials: Integer | None = None,
    minutes: float | None = None,
    jobs: Integer = 0,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    pruner: Literal["median", "hyperband", "none"] = "median",
    sampler_seed: Integer = 0,
    seeds: Integer = 3,
    keep_weights: Flag = False,
    resume: Flag = False,
    json: Flag = False,
    yes: Flag = False,
    overrides: Overrides,
) -> None:
    """Train with many settings and compare: a table, a page, and the best settings as a file for train.

    Ctrl-C saves all trials; the same command continues.

    Parameters
    ----------
    preset:
        Name of a preset (glassgpt config list) or a TOML file, from which the search starts; not needed with --resume.
    data:
        Dataset from glassgpt prepare.
    out:
        Folder of the sweep; by default sweeps/PRESET.
    seed:
        Seed of the initial weights, the order of the data and dropout.
    init_from:
        Start from the weights of another run, trained or imported.
    space:
        TOML file with a table [search]: ranges and choices of settings. By default learning rate, warmup and weight decay
        around those of the preset.
    trials:
        Number of trials; by default 20, or all points of a grid.
    minutes:
        Time for the trials. Those that run when it is over are saved, and continue with a longer one.
    jobs:
        Number of trials at once, each in a process with its own GPU or its share of the cores; 0 is one per GPU, or one.
    sampler:
        How settings are chosen: tpe learns from the trials before, random does not, grid tries every combination.
    pruner:
        Which trials are stopped early: those worse than the median of the others at the same step, or by Hyperband.
    sampler_seed:
        Seed of the choice of settings; --seed is that of the trials.
    seeds:
        Number of other seeds that the best settings are trained with at the end, to see what was luck.
    keep_weights:
        Keep the checkpoints of all trials; without it, those of the best one.
    resume:
        Continue the sweep in --out with its own settings.
    json:
        Print the result as JSON.
    yes:
        Start even if it is predicted to take more than 24 hours on this CPU.
    """
    if preset is None and not resume:
        raise UsageError("a preset is missing; list them with: glassgpt config list")
    if out is None:
        if preset is None:
            raise UsageError("--resume needs a sweep; name it with --out SWEEP")
        out = Path("sweeps") / Path(preset).stem
    if jobs < 0 or seeds < 0:
        raise UsageError(f"--jobs is {jobs} and --seeds {seeds}; they must be at least 0")
    named = {"data": data, "seed": seed, "init_from": init_from}
    overrides = overrides | {name: str(value) for name, value in named.items() if value is not None}
    config, setup = _checked(preset, out, space, trials, minutes, (sampler, pruner, sampler_seed), resume, overrides)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.api.sweep_checks import SweepOptions
    from glassgpt.cli.training import approve_time
    from glassgpt.sweep.show import show_result

    options = SweepOptions(setup.sampler, setup.pruner, setup.seed, setup.trials, setup.minutes)
    result = api.sweep(
        config, out, space=setup.space, options=options, jobs=jobs, seeds=seeds, keep_weights=keep_weights,
        approve=None if yes else approve_time,
    )  # fmt: skip
    if json:
        console.output_json(result.to_json())
    else:
        show_result(result)
    page, best = out / "sweep.html", out / "best.toml"
    console.info(f"wrote {page} and {out / 'sweep.json'}")
    if result.best is not None:
        console.info(f"train with the best settings: glassgpt train {shlex.quote(str(best))} --out RUN")


def _checked(
    preset: str | None,
    out: Path,
    space: Path | None,
    trials: int | None,
    minutes: float | None,
    search: tuple[Literal["tpe", "random", "grid"], Literal["median", "hyperband", "none"], int],
    resume: bool,
    overrides: dict[str, str],
) -> tuple[RunConfig, SweepSetup]:
    """Check everything that needs no torch; return the configuration to start from and what is searched."""
    from glassgpt.api.sweep_checks import SweepOptions, default_space, new_setup, resumed_setup
    from glassgpt.config import load_config, settings
    from glassgpt.sweep.space import read_space

    if resume and preset is None:
        if overrides or space is not None:
            raise UsageError(
                "--resume continues with the settings of the sweep; leave out --space, --data and settings"
            )
        return resumed_setup(out, trials, minutes)
    if preset is None:
        raise UsageError("a preset is missing; list them with: glassgpt config list")
    config = load_config(preset, overrides)
    options = SweepOptions(*search, trials, math.inf if minutes is None else minutes)
    found = default_space(config) if space is None else read_space(space, settings())
    fixed = [each.name for each in found if each.name in overrides]
    if fixed and space is not None:
        raise UsageError(f"--{fixed[0].replace('_', '-')} is fixed, but {space} searches it; leave one out")
    return config, new_setup(config, out, found, options)
