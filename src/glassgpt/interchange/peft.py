"""Read and write low-rank adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

PEFT names tensors after the module that they adapt in transformers' model, and stores A as (rank, in) and B as (out, rank)
also for GPT-2, whose own matrices are transposed (`fan_in_fan_out`). So do we, and only names have to be translated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from glassgpt.data.files import apply_umask
from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import name_of, read_json, reason, shown, write_error
from glassgpt.interchange.layouts import layout_for
from glassgpt.interchange.tokenizer_import import Notify
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import adapter_of, add_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.model.transformer import LanguageModel

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
BASE_KEY = "glassgpt.base"
"""Entry of the weights' metadata: SHA-256 of the weights that were adapted, which PEFT's files do not name."""
PREFIX = "base_model.model."
PARTS = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
REFUSED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layer_replication", "trainable_token_indices", "target_parameters", "alora_invocation_tokens",
    "megatron_config", "monteclora_config", "arrow_config", "kasa_config", "velora_config",
)  # fmt: skip
"""Settings with which an adapter is another function than ours."""


def _their_layers(config: ModelConfig) -> dict[str, str]:
    """Return PEFT's name of each matrix in the blocks, without prefix, by our name."""
    mappings = layout_for(config.arch).parameter_mappings(config)
    pairs = ((each.ours.removesuffix(".weight"), each.theirs.removesuffix(".weight")) for each in mappings)
    return {ours: theirs for ours, theirs in pairs if re.match(r"blocks\.\d+\.(attention|mlp)\.\w+$", ours)}


def export_adapter(model: LanguageModel, folder: Path) -> None:
    """Write the adapter of a model, so that `PeftModel.from_pretrained(base, folder)` adds it to an exported base.

    Raises:
        InterchangeError: the model has no adapter, or the folder cannot be written.
        OSError: the disk is full.
    """
    adapter, names = adapter_of(model), _their_layers(model.config)
    if adapter is None:
        raise InterchangeError("the model has no adapter; export it with --format hf")
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable_parameters(model).items():
        layer, _, part = name.rpartition(".")
        tensors[f"{PREFIX}{names[layer]}.{PARTS[part]}"] = parameter.detach().cpu().contiguous()
    # attn.c_proj and mlp.c_proj must stay different: the last two parts of a name.
    targets = sorted({".".join(name.removeprefix(PREFIX).split(".")[-4:-2]) for name in tensors})
    lora = adapter.lora
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rank_stabilized,
        "target_modules": targets,
        "fan_in_fan_out": model.config.arch == "gpt2",
        "bias": "none",
        "inference_mode": True,
    }
    try:
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt", BASE_KEY: adapter.base})
        apply_umask(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise write_error(folder, error) from error


def import_adapter(model: LanguageModel, base: str, folder: Path, notify: Notify = lambda message: None) -> LoRAConfig:
    """Add an adapter in PEFT's format to a model, which is changed.

    Args:
        model: the base, without adapter.
        base: fingerprint of its weights.
        folder: contains `adapter_config.json` and `adapter_model.safetensors`.
        notify: receives what the user should know about an adapter that is imported nevertheless.

    Raises:
        InterchangeError: a file is missing or damaged, or the adapter is another function or for another model.
    """
    given = read_json(folder / CONFIG_FILE)
    tensors, trained_on = _read_tensors(folder / WEIGHTS_FILE)
    ours = _our_names(tensors, model.config, folder)
    lora = _lora_config(given, sorted({_layer_in_block(name) for name in ours}), folder / CONFIG_FILE)
    add_lora(model, Adapter(base, lora))
    parameters = trainable_parameters(model)
    if missing := sorted(parameters.keys() - ours.keys()):
        raise InterchangeError(
            f"{folder / WEIGHTS_FILE} adapts some blocks only: there is nothing for {missing[0]}, which is not supported"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            tensor = tensors[ours[name]]
            if tensor.shape != parameter.shape:
                raise InterchangeError(
                    f"{folder / WEIGHTS_FILE}: {shown(ours[name])} has the shape {tuple(tensor.shape)}, but the base needs "
                    f"{tuple(parameter.shape)}: it adapts another model"
                )
            parameter.copy_(tensor)
    if not all(bool(parameter.isfinite().all()) for parameter in parameters.values()):
        notify(f"the adapter in {folder} has NaN or infinite values; the model cannot generate text with it")
    if trained_on not in ("", base):
        notify(
            f"the adapter in {folder} was trained on other weights (SHA-256 {trained_on[:12]}…) than the base has "
            f"({base[:12]}…); unless these are the same model, name the run that it was trained on: --base RUN"
        )
    return lora


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file, and the SHA-256 of the weights that they adapt; empty if it is not known."""
    if not file.is_file():
        raise InterchangeError(
            f"{file} is missing; pickled adapters are not loaded, because unpickling can run code. "
            f"Save the adapter again with PEFT's save_pretrained"
        )
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
        with safe_open(file, framework="pt") as opened:
            return tensors, (opened.metadata() or {}).get(BASE_KEY, "")
    except (SafetensorError, OSError, ValueError) as error:
        raise InterchangeError(f"{file} is damaged: {reason(error)}") from error


def _our_names(tensors: dict[str, Tensor], config: ModelConfig, folder: Path) -> dict[str, str]:
    """Return the names of the tensors in the file by our names of the adapter's parameters."""
    known = {
        f"{PREFIX}{theirs}.{suffix}": f"{layer}.{part}"
        for layer, theirs in _their_layers(config).items()
        for part, suffix in PARTS.items()
    }
    if unknown := sorted(tensors.keys() - known.keys()):
        raise InterchangeError(
            f"{folder / WEIGHTS_FILE} adapts {shown(unknown[0])}, which a {config.arch} of {config.n_layer} blocks does not "
            f"have: it adapts another model, or is not plain LoRA of the matrices in the blocks"
        )
    if not tensors:
        raise InterchangeError(f"{folder / WEIGHTS_FILE} adapts nothing: it holds no tensors")
    return {known[name]: name for name in tensors}


def _layer_in_block(name: str) -> str:
    return ".".join(name.split(".")[2:4])


def _lora_config(given: dict[str, Any], targets: list[str], file: Path) -> LoRAConfig:
    if given.get("peft_type") != "LORA":
        raise InterchangeError(
            f"{file} describes an adapter of type {name_of(given.get('peft_type'))}; only LORA is supported"
        )
    for key in REFUSED:
        if given.get(key):
            raise InterchangeError(f"{file}: {key} is {shown(given[key])}; glassgpt does not support {key}")
    if given.get("bias", "none") != "none":
        raise InterchangeError(f"{file}: bias is {shown(given['bias'])}; glassgpt does not support bias")
    rank, alpha, dropout = given.get("r", 8), given.get("lora_alpha", 8), given.get("lora_dropout", 0.0)
    for key, value, kinds in (
        ("r", rank, int),
        ("lora_alpha", alpha, int | float),
        ("lora_dropout", dropout, int | float),
    ):
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise InterchangeError(f"{file}: {key} is {shown(value)}; it must be a number")
    lora = LoRAConfig(rank, float(alpha), ",".join(targets), float(dropout), bool(given.get("use_rslora")))
    problems = lora.problems() or ([] if rank else ["lora.rank is 0; it must be at least 1"])
    if problems:
        raise InterchangeError(f"{file}: {'; '.join(problems)}")
    return lora
