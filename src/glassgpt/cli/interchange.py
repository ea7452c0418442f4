"""Commands that import and export models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Run
from glassgpt.data.folder_kinds import not_a_model
from glassgpt.errors import UsageError, WrongModelError, require_extra


def import_(source: str, *, out: Path) -> None:
    """Import a GPT-2 or NanoChat model in Hugging Face format as a run.

    Parameters
    ----------
    source:
        Folder with config.json, model.safetensors and tokenizer files, or a hub id such as openai-community/gpt2.
    out:
        Run folder to create.
    """
    from glassgpt.data.files import require_creatable
    from glassgpt.training.run_folder import RunFolder

    RunFolder(out).require_new()
    require_creatable(out)
    if Path(source).is_file():
        raise UsageError(f"{source} is a file; give the folder with the model's config.json, weights and tokenizer")
    if not Path(source).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UsageError(f"{source} is neither a folder nor a hub id such as openai-community/gpt2")
    if not Path(source).is_dir():
        require_extra("huggingface_hub", "hub", f"downloading {source}")
    elif not (Path(source) / "config.json").is_file():
        raise WrongModelError(not_a_model(Path(source)))

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.interchange.huggingface import download, import_model

    folder = Path(source) if Path(source).is_dir() else download(source)
    model, tokenizer = import_model(folder, console.warn)
    run = api.save_as_run(model, tokenizer, out)
    count = sum(p.numel() for p in model.parameters())
    console.info(
        f"imported {console.format_count(count, 'parameters')} and the tokenizer {tokenizer.name} into {run.path}"
    )
    console.info(f"generate text with: glassgpt generate {shlex.quote(str(run.path))} --prompt TEXT")
    console.info(
        f"continue training with: glassgpt train {shlex.quote(str(run.path))} --init-from {shlex.quote(str(run.path))} --data DIR --out RUN"
    )


def export(run: Run, folder: Path, *, checkpoint: Checkpoint = "best") -> None:
    """Export a run in Hugging Face format (GPT-2 or NanoChat), so that transformers can load it.

    Parameters
    ----------
    folder:
        Destination of config.json, model.safetensors and tokenizer files; must be empty or not exist.
    """
    from glassgpt.data.files import require_creatable
    from glassgpt.data.staging import staged_folder
    from glassgpt.training.run_folder import RunFolder

    RunFolder(run).require()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists and is not empty; choose another folder")
    require_creatable(folder)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.interchange.huggingface import export_model

    loaded = api.load(run, checkpoint=checkpoint, device="cpu")
    with staged_folder(folder, force=False, what="model") as (staging, _):
        export_model(loaded.model, loaded.tokenizer, staging)
    console.info(f"wrote {folder}; load it with: AutoModelForCausalLM.from_pretrained({str(folder)!r})")
