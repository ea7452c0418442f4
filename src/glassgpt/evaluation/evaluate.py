"""Run every evaluation that `glassgpt evaluate` offers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.evaluation.coherence import Embedder, EmbeddingModel, ModelStates
from glassgpt.evaluation.compare import Comparison, compare, validated_options
from glassgpt.evaluation.documents import DocumentLoss, document_losses
from glassgpt.evaluation.held_out import PromptOptions, human_continuations
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.perplexity import check_stride, held_out_tokens, sliding_loss
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss


@dataclass(frozen=True)
class EvaluationRequest:
    """Request for an evaluation.

    Attributes:
        context_length: tokens the model sees at once; 0 means its whole context.
        stride: of a sliding window; 0 means windows without overlap.
        per_document: also evaluate each document by itself.
        settings: generation settings to compare, as arguments for `GenerationOptions` by name; empty generates nothing.
        prompts: how to select the prompts.
        embedding_model: folder of a model for coherence; None uses the model's own hidden states.
    """

    context_length: int = 0
    stride: int = 0
    per_document: bool = False
    settings: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    prompts: PromptOptions = field(default_factory=PromptOptions)
    embedding_model: Path | None = None

    def resolve(self, context: int) -> EvaluationRequest:
        """Return the request with defaults filled in for a model with this context length.

        Raises:
            UsageError: a value is out of range.
            GenerationError: generation settings are invalid.
            MissingExtraError: generated texts cannot be measured without a package that is not installed.
        """
        if not 0 <= self.context_length <= context:
            raise UsageError(
                f"--context-length must be from 1 to {context}, or 0 for the whole context, not {self.context_length}"
            )
        if self.stride:
            check_stride(self.stride, self.context_length or context)
        prompts = self.prompts.resolve(context)
        if self.settings:
            validated_options(self.settings, prompts, context)
        return dataclasses.replace(self, prompts=prompts)


@dataclass(frozen=True)
class EvaluationReport:
    """Results; None for what was not requested."""

    validation: ValidationLoss
    documents: list[DocumentLoss] | None = None
    comparison: Comparison | None = None


def evaluate(
    model: LanguageModel,
    dataset: TokenDataset,
    request: EvaluationRequest,
    *,
    decoding_model: LanguageModel | None = None,
    observer: EvaluationObserver = SILENT,
) -> EvaluationReport:
    """Evaluate a model.

    Args:
        model: in evaluation mode.
        dataset: tokenized for the model.
        request: what to evaluate.
        decoding_model: the same model prepared for faster decoding, if available.
        observer: receives progress and notices.

    Raises:
        UsageError: the request does not fit this model.
        DataError: there is no held-out text for it.
        MissingExtraError: it needs a package that is not installed.
        CheckpointError: the loss is NaN.
    """
    # Everything that can fail comes first, so that no error appears after minutes of work.
    if (rows := rows_in(dataset.folder)) and (request.stride or request.per_document or request.context_length):
        raise UsageError(
            f"{dataset.folder} holds {rows}, each of which is evaluated by itself; leave out --stride, --per-document "
            "and --context-length"
        )
    request = request.resolve(model.config.context_length)
    held_out_tokens(dataset)
    human = human_continuations(dataset, request.prompts, observer) if request.settings else []
    embedder = load_embedder(model, dataset, request.embedding_model)
    validation, documents = _evaluate_prediction(model, dataset, request, observer)
    if not request.settings:
        return EvaluationReport(validation, documents)
    comparison = compare(
        model,
        dataset.tokenizer,
        human,
        request.settings,
        request.prompts,
        embedder,
        decoding_model=decoding_model,
        observer=observer,
    )
    return EvaluationReport(validation, documents, comparison)


def _evaluate_prediction(
    model: LanguageModel, dataset: TokenDataset, request: EvaluationRequest, observer: EvaluationObserver
) -> tuple[ValidationLoss, list[DocumentLoss] | None]:
    """Return the loss over all held-out text, and of each document if requested."""
    context, stride = request.context_length, request.stride
    if stride:
        validation = sliding_loss(model, dataset, stride=stride, context_length=context, observer=observer)
    else:
        validation = evaluate_dataset(model, dataset, context_length=context, observer=observer)
    if math.isnan(validation.nats):
        raise CheckpointError(
            "the model's loss is NaN, so its weights are damaged; use an earlier checkpoint, and run: glassgpt doctor RUN"
        )
    if not request.per_document:
        return validation, None
    return validation, document_losses(model, dataset, stride=stride, context_length=context, observer=observer)


def load_embedder(model: LanguageModel, dataset: TokenDataset, folder: Path | None) -> Embedder:
    """Return the embedder for coherence.

    Raises:
        UsageError: there is no embedding model in the folder, or it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """
    return ModelStates(model, dataset.tokenizer) if folder is None else EmbeddingModel(folder)
