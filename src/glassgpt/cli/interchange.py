"""Weights from elsewhere, and for elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Run
from glassgpt.errors import UsageError


def import_(source: str, *, out: Path) -> None:
    """Make a run of a GPT-2 or NanoChat in Hugging Face's layout.

    Parameters
    ----------
    source:
        Folder with config.json, model.safetensors and tokenizer files; or a hub id such as openai-community/gpt2.
    out:
        Folder of the run.
    """
    from glassgpt import api
    from glassgpt.interchange.huggingface import download, import_model

    if not Path(source).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UsageError(f"{source} is neither a folder nor the id of a model on the hub")
    folder = Path(source) if Path(source).is_dir() else download(source)
    model, tokenizer = import_model(folder)
    run = api.save_as_run(model, tokenizer, out)
    count = sum(p.numel() for p in model.parameters())
    console.info(
        f"imported {console.format_count(count, 'parameters')} and the tokenizer {tokenizer.name} into {run.path}"
    )
    console.info(f"let it write with: glassgpt generate {run.path} --prompt TEXT")
    console.info(f"train it on with: glassgpt train {run.path} --init-from {run.path} --data DIR --out RUN")


def export(run: Run, folder: Path, *, checkpoint: Checkpoint = "best") -> None:
    """Write a run in Hugging Face's layout, GPT-2's or NanoChat's, so that transformers loads it.

    Parameters
    ----------
    folder:
        Where to write config.json, model.safetensors and tokenizer files.
    """
    from glassgpt import api
    from glassgpt.interchange.huggingface import export_model

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; choose another folder")
    loaded = api.load(run, checkpoint=checkpoint, device="cpu")
    export_model(loaded.model, loaded.tokenizer, folder)
    console.info(f"wrote {folder}; load it with: AutoModelForCausalLM.from_pretrained({str(folder)!r})")
