"""Import and export of Hugging Face model folders: GPT-2, and NanoChat for our Modern.

A folder holds `config.json`, `model.safetensors` and tokenizer files. They are read and written with safetensors and
JSON alone, so that `transformers` is not a dependency; tests compare both directions with it. Pickles are never loaded:
a folder that only has `pytorch_model.bin` is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.errors import InterchangeError, MissingExtraError
from glassgpt.interchange.layouts import LAYOUTS, HFConfig, Layout, layout_for
from glassgpt.interchange.tokenizer_files import NATIVE_FILE, write_tokenizer_files
from glassgpt.interchange.tokenizer_import import Notify, read_tokenizer_files
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel

CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_INDEX_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
DOWNLOADED = (
    CONFIG_FILE,
    "model*.safetensors",
    WEIGHTS_INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    NATIVE_FILE,
)
INTEGER_FIELDS = ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd")


def import_model(folder: Path, notify: Notify = lambda message: None) -> tuple[LanguageModel, Tokenizer]:
    """Load a GPT-2 or NanoChat model from a Hugging Face folder.

    Args:
        folder: contains `config.json`, `model.safetensors` and tokenizer files. Without tokenizer files, a model with
            GPT-2's vocabulary size gets GPT-2's tokenizer.
        notify: receives what the user should know about a model that is imported nevertheless.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        InterchangeError: a file is missing or damaged, or the model is not supported.
        TokenizerError: the glassgpt tokenizer file is damaged, or GPT-2's vocabulary is not available.
    """
    config = _read_config(folder)
    tokenizer = _read_tokenizer(folder, config, notify)
    weights = _read_weights(folder)
    model = build_model(config)
    _copy_weights(model, weights, folder)
    return model.eval(), tokenizer


def _read_tokenizer(folder: Path, config: ModelConfig, notify: Notify) -> Tokenizer:
    tokenizer = read_tokenizer_files(folder, notify)
    if tokenizer is None and config.vocab_size != GPT2_VOCAB_SIZE:
        raise InterchangeError(
            f"{folder} has no tokenizer files, and its vocabulary size {config.vocab_size:,} is not GPT-2's; "
            f"add the model's tokenizer.json, or vocab.json and merges.txt, to the folder"
        )
    if tokenizer is None:
        tokenizer = gpt2_tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise InterchangeError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, but the model only {config.vocab_size:,}; "
            f"call model.resize_token_embeddings(len(tokenizer)) in transformers and save it again"
        )
    return tokenizer


def export_model(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model so that transformers' `AutoModelForCausalLM.from_pretrained(folder)` loads it.

    A model without biases is written with zero biases, which is the same function. All files are written to a
    temporary folder first and moved when complete.

    Raises:
        InterchangeError: the format cannot represent the architecture or the tokenizer, or the folder cannot be
            written; nothing is left behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staged:
            _write(model, tokenizer, Path(staged))
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(staged).iterdir()):
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise InterchangeError(f"{folder} cannot be written: {error}") from error


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    write_tokenizer_files(tokenizer, model.config.context_length, folder)
    (folder / CONFIG_FILE).write_text(json.dumps(_config_json(model.config, tokenizer), indent=2) + "\n")
    save_file(_exported_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)


def _exported_weights(model: LanguageModel) -> dict[str, Tensor]:
    ours = model.state_dict()
    weights: dict[str, Tensor] = {}
    for mapping in layout_for(model.config.arch).parameter_mappings(model.config.n_layer):
        if mapping.ours in ours:
            tensor = ours[mapping.ours].detach().cpu()
            weights[mapping.theirs] = (tensor.T if mapping.transposed else tensor).contiguous()
        else:
            weight = ours[mapping.ours.removesuffix("bias") + "weight"]
            weights[mapping.theirs] = torch.zeros(weight.size(0), dtype=weight.dtype)
    return weights


def download(hub_id: str) -> Path:
    """Download a model from the Hugging Face hub and return its folder in the hub's cache.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InterchangeError: the model does not exist, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", f"downloading {hub_id}") from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(DOWNLOADED)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InterchangeError(
            f"cannot download {hub_id} from the hub: {reason}. Without a network, give a folder with its files: "
            f"glassgpt import FOLDER --out RUN"
        ) from error


def _read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG_FILE
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InterchangeError(f"{folder} is not a Hugging Face model: it has no {CONFIG_FILE}") from None
    except ValueError as error:
        raise InterchangeError(f"{path} is not valid JSON: {error}") from error
    given = cast("HFConfig", content) if isinstance(content, dict) else {}
    layout = _layout_of_file(given, path)
    try:
        config = layout.from_hf(given)
        problems = [
            f"{name} is {value!r}; it must be an integer"
            for name in INTEGER_FIELDS
            if type(value := getattr(config, name)) is not int
        ] or config.problems()
    except TypeError as error:
        raise InterchangeError(f"{path} has a value of the wrong type: {error}") from error
    except InterchangeError as error:
        raise InterchangeError(f"{path}: {error}") from error
    if problems:
        raise InterchangeError(f"{path}: {'; '.join(problems)}")
    return config


def _layout_of_file(given: HFConfig, path: Path) -> Layout:
    supported = {layout.model_type: layout for layout in LAYOUTS}
    layout = supported.get(str(given.get("model_type")))
    if layout is None:
        raise InterchangeError(
            f"{path} describes a model of type {given.get('model_type')}; only {' and '.join(supported)} are supported"
        )
    for key, accepted in layout.required.items():
        if given.get(key, accepted[0]) not in accepted:
            raise InterchangeError(f"{path}: {key} is {given[key]!r}; {layout.arch} only supports {accepted[0]!r}")
    return layout


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except FileNotFoundError:
            raise InterchangeError(f"{path} is missing; {WEIGHTS_INDEX_FILE} names it") from None
        except SafetensorError as error:
            raise InterchangeError(f"{path} is damaged: {error}") from error
    return weights


def _weight_files(folder: Path) -> list[Path]:
    """Return the single weights file, or the shards of a large model."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not (folder / WEIGHTS_INDEX_FILE).is_file():
        raise InterchangeError(
            f"{folder} has no {WEIGHTS_FILE}; pickled weights are not loaded, because unpickling can run code. "
            f"Save the model again with transformers' save_pretrained"
        )
    try:
        names: dict[str, str] = json.loads((folder / WEIGHTS_INDEX_FILE).read_text(encoding="utf-8"))["weight_map"]
        return [folder / Path(name).name for name in sorted(set(names.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InterchangeError(f"{folder / WEIGHTS_INDEX_FILE} cannot be read: {error}") from error


def _copy_weights(model: LanguageModel, weights: dict[str, Tensor], folder: Path) -> None:
    parameters = dict(model.named_parameters())
    layout = layout_for(model.config.arch)
    for mapping in layout.parameter_mappings(model.config.n_layer):
        name = mapping.theirs if mapping.theirs in weights else mapping.theirs.removeprefix(layout.base_model_prefix)
        if name not in weights:
            raise InterchangeError(f"the weights of {folder} have no {name}")
        tensor = weights[name].float()
        tensor = tensor.T if mapping.transposed else tensor
        parameter = parameters[mapping.ours]
        if tensor.shape != parameter.shape:
            raise InterchangeError(
                f"the weights of {folder}: {name} is {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            )
        parameter.data.copy_(tensor)


def _config_json(config: ModelConfig, tokenizer: Tokenizer) -> HFConfig:
    layout = layout_for(config.arch)
    return {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "vocab_size": config.vocab_size,
        **layout.to_hf(config),
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "initializer_range": config.init_std,
        "torch_dtype": "float32",
        **{key: values[0] for key, values in layout.required.items() if key != "add_cross_attention"},
    }
