"""The one place that turns `model.arch` into a class."""

from __future__ import annotations

from glassgpt.errors import ConfigError
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.modern import Modern
from glassgpt.model.transformer import LanguageModel

ARCHITECTURES: dict[str, type[GPT2 | Modern]] = {"gpt2": GPT2, "modern": Modern}


def build_model(config: ModelConfig, attend: AttentionFunction = attend) -> LanguageModel:
    """A freshly initialised model, drawn from torch's default generator.

    Raises:
        ConfigError: the configuration cannot work, or its vocabulary is not filled in.
    """
    problems = config.problems()
    if config.vocab_size == 0:
        problems.append("model.vocab_size is 0: take it from a tokenizer before building the model")
    if problems:
        raise ConfigError(problems)
    return ARCHITECTURES[config.arch](config, attend)
