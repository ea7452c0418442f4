"""Hugging Face's layouts of GPT-2, and of NanoChat for our Modern: `config.json`, `model.safetensors` and tokenizer files, read and written.

Written here with safetensors and JSON alone, so that `transformers` is no dependency; the tests hold both
directions against it. No pickle is ever loaded: a folder that has only `pytorch_model.bin` is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.errors import InterchangeError, MissingExtraError
from glassgpt.interchange.layouts import LAYOUTS, layout_for
from glassgpt.interchange.tokenizer_files import read_tokenizer_files, write_tokenizer_files
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel

CONFIG, WEIGHTS, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DOWNLOADED = (CONFIG, "model*.safetensors", WEIGHTS_INDEX, "tokenizer.json", "vocab.json", "merges.txt")


def import_model(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """Read a GPT-2 or NanoChat that `transformers` or someone else saved.

    Args:
        folder: with `config.json`, `model.safetensors` and tokenizer files; a folder without tokenizer
            files but with GPT-2's vocabulary size is taken to speak GPT-2's own.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        InterchangeError: a file is missing or damaged, or the model is none that ours can stand for.
        TokenizerError: our own tokenizer file is damaged, or GPT-2's vocabulary is not at hand.
    """
    config = _read_config(folder)
    tokenizer = _read_tokenizer(folder, config)
    weights = _read_weights(folder)
    model = build_model(config)
    _fill(model, weights, folder)
    return model.eval(), tokenizer


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    tokenizer = read_tokenizer_files(folder)
    if tokenizer is None and config.vocab_size != GPT2_VOCAB_SIZE:
        raise InterchangeError(
            f"{folder} has no tokenizer files, and its vocabulary of {config.vocab_size:,} is not GPT-2's; "
            f"put the model's tokenizer.json, or vocab.json and merges.txt, beside {CONFIG}"
        )
    if tokenizer is None:
        tokenizer = gpt2_tokenizer()
    if tokenizer.vocab_size > config.vocab_size:
        raise InterchangeError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model only {config.vocab_size:,}"
        )
    return tokenizer


def export_model(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model so that `AutoModelForCausalLM.from_pretrained(folder)` of `transformers` loads it.

    Biases that a model was built without are written as zeros, which is the same function. Everything is
    written beside the folder first and moved there when it is complete.

    Raises:
        InterchangeError: the architecture or the tokenizer has no place in this layout, or the folder cannot be
            written; nothing is left behind then.
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
    (folder / CONFIG).write_text(json.dumps(_config_json(model.config, tokenizer), indent=2) + "\n")
    save_file(_foreign_weights(model), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)


def _foreign_weights(model: LanguageModel) -> dict[str, Tensor]:
    ours = model.state_dict()
    weights: dict[str, Tensor] = {}
    for name in layout_for(model.config.arch).names(model.config.n_layer):
        if name.ours in ours:
            tensor = ours[name.ours].detach().cpu()
            weights[name.theirs] = (tensor.T if name.transposed else tensor).contiguous()
        else:
            weight = ours[name.ours.removesuffix("bias") + "weight"]
            weights[name.theirs] = torch.zeros(weight.size(0), dtype=weight.dtype)
    return weights


def download(hub_id: str) -> Path:
    """Fetch a model of the Hugging Face hub; the one thing here that uses the network, because it was named.

    Returns:
        The folder in the hub's cache.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InterchangeError: there is no such model, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", f"fetching {hub_id}") from error
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(DOWNLOADED)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InterchangeError(
            f"could not fetch {hub_id} from the hub: {reason}. Without a network, name a folder with its files: "
            f"glassgpt import FOLDER --out RUN"
        ) from error


def _read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InterchangeError(f"{folder} is no Hugging Face model: it has no {CONFIG}") from None
    except ValueError as error:
        raise InterchangeError(f"{path} is not valid JSON: {error}") from error
    given = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    known = {layout.model_type: layout for layout in LAYOUTS}
    layout = known.get(str(given.get("model_type")))
    if layout is None:
        kind = given.get("model_type")
        raise InterchangeError(f"{path} describes a model of type {kind}; only {' and '.join(known)} can be imported")
    for key, allowed in layout.fixed.items():
        if given.get(key, allowed[0]) not in allowed:
            raise InterchangeError(
                f"{path}: {key} is {given[key]!r}, and our {layout.arch} stands for {allowed[0]!r} alone"
            )
    try:
        config = layout.read(given)
        problems = [
            f"{name} of the model is {value!r}, not a whole number"
            for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd")
            if type(value := getattr(config, name)) is not int
        ] or config.problems()
    except TypeError as error:
        raise InterchangeError(f"{path} has a setting of the wrong type: {error}") from error
    except InterchangeError as error:
        raise InterchangeError(f"{path}: {error}") from error
    if problems:
        raise InterchangeError(f"{path}: {'; '.join(problems)}")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except FileNotFoundError:
            raise InterchangeError(f"{path} is missing; {WEIGHTS_INDEX} names it") from None
        except SafetensorError as error:
            raise InterchangeError(f"{path} is damaged: {error}") from error
    return weights


def _weight_files(folder: Path) -> list[Path]:
    """One file, or several where the model was too large for one."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise InterchangeError(
            f"{folder} has no {WEIGHTS}; pickled weights are not loaded, because loading them runs code. "
            f"Save the model again with transformers' save_pretrained"
        )
    try:
        names: dict[str, str] = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [folder / Path(name).name for name in sorted(set(names.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InterchangeError(f"{folder / WEIGHTS_INDEX} cannot be read: {error}") from error


def _fill(model: LanguageModel, weights: dict[str, Tensor], folder: Path) -> None:
    parameters = dict(model.named_parameters())
    layout = layout_for(model.config.arch)
    for name in layout.names(model.config.n_layer):
        theirs = name.theirs if name.theirs in weights else name.theirs.removeprefix(layout.trunk)
        if theirs not in weights:
            raise InterchangeError(f"the weights of {folder} have no {theirs}")
        tensor = weights[theirs].float()
        tensor = tensor.T if name.transposed else tensor
        parameter = parameters[name.ours]
        if tensor.shape != parameter.shape:
            raise InterchangeError(
                f"the weights of {folder}: {theirs} is {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            )
        parameter.data.copy_(tensor)


def _config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    layout = layout_for(config.arch)
    return {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "vocab_size": config.vocab_size,
        **layout.write(config),
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "initializer_range": config.init_std,
        "torch_dtype": "float32",
        **{key: values[0] for key, values in layout.fixed.items() if key != "add_cross_attention"},
    }
