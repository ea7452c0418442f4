"""Measure how fast a configuration trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.device import pick_device, require_gpus
from glassgpt.errors import ConfigError
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE
from glassgpt.training.bench import BenchProgress, TrainingSpeed, measure_training, total_steps
from glassgpt.training.distributed import distributed_from_environment, process_group
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.time_estimate import TimeEstimate, estimate_time


def bench_train(
    config: RunConfig,
    *,
    steps: int = 20,
    on_estimate: Callable[[TimeEstimate], None] = lambda estimate: None,
    on_progress: Callable[[BenchProgress], None] = lambda progress: None,
) -> TrainingSpeed:
    """Measure how fast a configuration trains on this machine: on its dataset if it has one, else on random tokens.

    Args:
        config: the configuration.
        steps: number of timed steps.
        on_estimate: called on rank 0 with the predicted time of the measurement, if it runs on a CPU.
        on_progress: called after each micro-batch.

    Raises:
        ConfigError: lists every invalid setting.
    """
    dist = distributed_from_environment()
    require_gpus(config.train.device, dist.world_size)
    if problems := config.problems(dist.world_size):
        raise ConfigError(problems)
    dataset = TokenDataset.open(dataset_folder(config.data)) if config.data else None
    model_config = config.model
    if model_config.vocab_size == 0:
        vocab_size = dataset.vocab_size if dataset else GPT2_VOCAB_SIZE
        model_config = dataclasses.replace(model_config, vocab_size=vocab_size)
    if dataset and model_config.vocab_size < dataset.vocab_size:
        raise ConfigError(
            [f"model.vocab_size is {model_config.vocab_size:,}, but the dataset has {dataset.vocab_size:,} tokens"]
        )
    tokens = dataset.split("train") if dataset else None
    with process_group(pick_device(config.train.device)) as dist:
        torch.manual_seed(config.seed)
        model = build_model(model_config)
        estimate = estimate_time(model, config.train, resolve_hardware(config.train), dist, total_steps(steps))
        if estimate is not None and dist.is_main:
            on_estimate(estimate)
        return measure_training(
            model, trainer_config(config), tokens=tokens, steps=steps, dist=dist, on_progress=on_progress
        )
