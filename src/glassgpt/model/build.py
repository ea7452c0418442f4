"""The registry of architectures: turns `model.arch` into a model."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from glassgpt.errors import ConfigError
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.custom import build_custom
from glassgpt.model.gated_deltanet import GatedDeltaNet
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.llama import Llama
from glassgpt.model.modern import Modern
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.width import scale_initial_weights

ARCHITECTURES: dict[str, type[GPT2 | Modern | Llama | GatedDeltaNet]] = {
    "gpt2": GPT2,
    "modern": Modern,
    "llama": Llama,
    "gated_deltanet": GatedDeltaNet,
}


def build_model(config: ModelConfig, attend: AttentionFunction = attend) -> LanguageModel:
    """Return a newly initialized model; the weights are drawn from torch's default generator.

    Args:
        config: the shape, and the names of parts that are the user's own; see `custom.build_custom`.
        attend: attention function, if the configuration names none.

    Raises:
        ConfigError: the configuration is invalid or its vocab_size is 0.
        PluginError: a part of the user's own cannot be used.
    """
    problems = config.problems()
    if config.vocab_size == 0:
        problems.append("model.vocab_size is 0; set it to the tokenizer's vocabulary size before building the model")
    if problems:
        raise ConfigError(problems)
    architecture = ARCHITECTURES[config.arch]
    model = build_custom(config, architecture) if config.plugins else architecture(config, attend)
    scale_initial_weights(model)
    return model


class _SkipInitialization(TorchFunctionMode):
    """Skips the functions of `torch.nn.init` that draw numbers or fill large tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_uninitialized(config: ModelConfig) -> LanguageModel:
    """Return a model whose weights hold whatever was in memory, for a caller that overwrites every one of them.

    Drawing weights takes more than a second for 100 million, and changes the state of torch's default generator.

    Raises:
        ConfigError: see `build_model`.
    """
    with _SkipInitialization():
        return build_model(config)


def meta_model(config: ModelConfig) -> LanguageModel:
    """Return a model on the `meta` device: names, shapes and kinds of its parameters, but no storage.

    Initializing it would change nothing, but import PyTorch's compiler.
    """
    with torch.device("meta"):
        return build_uninitialized(config)
