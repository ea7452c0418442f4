"""Hugging Face's GPT-2 layout: `config.json`, `model.safetensors` and tokenizer files, read and written.

Written here with safetensors and JSON alone, so that `transformers` is no dependency; the tests hold both
directions against it. No pickle is ever loaded: a folder that has only `pytorch_model.bin` is refused.
"""

from __future__ import annotations

import dataclasses
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
from glassgpt.interchange.tokenizer_files import read_tokenizer_files, write_tokenizer_files
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2, NORM_EPS
from glassgpt.model.names import gpt2_names
from glassgpt.model.transformer import LanguageModel

CONFIG, WEIGHTS, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREFIX = "transformer."
"""Hugging Face's language-model class keeps the trunk under this name; the bare trunk has none."""
GPT2_VOCABULARY = 50257
DOWNLOADED = (CONFIG, "model*.safetensors", WEIGHTS_INDEX, "tokenizer.json", "vocab.json", "merges.txt")

_FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (NORM_EPS,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""Settings of their configuration that our GPT-2 has built in, with the values that it stands for."""


def import_gpt2(folder: Path) -> tuple[GPT2, Tokenizer]:
    """Read a GPT-2 that `transformers` or someone else saved.

    Args:
        folder: with `config.json`, `model.safetensors` and tokenizer files; a folder without tokenizer
            files but with GPT-2's vocabulary size is taken to speak GPT-2's own.

    Returns:
        The model in evaluation mode, and its tokenizer.

    Raises:
        InterchangeError: a file is missing or damaged, or the model is no GPT-2 that ours can stand for.
        TokenizerError: our own tokenizer file is damaged, or GPT-2's vocabulary is not at hand.
    """
    config = _read_config(folder)
    tokenizer = _read_tokenizer(folder, config)
    weights = _read_weights(folder)
    model = build_model(config)
    assert isinstance(model, GPT2)
    _fill(model, weights, folder)
    return model.eval(), tokenizer


def _read_tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    tokenizer = read_tokenizer_files(folder)
    if tokenizer is None and config.vocab_size != GPT2_VOCABULARY:
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


def export_gpt2(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a model so that `GPT2LMHeadModel.from_pretrained(folder)` loads it.

    Biases that a model was built without are written as zeros, which is the same function. Everything is
    written beside the folder first and moved there when it is complete.

    Raises:
        InterchangeError: the architecture or the tokenizer has no place in this layout, or the folder cannot be
            written; nothing is left behind then.
    """
    if not isinstance(model, GPT2):
        raise InterchangeError(f"the architecture {model.config.arch} cannot be written in GPT-2's layout")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staged:
            _write(model, tokenizer, Path(staged))
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(staged).iterdir()):
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise InterchangeError(f"{folder} cannot be written: {error}") from error


def _write(model: GPT2, tokenizer: Tokenizer, folder: Path) -> None:
    write_tokenizer_files(tokenizer, model.config.context_length, folder)
    (folder / CONFIG).write_text(json.dumps(_config_json(model.config, tokenizer), indent=2) + "\n")
    save_file(_foreign_weights(model), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)


def _foreign_weights(model: GPT2) -> dict[str, Tensor]:
    ours = model.state_dict()
    weights: dict[str, Tensor] = {}
    for name in gpt2_names(model.config.n_layer):
        if name.ours in ours:
            tensor = ours[name.ours].detach().cpu()
            weights[PREFIX + name.openai] = (tensor.T if name.transposed else tensor).contiguous()
        else:
            weight = ours[name.ours.removesuffix("bias") + "weight"]
            weights[PREFIX + name.openai] = torch.zeros(weight.size(0), dtype=weight.dtype)
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
        raise InterchangeError(f"could not fetch {hub_id} from the hub: {reason}") from error


def _read_config(folder: Path) -> ModelConfig:
    path = folder / CONFIG
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InterchangeError(f"{folder} is no Hugging Face model: it has no {CONFIG}") from None
    except ValueError as error:
        raise InterchangeError(f"{path} is not valid JSON: {error}") from error
    given = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
    if given.get("model_type") != "gpt2":
        raise InterchangeError(f"{path} describes a model of type {given.get('model_type')}; only gpt2 can be imported")
    for key, allowed in _FIXED.items():
        if given.get(key, allowed[0]) not in allowed:
            raise InterchangeError(f"{path}: {key} is {given[key]!r}, and our GPT-2 stands for {allowed[0]!r} alone")
    try:
        config = _model_config(given)
        problems = config.problems()
        width = config.n_embd
    except TypeError as error:
        raise InterchangeError(f"{path} has a setting of the wrong type: {error}") from error
    if problems:
        raise InterchangeError(f"{path}: {'; '.join(problems)}")
    if given.get("n_inner") not in (None, 4 * width):
        raise InterchangeError(f"{path}: n_inner is {given['n_inner']}, and our GPT-2 has 4 times n_embd, {4 * width}")
    return config


def _model_config(given: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        vocab_size=given.get("vocab_size", GPT2_VOCABULARY),
        context_length=given.get("n_positions", 1024),
        n_layer=given.get("n_layer", 12),
        n_head=given.get("n_head", 12),
        n_embd=given.get("n_embd", 768),
        dropout=given.get("resid_pdrop", 0.1),
        init_std=given.get("initializer_range", 0.02),
    )


def _read_weights(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights |= {name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()}
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


def _fill(model: GPT2, weights: dict[str, Tensor], folder: Path) -> None:
    parameters = dict(model.named_parameters())
    for name in gpt2_names(model.config.n_layer):
        if name.openai not in weights:
            raise InterchangeError(f"the weights of {folder} have no {name.openai}")
        tensor = weights[name.openai].float()
        tensor = tensor.T if name.transposed else tensor
        parameter = parameters[name.ours]
        if tensor.shape != parameter.shape:
            raise InterchangeError(
                f"the weights of {folder}: {name.openai} is {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            )
        parameter.data.copy_(tensor)


def _config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    fixed = {key: values[0] for key, values in _FIXED.items() if key != "add_cross_attention"}
    shape = dataclasses.asdict(config)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{key: shape[key] for key in ("vocab_size", "n_layer", "n_head", "n_embd")},
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "initializer_range": config.init_std,
        "torch_dtype": "float32",
        **fixed,
    }
