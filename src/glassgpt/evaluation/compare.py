"""Compare generation settings: the same prompts, the same metrics, and the texts themselves."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import ConfigError, GenerationError, UsageError
from glassgpt.evaluation.bleu import bleu_metric
from glassgpt.evaluation.coherence import Coherence, Embedder
from glassgpt.evaluation.continuations import generate_continuations, generation_jobs
from glassgpt.evaluation.held_out import Continuation, PromptOptions
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.quality import TextQuality, measure_quality
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import generation_preset_names, load_generation_preset, parse_generation_preset
from glassgpt.model.transformer import LanguageModel
from glassgpt.schema import did_you_mean

BUILT_IN_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "greedy": {"temperature": 0.0},
    "pure": {"temperature": 1.0, "top_p": 1.0},
}
"""Settings without a file: the defaults of `generate`, the most probable token, and sampling from the full distribution."""


@dataclass(frozen=True)
class SettingsResult:
    """The texts generated with one set of settings, and their metrics.

    Attributes:
        name: of the settings; `people` for the human continuations.
        quality: metrics of the texts.
        texts: one for each prompt, in order.
    """

    name: str
    quality: TextQuality
    texts: list[Continuation]


@dataclass(frozen=True)
class Comparison:
    """Generation settings compared on the same prompts.

    Attributes:
        human: the human continuations, measured in the same way.
        settings: results in the order requested.
        embedder: what coherence was measured with.
        prompts: how the prompts were selected.
    """

    human: SettingsResult
    settings: list[SettingsResult]
    embedder: str
    prompts: PromptOptions


def parse_settings_list(given: str, option: str = "--compare") -> dict[str, dict[str, Any]]:
    """Parse `creative,greedy,mine.toml,temperature=0.7+top_p=0.9` into arguments for `GenerationOptions` by name.

    Args:
        given: the settings, separated by commas.
        option: that gives them, for error messages.

    Raises:
        UsageError: the list is empty.
        ConfigError: a name is unknown, or a value has the wrong type.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} names no settings; {_expected()}")
    return {name: _load_settings(name, option) for name in names}


def parse_one_setting(given: str, option: str) -> dict[str, Any]:
    """Parse settings as `parse_settings_list` does, where there must be one set of them.

    Raises:
        UsageError: there is none, or more than one.
        ConfigError: see `parse_settings_list`.
    """
    settings = parse_settings_list(given, option)
    if len(settings) != 1:
        raise UsageError(f"{option} is {given}; give one set of settings, such as greedy")
    return next(iter(settings.values()))


def _load_settings(name: str, option: str) -> dict[str, Any]:
    if name in BUILT_IN_SETTINGS:
        return BUILT_IN_SETTINGS[name]
    if name.endswith(".toml") or name in generation_preset_names():
        return load_generation_preset(name)
    if "=" in name:
        return parse_generation_preset("\n".join(_toml_line(part, option) for part in name.split("+")), name)
    known = [*generation_preset_names(), *BUILT_IN_SETTINGS]
    raise ConfigError([f"unknown settings {name}{did_you_mean(name, known)}; {_expected()}"])


def _toml_line(part: str, option: str) -> str:
    """Convert `top-p=0.9` to a line of TOML.

    Raises:
        ConfigError: it is not NAME=VALUE.
    """
    key, _, value = part.partition("=")
    line = f"{key.strip().replace('-', '_')} = {value}"
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{option}: cannot parse {part}; expected NAME=VALUE, such as top_p=0.9"]) from error
    return line


def _expected() -> str:
    names = ", ".join([*generation_preset_names(), *BUILT_IN_SETTINGS])
    return f"expected {names}, a path to a .toml file, or values such as temperature=0.7+top_p=0.9"


def comparison_options(settings: dict[str, Any], prompts: PromptOptions, context: int) -> GenerationOptions:
    """Return generation options with one sample per prompt and the length that all settings share.

    Texts that exceed the context use `re-prefill`, so that the context never limits their length.

    Raises:
        GenerationError: a value is out of range.
    """
    shared: dict[str, Any] = {"max_tokens": prompts.new_tokens, "num_samples": 1, "logprobs": 0}
    shared["overflow"] = "re-prefill" if exceeds_context(prompts, context) else "stop"
    options = GenerationOptions(**{**settings, **shared})
    options.check()
    return options


def validated_options(
    settings: dict[str, dict[str, Any]], prompts: PromptOptions, context: int
) -> dict[str, GenerationOptions]:
    """Return the `comparison_options` of each set of settings, so that invalid ones are reported before any work starts.

    Raises:
        MissingExtraError: sacrebleu is not installed.
        GenerationError: a value is out of range; names the settings.
    """
    bleu_metric(sentence=True)
    validated: dict[str, GenerationOptions] = {}
    for name, given in settings.items():
        try:
            validated[name] = comparison_options(given, prompts, context)
        except GenerationError as error:
            raise GenerationError(f"settings {name}: {error}") from error
    return validated


def exceeds_context(prompts: PromptOptions, context: int) -> bool:
    """Return whether a prompt and its continuation together can be longer than the context."""
    return prompts.prompt_tokens + prompts.new_tokens > context


def compare(
    model: LanguageModel,
    tokenizer: Tokenizer,
    human: Sequence[Continuation],
    settings: dict[str, dict[str, Any]],
    prompts: PromptOptions,
    embedder: Embedder,
    *,
    decoding_model: LanguageModel | None = None,
    observer: EvaluationObserver = SILENT,
) -> Comparison:
    """Generate continuations of held-out prompts with each set of settings, and measure them.

    Args:
        model: in evaluation mode; computes the surprisal.
        tokenizer: the model's.
        human: prompts with their true continuations.
        settings: arguments for `GenerationOptions`, by name.
        prompts: how the prompts were selected; its seed also seeds the sampling.
        embedder: for coherence.
        decoding_model: the same model prepared for faster decoding, if available.
        observer: receives progress, and a notice if texts exceed the context.

    Raises:
        MissingExtraError: sacrebleu is not installed.
        GenerationError: settings cannot be used with this model.
    """
    context = model.config.context_length
    options_by_name = validated_options(settings, prompts, context)
    if exceeds_context(prompts, context):
        observer.notice(
            f"prompt and new tokens together exceed the context of {context:,}: generating with --overflow re-prefill"
        )
    coherence = Coherence(embedder, [text.text for text in human])
    reference = SettingsResult("people", measure_quality(model, tokenizer, human, coherence), list(human))
    results: list[SettingsResult] = []
    for name, options in options_by_name.items():
        jobs = generation_jobs(human, options, prompts.seed)
        texts = generate_continuations(
            decoding_model or model, tokenizer, jobs, label=f"generating: {name}", observer=observer
        )
        results.append(SettingsResult(name, measure_quality(model, tokenizer, texts, coherence, human), texts))
    return Comparison(reference, results, coherence.name, dataclasses.replace(prompts, count=len(human)))
