"""Select and order the checks: for this machine, a dataset, a planned training, and every start of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path

import torch
from torch import Tensor

from glassgpt.data.batches import Batches, build_batches
from glassgpt.data.chat import dataset as data_kinds
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.preferences.dataset import PreferenceDataset
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.checks import settings as settings_checks
from glassgpt.diagnosis.checks.conversations import check_conversations
from glassgpt.diagnosis.checks.coordinates import Progress as CoordinateProgress
from glassgpt.diagnosis.checks.coordinates import check_coordinates
from glassgpt.diagnosis.checks.first_batch import first_batch, loss_of_data
from glassgpt.diagnosis.checks.memory import check_memory
from glassgpt.diagnosis.checks.rate_range import Progress, check_rate_range, no_progress
from glassgpt.diagnosis.findings import CheckResult, Finding, is_fatal
from glassgpt.errors import DataError, TokenizerError
from glassgpt.model.accounting import count_parameters
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.bench import random_tokens
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.step import TrainStep

LARGE_PARAMETERS = 200_000_000
"""A larger model is checked with its first layers only; all its layers are built alike."""
LAYERS_OF_A_LARGE_MODEL = 2
BATCH_TOKENS = 512
QUICK_BATCH_TOKENS = 128
CAUSALITY_TOKENS = 64
RATE_RANGE_TOKENS = 8192
UNUSABLE = {"GG-DAT-001", "GG-CHT-002", "GG-MED-001"}
"""Findings about data that no model can be checked with: it cannot embed them, nothing is learned, or media are misplaced."""


def build_untrained(shape: ModelConfig) -> LanguageModel:
    """Return a new language model."""
    return build_model(shape)


@dataclass(frozen=True)
class TrainingPlan:
    """A training run that is about to start.

    Attributes:
        model: the model's shape, including the vocabulary size.
        settings: of the trainer.
        dataset: what is trained on, as training reads it, or None to check with random tokens.
        out: folder of the run.
        weights: checkpoint that provides the initial weights, or None for untrained weights.
        known_loss: lowest validation loss in nats that `weights` had in their own run; None if unknown.
        build: returns the model of this shape that training begins with: with those weights, with the adapter that is to be
            trained, with what the data need besides a language model.
        source: the dataset on disk, if training reads it in another way or mixes another one in.
        is_augmented: whether training changes the data at random each time.
    """

    model: ModelConfig
    settings: TrainerConfig
    dataset: TokenDataset | None
    out: Path
    weights: Path | None = None
    known_loss: float | None = None
    build: Callable[[ModelConfig], LanguageModel] = build_untrained
    source: TokenDataset | None = None
    is_augmented: bool = False

    @property
    def is_fresh(self) -> bool:
        """True if the weights are untrained."""
        return self.weights is None

    @property
    def batch_size(self) -> int:
        """Sequences in a batch."""
        return self.settings.train.batch_tokens // self.sequence_length

    @property
    def sequence_length(self) -> int:
        """Tokens of a training sequence."""
        return self.settings.train.resolve_sequence_length(self.model.context_length)

    def training_tokens(self) -> TokenArray:
        """Return the training tokens, or random tokens if there is no dataset."""
        if self.dataset is not None:
            return self.dataset.split("train")
        return random_tokens(self.model.vocab_size, 64 * (self.model.context_length + 1))

    def batches(self) -> Batches:
        """Return the batches of training."""
        return build_batches(self.training_tokens(), self.sequence_length, self.settings.seed)

    def loss(self, model: LanguageModel) -> TrainingLoss:
        """Return the loss of a model that belongs to the data; see `loss_of_data`."""
        return loss_of_data(self.training_tokens(), model, self.settings)


def open_dataset(
    folder: Path, opened: Callable[[Path], TokenDataset] = data_kinds.open_dataset
) -> TokenDataset | CheckResult:
    """Return the dataset in a folder, as `opened` reads it, or a check result that says why it cannot be opened."""
    try:
        dataset = opened(folder)
        _ = dataset.tokenizer
    except DataError as error:
        return CheckResult("data", "unreadable", findings=(Finding("GG-DAT-007", "fatal", {"problem": str(error)}),))
    except TokenizerError as error:
        finding = Finding("GG-DAT-010", "fatal", {"problem": str(error)})
        return CheckResult("data", "tokenizer mismatch", findings=(finding,))
    return dataset


def diagnose_machine() -> Iterator[CheckResult]:
    """Check the hardware that this machine would train on."""
    settings, model = TrainerConfig(), ModelConfig(n_layer=1, vocab_size=512, context_length=128)
    hardware = resolve_hardware(settings.train)
    yield settings_checks.check_hardware(model, settings.train, hardware)
    yield _check_attention(build_model(model), hardware)


@singledispatch
def diagnose_dataset(dataset: TokenDataset) -> Iterator[CheckResult]:
    """Check a dataset by itself. This is for text; other kinds of data register theirs."""
    yield data_checks.check_shards(dataset)
    ids = data_checks.check_token_ids(dataset, dataset.vocab_size)
    yield ids
    if not ids.passed:  # nothing can be counted
        return
    yield data_checks.check_tokenizer_fit(dataset)
    yield data_checks.check_duplicates(dataset)
    yield data_checks.check_overlap(dataset)
    yield data_checks.check_id_shift(dataset)
    yield data_checks.check_split_similarity(dataset)


@diagnose_dataset.register
def _(dataset: ConversationDataset) -> Iterator[CheckResult]:
    yield data_checks.check_shards(dataset)
    ids = data_checks.check_token_ids(dataset, dataset.vocab_size)
    yield ids
    if ids.passed:  # prompts and templates recur, and few words of a vocabulary may occur
        yield from check_conversations(dataset)


@diagnose_dataset.register
def _(dataset: PreferenceDataset) -> Iterator[CheckResult]:
    yield data_checks.check_token_ids(dataset, dataset.vocab_size)


def diagnose_training(
    plan: TrainingPlan,
    *,
    rate_range: bool = False,
    progress: Progress = no_progress,
    coordinates: bool = False,
    coordinate_progress: CoordinateProgress | None = None,
) -> Iterator[CheckResult]:
    """Check a training run before it starts: settings, machine, data, memory and model.

    Args:
        plan: the training run.
        rate_range: also run a learning-rate range test; its plot is written to the run's folder if that exists, else to
            the current folder.
        progress: reports the steps of the range test.
        coordinates: also train narrower and wider models for a few steps; the plot is written like that of the range test.
        coordinate_progress: reports the steps of these models.
    """
    hardware = resolve_hardware(plan.settings.train)
    yield from _check_settings(plan)
    yield settings_checks.check_hardware(plan.model, plan.settings.train, hardware)
    yield settings_checks.check_disk(plan.model, plan.settings, plan.out)
    if plan.dataset is not None:
        is_usable = True
        for check in diagnose_dataset(plan.source or plan.dataset):
            yield check
            is_usable &= not any(finding.code in UNUSABLE for finding in check.findings)
        if not is_usable:
            return
    memory = check_memory(plan.model, plan.settings, hardware)
    yield memory
    if is_fatal([memory]):
        return
    with torch.random.fork_rng([hardware.device] if hardware.device.type == "cuda" else []):
        yield from _check_model(plan, hardware)
        if rate_range:
            yield _check_rate_range(plan, hardware, progress)
        if coordinates:
            yield from _check_coordinates(plan, hardware, coordinate_progress)


def run_startup_checks(plan: TrainingPlan, model: LanguageModel | None) -> Iterator[CheckResult]:
    """Run the checks that take a second or two at every start of training, without changing any state.

    Args:
        plan: the training run.
        model: the initial model, on the CPU; None if training resumes from a checkpoint.
    """
    yield from _check_settings(plan)
    if plan.dataset is None:
        return
    most = data_checks.QUICK_REMOTE_TOKENS if plan.dataset.files.missing() else data_checks.QUICK_TOKENS
    ids = data_checks.check_token_ids(plan.dataset, plan.model.vocab_size, most)
    yield ids
    if not ids.passed:
        return
    if isinstance(plan.dataset, ConversationDataset):
        conversations = check_conversations(plan.dataset)
        yield from conversations
        if any(finding.code in UNUSABLE for check in conversations for finding in check.findings):
            return
    elif not plan.training_tokens().row_length:  # of a text
        yield data_checks.check_id_shift(plan.dataset, most)
    batches = plan.batches()
    yield data_checks.check_batches(batches, plan.batch_size)
    if model is None or count_parameters(plan.model) > LARGE_PARAMETERS:
        return
    cpu = Hardware(torch.device("cpu"), "fp32", compile=False)
    inputs, targets = first_batch(batches, QUICK_BATCH_TOKENS)
    yield from _check_initial_behavior(plan, plan.loss(model), inputs, targets, cpu)


def _check_settings(plan: TrainingPlan) -> Iterator[CheckResult]:
    yield settings_checks.check_learning_rate(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_warmup(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_weight_decay(plan.model, plan.settings)
    yield settings_checks.check_adamw(plan.settings)
    yield settings_checks.check_dropout(plan.model)
    if plan.dataset is not None and not isinstance(plan.dataset, PreferenceDataset):  # a pair is no row of the context
        tokens = len(plan.training_tokens())
        yield settings_checks.check_epochs(plan.model, plan.settings, tokens, is_augmented=plan.is_augmented)


def _check_model(plan: TrainingPlan, hardware: Hardware) -> Iterator[CheckResult]:
    model = _initial_model(plan).to(hardware.device)
    size = {"parameters": count_parameters(plan.model), "blocks": len(model.blocks), "all": plan.model.n_layer}
    yield CheckResult("model", "size", size)
    batches, loss = plan.batches(), plan.loss(model)
    yield data_checks.check_batches(batches, plan.batch_size)
    inputs, targets = (part.to(hardware.device) for part in first_batch(batches, BATCH_TOKENS))
    yield _check_attention(model, hardware)
    yield from _check_initial_behavior(plan, loss, inputs, targets, hardware)
    yield model_checks.check_gradients(loss, inputs, targets, hardware)
    yield model_checks.check_parameter_groups(model, build_optimizers(model, plan.settings.optimizer))
    yield _check_one_batch(plan, loss, inputs, targets)


def _check_attention(model: LanguageModel, hardware: Hardware) -> CheckResult:
    return model_checks.check_attention_kernel(model.blocks[0].attention.attend, hardware)  # type: ignore[union-attr]


def _check_initial_behavior(
    plan: TrainingPlan, loss: TrainingLoss, inputs: Tensor, targets: Tensor, hardware: Hardware
) -> Iterator[CheckResult]:
    if plan.is_fresh:
        yield model_checks.check_initial_weights(loss.model)
    yield model_checks.check_initial_loss(
        loss, inputs, targets, hardware, is_fresh=plan.is_fresh, known_loss=plan.known_loss
    )
    # Tokens at random: what is between the positions of a text does not depend on the data, which may hold media.
    tokens = random_tokens(plan.model.vocab_size, min(CAUSALITY_TOKENS, plan.sequence_length))
    yield model_checks.check_causality(loss.model, torch.from_numpy(tokens.read(0, len(tokens)))[None])


def _check_one_batch(plan: TrainingPlan, loss: TrainingLoss, inputs: Tensor, targets: Tensor) -> CheckResult:
    """Check that one batch can be fitted. If only another learning rate or optimizer setting fits it, blame that."""
    optimizer, rate = plan.settings.optimizer, plan.settings.train.learning_rate
    result = model_checks.check_one_batch(loss, inputs, targets, optimizer, rate)
    if result.passed:
        return result
    usual = settings_checks.typical_learning_rate(plan.model, plan.settings)
    usual_optimizer = settings_checks.with_usual_adamw(optimizer)
    suspects = (
        (
            settings_checks.check_learning_rate(plan.model, plan.settings, is_fresh=True),
            optimizer,
            usual,
            "fitted at the typical rate",
        ),
        (settings_checks.check_adamw(plan.settings), usual_optimizer, rate, "fitted with the usual AdamW"),
    )
    for suspect, other_optimizer, other_rate, outcome in suspects:
        if (
            suspect.passed
            or not model_checks.check_one_batch(loss, inputs, targets, other_optimizer, other_rate).passed
        ):
            continue
        found = suspect.findings[0]
        blamed = dataclasses.replace(found, severity="fatal", confidence=0.95, ruled_out=("GG-BAT-001",))
        return CheckResult(result.name, outcome, {**result.measurements, "usual": other_rate}, (blamed,))
    return result


def _initial_model(plan: TrainingPlan) -> LanguageModel:
    """Return the model as training would start with it; only the first layers of a large untrained model."""
    shape = plan.model
    if plan.is_fresh and count_parameters(shape) > LARGE_PARAMETERS:
        shape = dataclasses.replace(shape, n_layer=min(shape.n_layer, LAYERS_OF_A_LARGE_MODEL))
    torch.manual_seed(plan.settings.seed)
    return plan.build(shape)


def _check_rate_range(plan: TrainingPlan, hardware: Hardware, progress: Progress) -> CheckResult:
    rows = plan.settings.train.resolve_micro_batch_size(plan.batch_size)
    rows = max(1, min(rows, RATE_RANGE_TOKENS // plan.sequence_length))
    train = dataclasses.replace(plan.settings.train, batch_tokens=rows * plan.sequence_length, micro_batch_size=0)
    settings = dataclasses.replace(plan.settings, train=train)
    train_step = TrainStep(_initial_model(plan), plan.training_tokens(), settings, hardware, DistributedContext())
    try:
        picture = _picture_folder(plan) / "rate-range.png"
        return check_rate_range(train_step, hardware, train.learning_rate, picture, progress)
    finally:
        train_step.close()


def _check_coordinates(
    plan: TrainingPlan, hardware: Hardware, progress: CoordinateProgress | None
) -> list[CheckResult]:
    inputs, targets = (part.to(hardware.device) for part in first_batch(plan.batches(), BATCH_TOKENS))
    picture = _picture_folder(plan) / "coordinates.png"
    return check_coordinates(
        plan.model, plan.settings, inputs, targets, picture, progress, lambda shape: plan.loss(plan.build(shape))
    )


def _picture_folder(plan: TrainingPlan) -> Path:
    return plan.out if plan.out.is_dir() else Path()
