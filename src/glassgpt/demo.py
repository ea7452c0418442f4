"""`glassgpt demo`: from Shakespeare's plays to generated text in one command.

It runs the same code as the single commands and prints the command that each part corresponds to.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from glassgpt import console
from glassgpt.config import load_config
from glassgpt.data.files import require_creatable
from glassgpt.data.prepare import PrepareOptions
from glassgpt.data.show import prepare_and_show
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_unlocked

SOURCE, TOKENIZER = "shakespeare", "bpe:4096"
PROMPTS = ("ROMEO:\n", "KING HENRY:\n", "FIRST WITCH:\n")


def run_demo(out: Path, *, force: bool = False) -> None:
    """Prepare the plays, train the preset `demo`, generate text, and print the bits per byte.

    Args:
        out: folder of the run; the dataset is written next to it.
        force: replace an earlier demo run.

    Raises:
        UsageError: see `check_demo`.
        DataError: the plays are not installed and cannot be downloaded; an earlier run is kept.
    """
    check_demo(out, force=force)
    data = out.with_name(f"{out.name}-data")
    _heading(f"prepare {SOURCE} --out {data} --tokenizer {TOKENIZER}")
    prepare_and_show(PrepareOptions(sources=(SOURCE,), out=data, tokenizer=TOKENIZER, force=force))
    if out.exists():
        shutil.rmtree(out)
    _heading(f"train demo --data {data} --out {out}")
    _train_and_generate(out, data)


def check_demo(out: Path, *, force: bool = False) -> None:
    """Check the folder of the demo's run.

    Raises:
        UsageError: it is not empty and `force` is not given, or it is not a run, or is being trained.
    """
    run = RunFolder(out)
    require_creatable(out.parent)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not run.exists():
        raise UsageError(f"{out} is not a run and will not be deleted; choose another --out")
    if not force:
        raise UsageError(
            f"{out} already exists; use it with glassgpt generate {shlex.quote(str(out))}, or start over with --force"
        )
    require_unlocked(run)


def _train_and_generate(out: Path, data: Path) -> None:
    from glassgpt.api import load, train  # loads torch, which takes seconds
    from glassgpt.data.shards import TokenDataset
    from glassgpt.evaluation.loss import evaluate_dataset
    from glassgpt.evaluation.show import ConsoleObserver
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.show import print_stream
    from glassgpt.generation.strategies import stream_samples

    run = RunFolder(out)
    train(load_config("demo", {"data": str(data)}), out)
    loaded = load(out)
    for prompt in PROMPTS:
        options = GenerationOptions(seed=1)
        _heading(f"generate {out} --prompt ${prompt!r} --seed {options.seed}")
        chunks = stream_samples(loaded.decoding_model, loaded.tokenizer, prompt, options)
        print_stream(prompt, chunks, options.max_tokens)
    validation = evaluate_dataset(loaded.model, TokenDataset.open(data), observer=ConsoleObserver())
    console.info(f"\nrun: {out}   loss curve: {run.curve}   report: {run.report}")
    console.info(
        f"look inside with: glassgpt inspect {shlex.quote(str(out))} --prompt {shlex.quote(PROMPTS[0].strip())}"
    )
    console.result(f"validation: {validation.bits_per_byte:.2f} bits per byte")


def _heading(command: str) -> None:
    console.info(f"\n$ glassgpt {command}")
