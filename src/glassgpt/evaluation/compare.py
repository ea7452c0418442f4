"""Settings of a generation beside each other: the same prompts, the same figures, and the texts themselves."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import ConfigError, GenerationError, UsageError
from glassgpt.evaluation.bleu import bleu_metric
from glassgpt.evaluation.coherence import Coherence, Embedder
from glassgpt.evaluation.continuations import generation_jobs, write
from glassgpt.evaluation.held_out import Continuation, PromptOptions
from glassgpt.evaluation.quality import Quality, measure
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import generation_preset_names, load_generation_preset, parse_generation_preset
from glassgpt.model.transformer import LanguageModel
from glassgpt.schema import did_you_mean

SIMPLE: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {"temperature": 0.0},
    "pure": {"temperature": 1.0, "top_p": 1.0},
}
"""Settings that need no file: `generate`'s own, the most probable token, and the model's distribution as it is."""


@dataclass(frozen=True)
class Written:
    """What one setting brought about.

    Attributes:
        name: of the setting.
        quality: its figures.
        texts: one for each prompt, in their order.
    """

    name: str
    quality: Quality
    texts: list[Continuation]


@dataclass(frozen=True)
class Comparison:
    """Settings on the same prompts.

    Attributes:
        human: what people wrote there, measured in the same way: the yardstick.
        settings: in the order asked for.
        embedder: what coherence was measured with.
        prompts: how they were cut.
    """

    human: Written
    settings: list[Written]
    embedder: str
    prompts: PromptOptions


def named_settings(given: str) -> dict[str, dict[str, Any]]:
    """Arguments for `GenerationOptions` by name, from `creative,greedy,mine.toml,temperature=0.7+top_p=0.9`.

    Raises:
        UsageError: nothing is named.
        ConfigError: a name is unknown, or a value has the wrong type.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--compare names no settings; {_allowed()}")
    return {name: _settings_of(name) for name in names}


def _settings_of(name: str) -> dict[str, Any]:
    if name in SIMPLE:
        return SIMPLE[name]
    if name.endswith(".toml") or name in generation_preset_names():
        return load_generation_preset(name)
    if "=" in name:
        return parse_generation_preset("\n".join(_toml_line(part) for part in name.split("+")), name)
    known = [*generation_preset_names(), *SIMPLE]
    raise ConfigError([f"there are no settings {name}{did_you_mean(name, known)}; {_allowed()}"])


def _toml_line(part: str) -> str:
    """`top-p=0.9` as a line of a settings file.

    Raises:
        ConfigError: it is no name with a value.
    """
    key, _, value = part.partition("=")
    line = f"{key.strip().replace('-', '_')} = {value}"
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"--compare cannot read {part}; allowed is NAME=VALUE, like top_p=0.9"]) from error
    return line


def _allowed() -> str:
    return f"allowed are {', '.join([*generation_preset_names(), *SIMPLE])}, a path to a .toml, or like temperature=0.7+top_p=0.9"


def comparable(settings: dict[str, Any], prompts: PromptOptions, context: int) -> GenerationOptions:
    """A setting with one sample a prompt, of the length that all get.

    A text that goes past the context is written by `re-prefill`, so that length is never the context's doing.

    Raises:
        GenerationError: a value is out of range.
    """
    fixed: dict[str, Any] = {"max_tokens": prompts.new_tokens, "num_samples": 1, "logprobs": 0}
    fixed["overflow"] = "re-prefill" if overflows(prompts, context) else "stop"
    options = GenerationOptions(**{**settings, **fixed})
    options.check()
    return options


def validated_options(
    settings: dict[str, dict[str, Any]], prompts: PromptOptions, context: int
) -> dict[str, GenerationOptions]:
    """Settings as `comparable` makes them, by name: what can be known to fail fails here, before minutes of work.

    Raises:
        MissingExtraError: sacrebleu is not installed.
        GenerationError: a value is out of range; says in which setting.
    """
    bleu_metric(sentence=True)
    asked: dict[str, GenerationOptions] = {}
    for name, given in settings.items():
        try:
            asked[name] = comparable(given, prompts, context)
        except GenerationError as error:
            raise GenerationError(f"settings {name}: {error}") from error
    return asked


def overflows(prompts: PromptOptions, context: int) -> bool:
    """Whether prompt and continuation together are more than a model sees at once."""
    return prompts.prompt_tokens + prompts.new_tokens > context


def compare(
    model: LanguageModel,
    tokenizer: Tokenizer,
    human: Sequence[Continuation],
    settings: dict[str, dict[str, Any]],
    prompts: PromptOptions,
    embedder: Embedder,
    *,
    writer: LanguageModel | None = None,
) -> Comparison:
    """Let a model go on from held-out prompts by each setting, and measure.

    Args:
        model: in evaluation mode; perplexity is under it.
        tokenizer: the model's.
        human: prompts with their true continuations.
        settings: arguments for `GenerationOptions`, by name.
        prompts: how the prompts were cut; its seed is the noise's too.
        embedder: for coherence.
        writer: the model's twin that writes faster, if there is one.

    Raises:
        MissingExtraError: sacrebleu is not installed.
        GenerationError: a setting cannot be used.
    """
    context = model.config.context_length
    asked = validated_options(settings, prompts, context)
    if overflows(prompts, context):
        console.info(
            f"prompt and new tokens together exceed the context of {context:,}: texts are written with "
            f"--overflow re-prefill"
        )
    coherence = Coherence(embedder, [text.text for text in human])
    yardstick = Written("people", measure(model, tokenizer, human, coherence), list(human))
    written: list[Written] = []
    for name, options in asked.items():
        jobs = generation_jobs(human, options, prompts.seed)
        texts = write(writer or model, tokenizer, jobs, label=f"writing: {name}")
        written.append(Written(name, measure(model, tokenizer, texts, coherence, human), texts))
    return Comparison(yardstick, written, coherence.name, dataclasses.replace(prompts, count=len(human)))
