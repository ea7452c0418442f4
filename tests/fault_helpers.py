"""Faults that are injected into a training run, for the tests of diagnosis and the fault suite."""

import math
from pathlib import Path

import torch

from glassgpt.data.batches import Batches
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainerConfig
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder

TINY = ModelConfig(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=16)


class RecordingObserver(Observer):
    """Records steps, events and rollbacks."""

    def __init__(self):
        self.steps, self.events, self.rollbacks = [], [], []

    def on_step(self, metrics):
        self.steps.append(metrics)

    def on_event(self, step, event, details):
        self.events.append((event, dict(details)))

    def on_rollback(self, step):
        self.rollbacks.append(step)

    def of(self, event):
        return [details for name, details in self.events if name == event]


def trainer_for(
    dataset,
    path,
    policy=None,
    *,
    dist=None,
    model=TINY,
    optimizer=None,
    every_steps=0,
    background="auto",
    warmup=2,
    **train,
):
    defaults = {"max_steps": 12, "batch_tokens": 256, "learning_rate": 1e-3, "eval_every_steps": 0, "eval_tokens": 512}
    config = TrainerConfig(
        train=TrainConfig(**{**defaults, **train}),
        optimizer=optimizer or OptimizerConfig(),
        schedule=ScheduleConfig(kind="constant", warmup_steps=warmup),
        checkpoint=CheckpointConfig(every_steps=every_steps, keep_best=False, background=background),
    )
    torch.manual_seed(3)
    told = RecordingObserver()
    trainer = Trainer(build_model(model), dataset, config, RunFolder(Path(path)), [told], dist)
    if policy is not None:
        trainer.policy = policy(trainer)
    return trainer, told


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def poison_window(trainer, step, row, rank=0):
    """Make the embeddings of one sequence of a batch NaN, wherever its tokens occur again. Returns its first token."""
    batches = trainer.train_step.batches
    same = Batches(batches.tokens, batches.context_length, trainer.config.seed)
    every = trainer.train_step.batch_size * batches.world_size
    start = int(same.starts_at((step - 1) * every, every)[rank * trainer.train_step.batch_size + row])
    bad = torch.from_numpy(batches.tokens.read(start, batches.context_length))

    def hook(module, inputs, output):
        hit = (inputs[0] == bad.to(inputs[0].device)).all(dim=-1)
        return torch.where(hit[:, None, None], math.nan, output)

    trainer.model.token_embedding.register_forward_hook(hook)
    return start


def at_step(trainer, step, action):
    """Do something once, just before a step."""
    original = trainer.train_step.run

    def stepping(number, learning_rate, **more):
        if number == step and not stepping.done:
            stepping.done = True
            action()
        return original(number, learning_rate, **more)

    stepping.done = False
    trainer.train_step.run = stepping


class LimitedMemory:
    """Makes forward passes with more than `batch_size` sequences run out of memory."""

    def __init__(self, train_step, batch_size, from_call=1, error=None):
        self._train, self.batch_size, self._from, self._calls = train_step.loss.train, batch_size, from_call, 0
        self._error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        train_step.loss.train = self

    def __call__(self, inputs, targets):
        self._calls += 1
        if len(inputs) > self.batch_size and self._calls >= self._from:
            raise self._error
        return self._train(inputs, targets)
