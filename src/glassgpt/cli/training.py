"""Train, train a demonstration, and how fast that goes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.cli.shared import Flag, Integer, Overrides
from glassgpt.errors import UsageError


def train(
    preset: str | None = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    resume: Flag = False,
    seed: Integer | None = None,
    init_from: Path | None = None,
    gpus: Integer = 1,
    tensorboard: Flag = False,
    watch: Flag = False,
    no_recover: Flag = False,
    overrides: Overrides,
) -> None:
    """Train a model. Ctrl-C saves at the next step and says how to go on; a second one leaves at once.

    Parameters
    ----------
    preset:
        A preset's name (glassgpt config list) or a TOML file; with --resume, not needed.
    data:
        Data set made by glassgpt prepare.
    out:
        Folder of the run; by default runs/PRESET.
    resume:
        Go on with the run in --out from its newest whole checkpoint, exactly as if it had never stopped.
    seed:
        Of the initial weights, the order of the data and dropout.
    init_from:
        Start from the weights of another run, trained or imported.
    gpus:
        Processes to train with, one on each GPU (or all on the CPU, where there is none): a shorthand for
        torchrun --standalone --nproc-per-node=N -m glassgpt train, which also spans machines.
    tensorboard:
        Also write TensorBoard events (extra: tensorboard).
    watch:
        Look into every layer every --diagnosis.sample-every-steps and write it to layers.jsonl; a table of gradients
        and updates is printed.
    no_recover:
        Stop at a step that is not finite, and say why, instead of skipping it; take no other remedy either.
    """
    from glassgpt.config import load_config
    from glassgpt.training.launch import launch, launched_by_torchrun, mute_nonzero_ranks, restarted_by_torchrun

    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}; it must be at least 1")
    mute_nonzero_ranks()
    resume = resume or restarted_by_torchrun()

    named = {"data": data, "seed": seed, "init_from": init_from}
    named |= {"diagnosis.watch": "full" if watch else None, "diagnosis.recover": "false" if no_recover else None}
    overrides = overrides | {name: str(value) for name, value in named.items() if value is not None}
    if preset is None and not resume:
        raise UsageError("no preset is named; see them with: glassgpt config list")
    if resume and out is None and preset is not None and Path(preset).is_dir():
        out, preset = Path(preset), None
    if out is None:
        if preset is None:
            raise UsageError("which run is to be resumed? Name it with --out RUN")
        out = Path("runs") / Path(preset).stem
    is_there = resume and (out / "config.toml").is_file()
    if resume and preset is None and not is_there:
        raise UsageError(f"there is no run in {out} to resume")
    config = None if is_there else load_config(preset, overrides)

    from glassgpt import api  # loads torch, which takes seconds: after all that can be refused without it

    config = config or api.resumed_config(out, overrides)
    if gpus > 1 and not launched_by_torchrun():
        api.check(config, out, processes=gpus, resume=resume)
        launch(gpus, sys.argv[1:], f"go on from the last checkpoint with: glassgpt train --resume --out {out}")
        return
    outcome = api.train(config, out, resume=resume, tensorboard=tensorboard)
    _say_outcome(outcome, out)


def _say_outcome(outcome: Any, out: Path) -> None:
    early = ", stopped early" if outcome.stopped_early else ""
    console.info(f"{outcome.step:,} steps in {console.format_duration(outcome.seconds)}{early}; the run is in {out}")
    console.info(f"its curve is {out / 'loss.png'}; let it write with: glassgpt generate {out} --prompt TEXT")
    console.output(f"validation: {outcome.validation.loss:.4f} nats per token")
    console.output(f"validation: {outcome.validation.bits_per_byte:.2f} bits per byte")


def demo(*, out: Path = Path("runs/demo"), force: Flag = False) -> None:
    """From Shakespeare's plays to a model that writes like them, in about three minutes on two cores.

    Parameters
    ----------
    out:
        Folder of the run.
    force:
        Throw an earlier demo run away and begin again.
    """
    from glassgpt.demo import run_demo

    run_demo(out, force=force)


def bench_train(
    preset: str,
    *,
    data: Path | None = None,
    steps: Integer = 20,
    gpus: Integer = 1,
    json: Path | None = None,
    overrides: Overrides,
) -> None:
    """Train a preset some steps and tell its speed: tokens per second, where a step's time goes, MFU, memory, kernels.

    Parameters
    ----------
    preset:
        A preset's name, a TOML file or a run.
    data:
        Data set; random tokens by default, which take as long.
    steps:
        Steps that are timed.
    gpus:
        Processes to train with, as for train.
    json:
        File to write the figures to.
    """
    from glassgpt import api
    from glassgpt.config import load_config
    from glassgpt.training.launch import launch, launched_by_torchrun, mute_nonzero_ranks
    from glassgpt.training.show import show_speed

    if steps < 2:
        raise UsageError(f"--steps is {steps}; it must be at least 2")
    mute_nonzero_ranks()
    if data is not None:
        overrides = overrides | {"data": str(data)}
    config = load_config(preset, overrides)
    if gpus > 1 and not launched_by_torchrun():
        launch(gpus, sys.argv[1:])
        return
    show_speed(config.train.batch_tokens, api.bench_train(config, steps=steps), json)
