"""The dataset that a run was trained on, and a run together with a dataset."""

from __future__ import annotations

from pathlib import Path

from glassgpt.api.load_run import load
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.config import held_out_folder, load_config
from glassgpt.data.chat.dataset import open_dataset
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.verification import verify_once
from glassgpt.errors import WrongDataError
from glassgpt.evaluation.loss import require_same_tokenizer
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.dataset import MultimodalDataset, is_multimodal
from glassgpt.training.run_folder import RunFolder


def held_out_dataset(run: str | Path, tokenizer: Tokenizer) -> TokenDataset | None:
    """Return the dataset that a run was trained on, or None if it no longer exists or uses another tokenizer."""
    folder = load_config(Path(run)).data
    if not folder or not Path(folder).is_dir():
        return None
    dataset = open_for_run(Path(folder), Path(run))
    return dataset if dataset.tokenizer_fingerprint == tokenizer.fingerprint else None


def load_with_dataset(
    run: str | Path,
    data: Path | None = None,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    batch_size: int = 1,
) -> tuple[LoadedModel, TokenDataset]:
    """Load a run's model, and a dataset to evaluate it on.

    Args:
        run: the run's folder.
        data: folder of the dataset; None takes the one that the run was trained on.
        checkpoint: see `load`, as are `device` and `batch_size`.

    Raises:
        UsageError: the run names no dataset, or one that no longer exists.
        TokenizerError: the dataset was prepared with another tokenizer than the model's.
        GlassGPTError: see `load` and `TokenDataset.open`.
    """
    RunFolder(Path(run)).require()
    dataset = open_for_run(held_out_folder(Path(run), data), Path(run))
    loaded = load(run, checkpoint=checkpoint, device=device, batch_size=batch_size)
    require_same_tokenizer(loaded.tokenizer.fingerprint, dataset)
    verify_once(dataset, ("validation",))
    return loaded, dataset


def open_for_run(folder: Path, run: Path) -> TokenDataset:
    """Open a dataset, of text, of conversations or of documents with media, as a run reads it.

    Raises:
        DataError: it cannot be opened.
        WrongDataError: its media have another geometry than those of the run.
    """
    config = load_config(run).multimodal
    if not (config.names and is_multimodal(folder)):
        return open_dataset(folder)
    dataset = MultimodalDataset.open(folder)
    if dataset.geometry != config.geometry:
        raise WrongDataError(
            f"the media in {folder} have another geometry than those of {run} ({dataset.geometry} instead of {config.geometry}); "
            "prepare them again with the same"
        )
    return EncodedDataset(dataset, config)
