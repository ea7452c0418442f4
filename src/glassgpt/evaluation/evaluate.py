"""All that `glassgpt evaluate` finds out about a run, in one go."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassgpt.data.shards import TokenDataset
from glassgpt.errors import UsageError
from glassgpt.evaluation.coherence import Embedder, EmbeddingModel, ModelStates
from glassgpt.evaluation.compare import Comparison, compare, validated_options
from glassgpt.evaluation.documents import DocumentLoss, document_losses
from glassgpt.evaluation.held_out import PromptOptions, human_continuations
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.perplexity import check_stride, held_out_tokens, sliding_loss
from glassgpt.evaluation.show import (
    comparison_json,
    documents_json,
    show_comparison,
    show_documents,
    show_validation,
    validation_json,
)
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be found out.

    Attributes:
        context_length: tokens the model sees at once; 0 takes its whole context.
        stride: of a sliding window; 0 takes windows without overlap.
        per_document: whether each document is measured by itself too.
        settings: what to write by, arguments for `GenerationOptions` by name; empty writes nothing.
        prompts: what to go on from.
        embedding_model: folder of a model for coherence; None takes the model's own states.
    """

    context_length: int = 0
    stride: int = 0
    per_document: bool = False
    settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    prompts: PromptOptions = field(default_factory=PromptOptions)
    embedding_model: Path | None = None

    def fitted(self, context: int) -> EvaluationRequest:
        """The same with nothing left open, for a model of this context.

        Raises:
            UsageError: says what is allowed.
            GenerationError: a setting cannot be used.
            MissingExtraError: texts cannot be measured without a package that is not installed.
        """
        if not 0 <= self.context_length <= context:
            raise UsageError(f"--context-length is {self.context_length}; allowed is 1 to {context}, or 0 for all")
        if self.stride:
            check_stride(self.stride, self.context_length or context)
        prompts = self.prompts.fitted(context)
        if self.settings:
            validated_options(self.settings, prompts, context)
        return dataclasses.replace(self, prompts=prompts)


@dataclass(frozen=True)
class EvaluationReport:
    """What was found; None for what was not asked."""

    validation: ValidationLoss
    documents: list[DocumentLoss] | None = None
    comparison: Comparison | None = None


def evaluate(
    model: LanguageModel, dataset: TokenDataset, questions: EvaluationRequest, *, writer: LanguageModel | None = None
) -> EvaluationReport:
    """Answer all questions about a model.

    Args:
        model: in evaluation mode.
        dataset: made with the model's tokenizer.
        questions: what to find out.
        writer: the model's twin that writes faster, if there is one.

    Raises:
        UsageError: a question cannot be answered with this model.
        DataError: there is no held-out text for it.
        MissingExtraError: it needs a package that is not installed.
    """
    # What can fail comes first: nobody should wait minutes for an error.
    questions = questions.fitted(model.config.context_length)
    held_out_tokens(dataset)
    human = human_continuations(dataset, questions.prompts) if questions.settings else []
    embedder = embedder_for(model, dataset, questions.embedding_model)
    validation, documents = _prediction(model, dataset, questions)
    if not questions.settings:
        return EvaluationReport(validation, documents)
    settings, prompts = questions.settings, questions.prompts
    comparison = compare(model, dataset.tokenizer, human, settings, prompts, embedder, writer=writer)
    return EvaluationReport(validation, documents, comparison)


def _prediction(
    model: LanguageModel, dataset: TokenDataset, questions: EvaluationRequest
) -> tuple[ValidationLoss, list[DocumentLoss] | None]:
    """How well held-out text is predicted: all together, and each document if that is asked."""
    context, stride = questions.context_length, questions.stride
    if stride:
        validation = sliding_loss(model, dataset, stride=stride, context_length=context)
    else:
        validation = evaluate_dataset(model, dataset, context_length=context)
    if not questions.per_document:
        return validation, None
    return validation, document_losses(model, dataset, stride=stride, context_length=context)


def embedder_for(model: LanguageModel, dataset: TokenDataset, folder: Path | None) -> Embedder:
    """What coherence is measured with.

    Raises:
        UsageError: there is no embedding model in the folder, or it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """
    return ModelStates(model, dataset.tokenizer) if folder is None else EmbeddingModel(folder)


def show_report(report: EvaluationReport, dataset: TokenDataset, samples: int) -> None:
    """Print a report for a person."""
    show_validation(report.validation)
    if report.documents is not None:
        show_documents(report.documents)
    if report.comparison is not None:
        show_comparison(report.comparison, dataset.tokenizer, samples)


def report_json(report: EvaluationReport, dataset: TokenDataset) -> str:
    """A report as one JSON object."""
    figures = validation_json(report.validation)
    if report.documents is not None:
        figures["documents"] = documents_json(report.documents)
    if report.comparison is not None:
        figures["generated"] = comparison_json(report.comparison, dataset.tokenizer)
    return json.dumps(figures, ensure_ascii=False)
