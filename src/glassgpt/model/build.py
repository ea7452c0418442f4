"""The registry of architectures: turns `model.arch` into a model."""

from __future__ import annotations

from glassgpt.errors import ConfigError
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.llama import Llama
from glassgpt.model.modern import Modern
from glassgpt.model.transformer import LanguageModel

ARCHITECTURES: dict[str, type[GPT2 | Modern | Llama]] = {"gpt2": GPT2, "modern": Modern, "llama": Llama}


def build_model(config: ModelConfig, attend: AttentionFunction = attend) -> LanguageModel:
    """Return a newly initialized model; the weights are drawn from torch's default generator.

    Raises:
        ConfigError: the configuration is invalid or its vocab_size is 0.
    """
    problems = config.problems()
    if config.vocab_size == 0:
        problems.append("model.vocab_size is 0; set it to the tokenizer's vocabulary size before building the model")
    if problems:
        raise ConfigError(problems)
    return ARCHITECTURES[config.arch](config, attend)
