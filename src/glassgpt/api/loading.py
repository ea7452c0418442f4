"""Loading a run: its model and tokenizer, and a draft model; `load` is in `load_run`, its dataset in `run_datasets`."""

from __future__ import annotations

from pathlib import Path

from glassgpt.api.load_run import load
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.config import load_config
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.device import pick_device
from glassgpt.errors import TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision
from glassgpt.generation.strategies import (
    DecodingStrategy,
    decode_batch_size,
)
from glassgpt.generation.strategy_options import SpeculativeOptions, StrategyOptions
from glassgpt.multimodal.drawing_tokens import DrawingRecord
from glassgpt.multimodal.weights import has_encoders, with_encoders
from glassgpt.training.checkpoint import find_checkpoint, list_checkpoints, load_model, read_state, resolve_pointer
from glassgpt.training.run_folder import RunFolder


def load_checkpoint(
    run: str | Path,
    checkpoint: str,
    device: str,
    precision: Precision,
    batch_size: int,
    *,
    verified: Path | None = None,
) -> tuple[LoadedModel, Path]:
    """Load a run's model, and return it with the folder of its checkpoint.

    Args:
        run: see `load`, as are `checkpoint`, `device`, `precision` and `batch_size`.
        verified: folder of the checkpoint, if it is verified already.
    """
    folder = RunFolder(Path(run)).require()
    tokenizer = load_tokenizer(folder.tokenizer)  # while a thread computes the checksums of the weights
    path = find_checkpoint(folder, checkpoint) if verified is None else verified
    state = read_state(path)
    if tokenizer.fingerprint != state.tokenizer_fingerprint:
        raise TokenizerError(f"{folder.tokenizer} is not the tokenizer that {path.name} was trained with")
    model = load_model(path)
    if has_encoders(path):
        model = with_encoders(model, load_config(folder.path).multimodal, path).eval()
    model = model.to(pick_device(device))
    drawing = DrawingRecord.read(folder.drawing) if folder.drawing.is_file() else None
    described = _described(folder, path)
    return LoadedModel(model, tokenizer, state.step, precision, batch_size, described, drawing), path


def _described(run: RunFolder, checkpoint: Path) -> str:
    """Return which checkpoint of a run this is, such as `step-000250, the best; the newest is step-000446`."""
    newest = next(reversed(list_checkpoints(run)), None)
    best = resolve_pointer(run, "best")
    roles = [name for name, path in (("best", best), ("newest", newest)) if path == checkpoint]
    role = f", the {' and '.join(roles)}" if roles else ", a snapshot" if checkpoint.parent == run.snapshots else ""
    described = checkpoint.name + role
    return described if newest in (checkpoint, None) else f"{described}; the newest is {newest.name}"


def load_for_generation(
    run: str | Path,
    options: GenerationOptions,
    strategy: StrategyOptions | None,
    n_prompts: int,
    checkpoint: str,
    device: str,
    precision: Precision,
) -> tuple[LoadedModel, DecodingStrategy | None]:
    """Load a run's model, optimized for the workload, and the draft model if there is one.

    Args:
        run: see `load`, as are `checkpoint`, `device` and `precision`.
        options: generation options.
        strategy: None samples token by token.
        n_prompts: number of prompts.

    Raises:
        GlassGPTError: see `load` and `LoadedModel.speculative_decoding`.
    """
    n_texts = n_prompts * options.num_samples
    batch_size = decode_batch_size(n_texts, strategy)
    loaded = load(run, checkpoint=checkpoint, device=device, precision=precision, batch_size=batch_size)
    if not isinstance(strategy, SpeculativeOptions):
        return loaded, strategy
    draft = None if strategy.draft is None else load(strategy.draft, device=device, batch_size=n_texts)
    return loaded, loaded.speculative_decoding(draft, tokens=strategy.draft_tokens)
