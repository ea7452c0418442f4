"""Import and export of Hugging Face model folders: GPT-2, Llama, and NanoChat for our Modern.

A folder holds `config.json`, `model.safetensors` and tokenizer files. They are read and written with safetensors and
JSON alone, so that `transformers` is not a dependency; tests compare both directions with it. Pickles are never loaded:
a folder that only has `pytorch_model.bin` is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from glassgpt.data.files import apply_umask
from glassgpt.data.folder_kinds import not_a_model
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.errors import InterchangeError, MissingExtraError, WrongModelError
from glassgpt.interchange.comparison import compare_logits
from glassgpt.interchange.files import name_of, read_json, reason, shown, write_error
from glassgpt.interchange.layouts import LAYOUTS, HFConfig, Layout, layout_for
from glassgpt.interchange.tokenizer_files import NATIVE_FILE, write_tokenizer_files
from glassgpt.interchange.tokenizer_import import Notify, read_tokenizer_files
from glassgpt.interchange.weights import (
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    copy_weights,
    match_weights,
    read_headers,
)
from glassgpt.model.build import build_uninitialized
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel

CONFIG_FILE = "config.json"
DOWNLOADED = (
    CONFIG_FILE,
    "model*.safetensors",
    WEIGHTS_INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    NATIVE_FILE,
)
INTEGER_FIELDS = ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner", "head_dim")
UNSUPPORTED_KEYS = ("quantization_config", "auto_map", "rope_scaling", "pruned_heads")
"""Config keys that change the function or need custom code, whatever their value."""


def import_model(folder: Path, notify: Notify = lambda message: None) -> tuple[LanguageModel, Tokenizer]:
    """Load a GPT-2, Llama or NanoChat model from a Hugging Face folder.

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
    given = _read_config(folder)
    layout = _layout_of_file(given, folder / CONFIG_FILE)
    config = _model_config(given, layout, folder / CONFIG_FILE)
    is_tied = bool(given.get("tie_word_embeddings", layout.tied_by_default))
    weights = match_weights(read_headers(folder), config, layout, is_tied=is_tied, folder=folder)
    tokenizer = _read_tokenizer(folder, config, notify)
    model = build_uninitialized(config).eval()
    if not_finite := copy_weights(model, weights, layout):
        notify(
            f"{len(not_finite)} of {len(weights)} weights of {folder} have NaN or infinite values, such as "
            f"{not_finite[0]}; the model cannot generate text"
        )
    else:
        compare_logits(model, folder, notify)
    return model, tokenizer


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
        OSError: the disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staged:
            _write(model, tokenizer, Path(staged))
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(staged).iterdir()):
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise write_error(folder, error) from error


def write_config_files(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `config.json` and the tokenizer's files.

    Raises:
        InterchangeError: Hugging Face's format cannot express the architecture or the tokenizer.
    """
    write_tokenizer_files(tokenizer, config.context_length, folder)
    (folder / CONFIG_FILE).write_text(json.dumps(_config_json(config, tokenizer), indent=2) + "\n")


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    write_config_files(model.config, tokenizer, folder)
    save_file(_exported_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    apply_umask(folder / WEIGHTS_FILE)


def _exported_weights(model: LanguageModel) -> dict[str, Tensor]:
    ours = model.state_dict()
    weights: dict[str, Tensor] = {}
    for mapping in layout_for(model.config.arch).parameter_mappings(model.config):
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


def _read_config(folder: Path) -> HFConfig:
    if not (folder / CONFIG_FILE).is_file():
        raise WrongModelError(not_a_model(folder))
    return read_json(folder / CONFIG_FILE)


def _model_config(given: HFConfig, layout: Layout, path: Path) -> ModelConfig:
    try:
        config = layout.from_hf(_without_aliases(given, layout, path))
        problems = [
            f"{name} is {shown(value)}; it must be an integer"
            for name in INTEGER_FIELDS
            if type(value := getattr(config, name)) is not int
        ] or config.problems()
    except (TypeError, ValueError, OverflowError) as error:
        raise InterchangeError(f"{path} has a value of the wrong type: {reason(error)}") from error
    except InterchangeError as error:
        raise InterchangeError(f"{path}: {error}") from error
    if problems:
        raise InterchangeError(f"{path}: {'; '.join(problems)}")
    return config


def _without_aliases(given: HFConfig, layout: Layout, path: Path) -> HFConfig:
    """Return a config with every alias replaced by its canonical key.

    transformers lets an alias win over the first name, but did not always; two different values are refused.
    """
    resolved = dict(given)
    for alias, name in layout.aliases.items():
        if alias not in resolved:
            continue
        value = resolved.pop(alias)
        if resolved.setdefault(name, value) != value:
            raise InterchangeError(
                f"{name} is {shown(resolved[name])}, but {alias}, another name of the same setting, is {shown(value)}; "
                f"delete the wrong one"
            )
    return resolved


def _layout_of_file(given: HFConfig, path: Path) -> Layout:
    supported = {layout.model_type: layout for layout in LAYOUTS}
    model_type = given.get("model_type")
    layout = supported.get(model_type) if isinstance(model_type, str) else None
    if layout is None:
        raise InterchangeError(
            f"{path} describes a model of type {name_of(model_type)}; only {' and '.join(supported)} are supported"
        )
    for key in UNSUPPORTED_KEYS:
        if given.get(key):
            raise InterchangeError(f"{path}: {key} is {shown(given[key])}; glassgpt does not support {key}")
    for key, accepted in layout.required.items():
        if given.get(key, accepted[0]) not in accepted:
            raise InterchangeError(f"{path}: {key} is {shown(given[key])}; {layout.arch} only supports {accepted[0]!r}")
    return layout


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
