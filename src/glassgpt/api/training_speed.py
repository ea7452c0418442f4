"""Measure how fast a configuration trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from glassgpt.api.initialization import model_to_train
from glassgpt.api.preference_data import open_data
from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, resolve_config
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
    """Measure how fast a configuration trains on this machine: on what it trains on if that is named, else on random tokens.

    Args:
        config: the configuration.
        steps: number of timed steps.
        on_estimate: called on rank 0 with the predicted time of the measurement, if it runs on a CPU.
        on_progress: called after each micro-batch.

    Raises:
        ConfigError: lists every invalid setting.
        GlassGPTError: the data, or the run to start from, cannot be used.
    """
    dist = distributed_from_environment()
    require_gpus(config.train.device, dist.world_size)
    if problems := config.problems(dist.world_size):
        raise ConfigError(problems)
    config, dataset = _with_data(config, dist.world_size)
    tokens = dataset.split("train") if dataset else None
    with process_group(pick_device(config.train.device)) as dist:
        torch.manual_seed(config.seed)
        model = model_to_train(config, None, dataset) if dataset else build_model(config.model)
        if not config.preference.data:  # the estimate is of text
            estimate = estimate_time(model, config.train, resolve_hardware(config.train), dist, total_steps(steps))
            if estimate is not None and dist.is_main:
                on_estimate(estimate)
        return measure_training(
            model, trainer_config(config), tokens=tokens, steps=steps, dist=dist, on_progress=on_progress
        )


def _with_data(config: RunConfig, processes: int) -> tuple[RunConfig, TokenDataset | None]:
    """Return a valid configuration fitted to its data, and these as training reads them; None if none are named."""
    if config.data or config.preference.data:
        resolved = resolve_config(config, None, processes)
        return resolved, open_data(resolved)
    vocab_size = config.model.vocab_size or GPT2_VOCAB_SIZE
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size)), None
