"""The model that a run starts or continues with: random weights, those of another run, or an adapter on them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from glassgpt import console
from glassgpt.config import RunConfig, load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import CheckpointError, TokenizerError, UsageError, WrongTokenizerError
from glassgpt.model.build import build_model
from glassgpt.model.config import SHAPE_FIELDS, ModelConfig
from glassgpt.model.lora import adapter_of, add_lora
from glassgpt.model.lora_config import Adapter
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.config import OF_ENCODER
from glassgpt.multimodal.documents import with_begin_tokens
from glassgpt.multimodal.weights import load_into_larger, with_encoders
from glassgpt.training.checkpoint import (
    VerifiedCheckpoint,
    build_as_trained,
    find_checkpoint,
    load_weights,
    read_adapter,
    read_model_config,
    read_state,
    weights_fingerprint,
)
from glassgpt.training.run_folder import RunFolder


def model_to_train(
    config: RunConfig, checkpoint: VerifiedCheckpoint | None, dataset: TokenDataset | None
) -> LanguageModel:
    """Return the model to train; if the run is resumed, its weights are still to be loaded from the checkpoint.

    Args:
        config: the configuration.
        checkpoint: of the run to resume, or None.
        dataset: to train on; None for a model that is only checked.

    Raises:
        ConfigError: no layer has one of the adapter's target names.
        CheckpointError: the weights to start from are missing, damaged, or of another shape.
        TokenizerError: the dataset was prepared with another tokenizer than that of the run to start from.
        UsageError: an adapter cannot be trained on an adapter.
    """
    if checkpoint is not None:
        model = build_as_trained(checkpoint.path, config.model)
        adapter = adapter_of(model)
        if (adapter.lora if adapter else None) != (config.lora if config.lora.rank else None):
            raise CheckpointError(
                f"config.toml describes another adapter than {checkpoint.path}; a resumed run keeps its lora settings"
            )
        return _with_encoders(model, config, None)
    model = build_model(config.model)
    if not config.init_from:
        return _with_encoders(model, config, None)
    path = find_checkpoint(RunFolder(Path(config.init_from)).require(), "best")
    _initialize_from(model, config.init_from, path, dataset)
    if config.lora.rank:
        if read_model_config(path).vocab_size != config.model.vocab_size:
            raise UsageError(
                f"{config.init_from} has no embeddings of the begin tokens of pictures and sound, which an adapter cannot add; train "
                "the encoders first, with --multimodal.freeze true, and then an adapter on that run"
            )
        if read_adapter(path) is not None:
            raise UsageError(adapter_of_adapter(config.init_from))
        model = add_lora(model, Adapter(weights_fingerprint(path), config.lora))
    return _with_encoders(model, config, path)


def _with_encoders(model: LanguageModel, config: RunConfig, source: Path | None) -> LanguageModel:
    """Return a model with the encoders that its data need, if any.

    Args:
        model: the model.
        config: the configuration.
        source: checkpoint of the run to start from, whose encoders are taken where they fit; None draws all.
    """
    media = config.multimodal
    if not media.names:
        return model
    shared = () if source is None else media.shared_encoders(load_config(config.init_from).multimodal)
    return with_encoders(model, media, source if shared else None, shared)


def report_encoders(config: RunConfig) -> None:
    """Print which encoders of the run to start from are not used, and which start with random weights instead."""
    source, here = config.init_from, config.multimodal
    there = load_config(source).multimodal if source else here
    if there.names and not here.names:
        console.warn("only the language model is trained: the encoders of pictures and sound are left out")
        return
    for modality in there.names:
        if modality not in here.names:
            console.warn(f"the {modality} encoder of {source} is left out: there is no {modality} in the training data")
        elif modality not in here.shared_encoders(there):
            name = next(name for name in OF_ENCODER[modality] if getattr(here, name) != getattr(there, name))
            console.warn(
                f"the {modality} encoder starts with random weights: multimodal.{name} is {getattr(here, name)} here and "
                f"{getattr(there, name)} in {source}"
            )
    for modality in here.names if there.names else ():
        if modality not in there.names:
            console.warn(f"the {modality} encoder starts with random weights: {source} has none")


def adapter_of_adapter(run: str) -> str:
    """Return the message for an adapter that is named as a base."""
    return f"{run} is an adapter; make it a model first with: glassgpt merge {run} --out MERGED"


def _initialize_from(model: LanguageModel, source: str, path: Path, dataset: TokenDataset | None) -> None:
    theirs = read_model_config(path)
    if isinstance(dataset, EncodedDataset) and _lacks_begin_tokens(theirs, model, source, dataset):
        load_into_larger(model, theirs, path)
        return
    if not theirs.same_shape(model.config):
        different = [
            f"model.{name} is {getattr(model.config, name)} here and {getattr(theirs, name)} there"
            for name in SHAPE_FIELDS
            if getattr(model.config, name) != getattr(theirs, name)
        ]
        raise CheckpointError(
            f"{source} has a model of another shape: {'; '.join(different)}; "
            f"leave out these settings, or take its shape with: glassgpt train {shlex.quote(source)} --init-from {shlex.quote(source)}"
        )
    if dataset is not None and read_state(path).tokenizer_fingerprint != dataset.tokenizer_fingerprint:
        raise TokenizerError(
            f"{dataset.folder} was prepared with another tokenizer than {source}; "
            f"prepare the text again with --tokenizer {source}"
        )
    load_weights(model, path, averaged=True)


def _lacks_begin_tokens(theirs: ModelConfig, model: LanguageModel, source: str, dataset: TokenDataset) -> bool:
    """Return whether all that a run lacks for a dataset with media are the begin tokens of these."""
    if not theirs.same_shape(replace(model.config, vocab_size=theirs.vocab_size)) or theirs.plugins:
        return False
    tokenizer = load_tokenizer(RunFolder(Path(source)).tokenizer)
    if tokenizer.fingerprint == dataset.tokenizer_fingerprint or theirs.vocab_size >= model.config.vocab_size:
        return False
    try:
        return with_begin_tokens(tokenizer).fingerprint == dataset.tokenizer_fingerprint
    except WrongTokenizerError:
        return False
