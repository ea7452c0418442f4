"""`glassgpt demo`: the whole way from text to a model that writes, in one command.

It does nothing that the single commands do not; it says which of them it stands for.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from glassgpt import console
from glassgpt.api import load, train
from glassgpt.config import load_config
from glassgpt.data.prepare import PrepareOptions
from glassgpt.data.shards import TokenDataset
from glassgpt.data.show import prepare_and_show
from glassgpt.errors import UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.show import print_stream
from glassgpt.training.run_folder import RunFolder

SOURCE, TOKENIZER = "shakespeare", "bpe:4096"
VOICES = ("ROMEO:\n", "KING HENRY:\n", "FIRST WITCH:\n")


def run_demo(out: Path, *, force: bool = False) -> None:
    """Prepare the plays, train the preset `demo`, let it write, and print its bits per byte last.

    Raises:
        UsageError: something is in `out` already and `force` was not asked for.
    """
    run = RunFolder(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not force:
            raise UsageError(
                f"{out} is there already; see it with glassgpt generate {out}, or begin again with --force"
            )
        if not run.exists():
            raise UsageError(f"{out} is not a run, so it will not be thrown away; choose another --out")
        shutil.rmtree(out)
    data = out.with_name(f"{out.name}-data")
    _heading(f"prepare {SOURCE} --out {data} --tokenizer {TOKENIZER}")
    prepare_and_show(PrepareOptions(sources=(SOURCE,), out=data, tokenizer=TOKENIZER, force=force))
    _heading(f"train demo --data {data} --out {out}")
    train(load_config("demo", {"data": str(data)}), out)
    loaded = load(out)
    for voice in VOICES:
        options = GenerationOptions(seed=1)
        _heading(f"generate {out} --prompt ${voice!r} --seed {options.seed}")
        print_stream(loaded.writer, loaded.tokenizer, voice, options)
    validation = evaluate_dataset(loaded.model, TokenDataset.open(data))
    console.info(f"\nthe run: {out}   its curve: {run.curve}   its report: {run.report}")
    console.info(f"look inside with: glassgpt inspect {out} --prompt {VOICES[0].strip()}")
    console.output(f"validation: {validation.bits_per_byte:.2f} bits per byte")


def _heading(command: str) -> None:
    console.info(f"\n$ glassgpt {command}")
