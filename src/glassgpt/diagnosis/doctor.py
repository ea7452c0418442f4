"""What `glassgpt doctor` looks at, in order. Each check is a function elsewhere; here they are only put in a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.checks import settings as settings_checks
from glassgpt.diagnosis.checks.memory import check_memory
from glassgpt.diagnosis.checks.rate_range import check_rate_range
from glassgpt.diagnosis.findings import CheckResult, Finding, is_fatal
from glassgpt.errors import DataError, TokenizerError
from glassgpt.model.accounting import count_parameters
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.bench import random_tokens
from glassgpt.training.checkpoint import load_weights
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.step import TrainStep

LARGE_PARAMETERS = 200_000_000
"""A model with more is looked at with its first layers alone: they are all built alike."""
LAYERS_OF_A_LARGE_MODEL = 2
LOOKED_AT_TOKENS = 512
QUICK_TOKENS = 128
CAUSALITY_TOKENS = 64
RANGE_TOKENS = 8192


@dataclass(frozen=True)
class TrainingPlan:
    """A training that is about to begin.

    Attributes:
        model: the shape, its vocabulary filled in.
        settings: of the training.
        dataset: what it learns from, or None where none is named: random tokens then stand for it.
        out: where the run is to be written.
        weights: checkpoint whose weights it begins with, or None for fresh ones.
    """

    model: ModelConfig
    settings: TrainerConfig
    dataset: TokenDataset | None
    out: Path
    weights: Path | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the weights are untrained."""
        return self.weights is None

    def text(self) -> TokenArray:
        """The training text, or what stands for it."""
        if self.dataset is not None:
            return self.dataset.split("train")
        return random_tokens(self.model.vocab_size, 64 * (self.model.context_length + 1))


def open_dataset(folder: Path) -> TokenDataset | CheckResult:
    """The data set, or what is wrong with it."""
    try:
        dataset = TokenDataset.open(folder)
        _ = dataset.tokenizer
    except DataError as error:
        return CheckResult("data", "unreadable", findings=(Finding("GG-DAT-007", "fatal", {"problem": str(error)}),))
    except TokenizerError as error:
        return CheckResult(
            "data", "tokenizer mismatch", findings=(Finding("GG-DAT-010", "fatal", {"problem": str(error)}),)
        )
    return dataset


def diagnose_machine() -> Iterator[CheckResult]:
    """Where nothing is named: what this machine would train with."""
    settings, model = TrainerConfig(), ModelConfig(n_layer=1, vocab_size=512, context_length=128)
    hardware = resolve_hardware(settings.train)
    yield settings_checks.check_hardware(model, settings.train, hardware)
    yield model_checks.check_attention_kernel(build_model(model).blocks[0].attention.attend, hardware)  # type: ignore[union-attr]


def diagnose_dataset(dataset: TokenDataset) -> Iterator[CheckResult]:
    """A data set by itself."""
    yield data_checks.check_shards(dataset)
    yield data_checks.check_token_ids(dataset, dataset.vocab_size)
    yield data_checks.check_tokenizer_fit(dataset)
    yield data_checks.check_duplicates(dataset)
    yield data_checks.check_overlap(dataset)
    yield data_checks.check_split_similarity(dataset)


def diagnose_training(plan: TrainingPlan, *, rate_range: bool = False) -> Iterator[CheckResult]:
    """A training before it begins: settings, machine, data, memory, model; the learning rates where asked.

    Args:
        plan: the training.
        rate_range: also try learning rates; the picture goes beside the run.
    """
    hardware = resolve_hardware(plan.settings.train)
    yield from _settings(plan)
    yield settings_checks.check_hardware(plan.model, plan.settings.train, hardware)
    yield settings_checks.check_disk(plan.model, plan.settings, plan.out)
    if plan.dataset is not None:
        can_be_read = True
        for check in diagnose_dataset(plan.dataset):
            yield check
            # Of ids without a row in the embedding no batch can be computed.
            can_be_read &= all(finding.code != "GG-DAT-001" for finding in check.findings)
        if not can_be_read:
            return
    memory = check_memory(plan.model, plan.settings, hardware)
    yield memory
    if is_fatal([memory]):
        return
    with torch.random.fork_rng([hardware.device] if hardware.device.type == "cuda" else []):
        yield from _model(plan, hardware)
        if rate_range:
            yield _range(plan, hardware)


def run_startup_checks(plan: TrainingPlan, model: LanguageModel | None) -> Iterator[CheckResult]:
    """What a second or two can tell at every start of training; changes nothing and no random generator.

    Args:
        plan: the training.
        model: as it begins, on the CPU; None where it goes on from a checkpoint and was looked at before.
    """
    yield from _settings(plan)
    if plan.dataset is None:
        return
    ids = data_checks.check_token_ids(plan.dataset, plan.model.vocab_size, data_checks.QUICK_TOKENS)
    yield ids
    if not ids.passed:
        return
    batches = Batches(plan.text(), plan.model.context_length, plan.settings.seed)
    yield data_checks.check_batches(batches, plan.settings.train.batch_tokens // plan.model.context_length)
    if model is None or count_parameters(plan.model) > LARGE_PARAMETERS:
        return
    cpu = Hardware(torch.device("cpu"), "fp32", compile=False)
    inputs, targets = _first_batch(batches, QUICK_TOKENS)
    if plan.is_fresh:
        yield model_checks.check_initial_weights(model)
    yield model_checks.check_initial_loss(model, inputs, targets, cpu, is_fresh=plan.is_fresh)
    yield model_checks.check_causality(model, inputs[:, :CAUSALITY_TOKENS])


def _settings(plan: TrainingPlan) -> Iterator[CheckResult]:
    yield settings_checks.check_learning_rate(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_warmup(plan.model, plan.settings, is_fresh=plan.is_fresh)
    yield settings_checks.check_weight_decay(plan.model, plan.settings)
    if plan.dataset is not None:
        yield settings_checks.check_epochs(plan.model, plan.settings, len(plan.text()))


def _model(plan: TrainingPlan, hardware: Hardware) -> Iterator[CheckResult]:
    model = _built(plan).to(hardware.device)
    size = {"parameters": count_parameters(plan.model), "blocks": len(model.blocks), "all": plan.model.n_layer}
    yield CheckResult("model", "size", size)
    batches = Batches(plan.text(), plan.model.context_length, plan.settings.seed)
    yield data_checks.check_batches(batches, plan.settings.train.batch_tokens // plan.model.context_length)
    inputs, targets = (part.to(hardware.device) for part in _first_batch(batches, LOOKED_AT_TOKENS))
    optimizer = plan.settings.optimizer
    yield model_checks.check_attention_kernel(model.blocks[0].attention.attend, hardware)  # type: ignore[union-attr]
    if plan.is_fresh:
        yield model_checks.check_initial_weights(model)
    yield model_checks.check_initial_loss(model, inputs, targets, hardware, is_fresh=plan.is_fresh)
    yield model_checks.check_causality(model, inputs[:, :CAUSALITY_TOKENS])
    yield model_checks.check_gradients(model, inputs, targets, hardware)
    yield model_checks.check_parameter_groups(model, build_optimizers(model, optimizer))
    yield _one_batch(plan, model, inputs, targets)


def _one_batch(plan: TrainingPlan, model: LanguageModel, inputs: Tensor, targets: Tensor) -> CheckResult:
    """Whether one batch is learned; where it is not, whether the rate is to blame: it is, if the usual one does it."""
    optimizer, rate = plan.settings.optimizer, plan.settings.train.learning_rate
    found = model_checks.check_one_batch(model, inputs, targets, optimizer, rate)
    questioned = settings_checks.check_learning_rate(plan.model, plan.settings, is_fresh=True)
    if found.passed or questioned.passed:
        return found
    usual = settings_checks.typical_learning_rate(plan.model, plan.settings)
    if not model_checks.check_one_batch(model, inputs, targets, optimizer, usual).passed:
        return found
    blamed = dataclasses.replace(questioned.findings[0], severity="fatal", confidence=0.95, ruled_out=("GG-BAT-001",))
    return CheckResult(found.name, "fitted at the typical rate", {**found.measurements, "usual": usual}, (blamed,))


def _built(plan: TrainingPlan) -> LanguageModel:
    """The model as training would begin with it; of a large fresh one the first layers."""
    shape = plan.model
    if plan.is_fresh and count_parameters(shape) > LARGE_PARAMETERS:
        shape = dataclasses.replace(shape, n_layer=min(shape.n_layer, LAYERS_OF_A_LARGE_MODEL))
    torch.manual_seed(plan.settings.seed)
    model = build_model(shape)
    if plan.weights is not None:
        load_weights(model, plan.weights, averaged=True)
    return model


def _first_batch(batches: Batches, tokens: int) -> tuple[Tensor, Tensor]:
    """At least a row of the first batch, and about so many tokens; the position stays."""
    rows = max(1, tokens // batches.context_length)
    inputs, targets = batches.read(batches.starts_at(batches.position, rows))
    most = max(2, tokens // rows)
    return inputs[:, :most], targets[:, :most]


def _range(plan: TrainingPlan, hardware: Hardware) -> CheckResult:
    rows = plan.settings.train.resolve_micro_batch_size(plan.settings.train.batch_tokens // plan.model.context_length)
    rows = max(1, min(rows, RANGE_TOKENS // plan.model.context_length))
    train = dataclasses.replace(plan.settings.train, batch_tokens=rows * plan.model.context_length, micro_batch_size=0)
    train_step = TrainStep(
        _built(plan), plan.text(), dataclasses.replace(plan.settings, train=train), hardware, DistributedContext()
    )
    folder = plan.out if plan.out.is_dir() else Path()
    try:
        return check_rate_range(train_step, hardware, train.learning_rate, folder / "rate-range.png")
    finally:
        train_step.close()
