"""All logits processors, in the order in which they are applied.

The order is that of Hugging Face transformers. Presence and frequency penalty, which it lacks, follow the repetition
penalty. A new processor is one file and a base class here.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.generation.processors.ban import BanOptions
from glassgpt.generation.processors.base import ProcessorOptions
from glassgpt.generation.processors.constraints import ConstraintOptions
from glassgpt.generation.processors.custom import CustomProcessorOptions
from glassgpt.generation.processors.frequency_penalty import FrequencyPenaltyOptions
from glassgpt.generation.processors.logit_bias import LogitBiasOptions
from glassgpt.generation.processors.min_p import MinPOptions
from glassgpt.generation.processors.min_tokens import MinTokensOptions
from glassgpt.generation.processors.no_repeat_ngram import NoRepeatNgramOptions
from glassgpt.generation.processors.presence_penalty import PresencePenaltyOptions
from glassgpt.generation.processors.repetition_penalty import RepetitionPenaltyOptions
from glassgpt.generation.processors.temperature import TemperatureOptions
from glassgpt.generation.processors.top_k import TopKOptions
from glassgpt.generation.processors.top_p import TopPOptions
from glassgpt.generation.processors.typical_p import TypicalPOptions


@dataclass(frozen=True)
class RuleOptions(
    LogitBiasOptions,
    RepetitionPenaltyOptions,
    PresencePenaltyOptions,
    FrequencyPenaltyOptions,
    NoRepeatNgramOptions,
    BanOptions,
    MinTokensOptions,
    ConstraintOptions,
    CustomProcessorOptions,
):
    """Settings of the processors that apply to sampling, greedy decoding and searches alike."""


@dataclass(frozen=True)
class SamplingOptions(
    TemperatureOptions,
    TopKOptions,
    TopPOptions,
    MinPOptions,
    TypicalPOptions,
):
    """Settings of the processors that apply only to sampling."""


def _bases(combined: type[ProcessorOptions]) -> tuple[type[ProcessorOptions], ...]:
    return tuple(base for base in combined.__bases__ if issubclass(base, ProcessorOptions))


RULES, SAMPLERS = _bases(RuleOptions), _bases(SamplingOptions)
