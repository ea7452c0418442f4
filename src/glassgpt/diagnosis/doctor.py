"""Select and order the checks: for this machine, a dataset, a planned training, and every start of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.chat import dataset as data_kinds
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.checks import settings as settings_checks
from glassgpt.diagnosis.checks.conversations import check_conversations
from glassgpt.diagnosis.checks.coordinates import Progress as CoordinateProgress
from glassgpt.diagnosis.checks.coordinates import check_coordinates
from glassgpt.diagnosis.checks.memory import check_memory
from glassgpt.diagnosis.checks.rate_range import Progress, check_rate_range, no_progress
from glassgpt.diagnosis.findings import CheckResult, Finding, is_fatal
from glassgpt.errors import DataError, TokenizerError
from glassgpt.model.accounting import count_parameters
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import add_lora
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.bench import random_tokens
from glassgpt.training.checkpoint import load_weights
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.step import TrainStep

LARGE_PARAMETERS = 200_000_000
"""A larger model is checked with its first layers only; all its layers are built alike."""
LAYERS_OF_A_LARGE_MODEL = 2
BATCH_TOKENS = 512
QUICK_BATCH_TOKENS = 128
CAUSALITY_TOKENS = 64
RATE_RANGE_TOKENS = 8192


@dataclass(frozen=True)
class TrainingPlan:
    """A training run that is about to start.

    Attributes:
        model: the model's shape, including the vocabulary size.
        settings: of the trainer.
        dataset: training data, or None to check with random tokens.
        out: folder of the run.
        weights: checkpoint that provides the initial weights, or None for untrained weights.
        known_loss: lowest validation loss in nats that `weights` had in their own run; None if unknown.
        lora: adapter that will be trained on `weights`; with rank 0 all weights are trained.
    """

    model: ModelConfig
    settings: TrainerConfig
    dataset: TokenDataset | None
    out: Path
    weights: Path | None = None
    known_loss: float | None = None
    lora: LoRAConfig = field(default_factory=LoRAConfig)

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


def diagnose_dataset(dataset: TokenDataset) -> Iterator[CheckResult]:
    """Check a dataset by itself."""
    yield data_checks.check_shards(dataset)
    ids = data_checks.check_token_ids(dataset, dataset.vocab_size)
    yield ids
    if not ids.passed:  # nothing can be counted
        return
    if isinstance(dataset, ConversationDataset):  # prompts and templates recur, and few words of a vocabulary may occur
        yield from check_conversations(dataset)
        return
    yield data_checks.check_tokenizer_fit(dataset)
    yield data_checks.check_duplicates(dataset)
    yield data_checks.check_overlap(dataset)
    yield data_checks.check_id_shift(dataset)
    yield data_checks.check_split_similarity(dataset)


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
        ids_are_valid = True
        for check in diagnose_dataset(plan.dataset):
            yield check
            ids_are_valid &= all(finding.code != "GG-DAT-001" for finding in check.findings)
        if not ids_are_valid:  # the model cannot embed them
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
        yield from check_conversations(plan.dataset)
    else:
        yield data_checks.check_id_shift(plan.dataset, most)
    batches = Batches(plan.training_tokens(), plan.sequence_length, plan.settings.seed)
    yield data_checks.check_batches(batches, plan.batch_size)
    if model is None or count_parameters(plan.model) > LARGE_PARAMETERS:
        return
    cpu = Hardware(torch.device("cpu"), "fp32", compile=False)
    inputs, targets = _first_batch(batches, QUICK_BATCH_TOKENS)
    yield from _check_initial_behavior(plan, model, inputs, targets, cpu)


def _check_settings(plan: TrainingPlan) -> Iterator[CheckResult]:
    yield settings_checks.check_learning_rate(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_warmup(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_weight_decay(plan.model, plan.settings)
    yield settings_checks.check_adamw(plan.settings)
    yield settings_checks.check_dropout(plan.model)
    if plan.dataset is not None:
        yield settings_checks.check_epochs(plan.model, plan.settings, len(plan.training_tokens()))


def _check_model(plan: TrainingPlan, hardware: Hardware) -> Iterator[CheckResult]:
    model = _initial_model(plan).to(hardware.device)
    size = {"parameters": count_parameters(plan.model), "blocks": len(model.blocks), "all": plan.model.n_layer}
    yield CheckResult("model", "size", size)
    batches = Batches(plan.training_tokens(), plan.sequence_length, plan.settings.seed)
    yield data_checks.check_batches(batches, plan.batch_size)
    inputs, targets = (part.to(hardware.device) for part in _first_batch(batches, BATCH_TOKENS))
    yield _check_attention(model, hardware)
    yield from _check_initial_behavior(plan, model, inputs, targets, hardware)
    yield model_checks.check_gradients(model, inputs, targets, hardware)
    yield model_checks.check_parameter_groups(model, build_optimizers(model, plan.settings.optimizer))
    yield _check_one_batch(plan, model, inputs, targets)


def _check_attention(model: LanguageModel, hardware: Hardware) -> CheckResult:
    return model_checks.check_attention_kernel(model.blocks[0].attention.attend, hardware)  # type: ignore[union-attr]


def _check_initial_behavior(
    plan: TrainingPlan, model: LanguageModel, inputs: Tensor, targets: Tensor, hardware: Hardware
) -> Iterator[CheckResult]:
    if plan.is_fresh:
        yield model_checks.check_initial_weights(model)
    yield model_checks.check_initial_loss(
        model, inputs, targets, hardware, is_fresh=plan.is_fresh, known_loss=plan.known_loss
    )
    yield model_checks.check_causality(model, inputs[:, :CAUSALITY_TOKENS])


def _check_one_batch(plan: TrainingPlan, model: LanguageModel, inputs: Tensor, targets: Tensor) -> CheckResult:
    """Check that one batch can be fitted. If only another learning rate or optimizer setting fits it, blame that."""
    optimizer, rate = plan.settings.optimizer, plan.settings.train.learning_rate
    result = model_checks.check_one_batch(model, inputs, targets, optimizer, rate)
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
            or not model_checks.check_one_batch(model, inputs, targets, other_optimizer, other_rate).passed
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
    model = build_model(shape)
    if plan.weights is not None:
        load_weights(model, plan.weights, averaged=True)
    return model


def _first_batch(batches: Batches, tokens: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (B, T) each, of about this many tokens from the first batch, without advancing."""
    rows = max(1, tokens // batches.context_length)
    inputs, targets = batches.read(batches.starts_at(batches.position, rows))
    length = max(2, tokens // rows)
    return inputs[:, :length], targets[:, :length]


def _check_rate_range(plan: TrainingPlan, hardware: Hardware, progress: Progress) -> CheckResult:
    rows = plan.settings.train.resolve_micro_batch_size(plan.batch_size)
    rows = max(1, min(rows, RATE_RANGE_TOKENS // plan.sequence_length))
    train = dataclasses.replace(plan.settings.train, batch_tokens=rows * plan.sequence_length, micro_batch_size=0)
    settings = dataclasses.replace(plan.settings, train=train)
    model = _initial_model(plan)
    if plan.lora.rank:  # its best rate is another one than that of all weights
        add_lora(model, Adapter("", plan.lora))
    train_step = TrainStep(model, plan.training_tokens(), settings, hardware, DistributedContext())
    try:
        picture = _picture_folder(plan) / "rate-range.png"
        return check_rate_range(train_step, hardware, train.learning_rate, picture, progress)
    finally:
        train_step.close()


def _check_coordinates(
    plan: TrainingPlan, hardware: Hardware, progress: CoordinateProgress | None
) -> list[CheckResult]:
    batches = Batches(plan.training_tokens(), plan.sequence_length, plan.settings.seed)
    inputs, targets = (part.to(hardware.device) for part in _first_batch(batches, BATCH_TOKENS))
    picture = _picture_folder(plan) / "coordinates.png"
    return check_coordinates(plan.model, plan.settings, inputs, targets, picture, progress)


def _picture_folder(plan: TrainingPlan) -> Path:
    return plan.out if plan.out.is_dir() else Path()
