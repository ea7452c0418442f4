"""Faults that are put into a training from outside, for the tests of diagnosis."""

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


class Told(Observer):
    """Remembers everything."""

    def __init__(self):
        self.steps, self.events, self.rewinds = [], [], []

    def on_step(self, metrics):
        self.steps.append(metrics)

    def on_event(self, step, event, details):
        self.events.append((event, dict(details)))

    def on_rollback(self, step):
        self.rewinds.append(step)

    def of(self, event):
        return [details for name, details in self.events if name == event]


def trainer_for(dataset, path, guard=None, *, dist=None, model=TINY, optimizer=None, every_steps=0, warmup=2, **train):
    defaults = {"max_steps": 12, "batch_tokens": 256, "learning_rate": 1e-3, "eval_every_steps": 0, "eval_tokens": 512}
    settings = TrainerConfig(
        train=TrainConfig(**{**defaults, **train}),
        optimizer=optimizer or OptimizerConfig(),
        schedule=ScheduleConfig(kind="constant", warmup_steps=warmup),
        checkpoint=CheckpointConfig(every_steps=every_steps, keep_best=False),
    )
    torch.manual_seed(3)
    told = Told()
    return Trainer(build_model(model), dataset, settings, RunFolder(Path(path)), [told], dist, guard), told


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def poison_window(trainer, step, row, rank=0):
    """Make the tokens of one row of one batch, wherever they come again, give an embedding that is no number."""
    batches = trainer.train_step.batches
    twin = Batches(batches.tokens, batches.context_length, trainer.config.seed)
    every = trainer.train_step.batch_size * batches.world_size
    start = int(twin.starts_at((step - 1) * every, every)[rank * trainer.train_step.batch_size + row])
    bad = torch.from_numpy(batches.tokens.read(start, batches.context_length))

    def hook(module, inputs, output):
        hit = (inputs[0] == bad.to(inputs[0].device)).all(dim=-1)
        return torch.where(hit[:, None, None], math.nan, output)

    trainer.model.token_embedding.register_forward_hook(hook)
    return start


def at_step(trainer, step, action):
    """Do something once, just before the forward pass of a step."""
    original = trainer.train_step.step

    def stepping(number, learning_rate, **more):
        if number == step and not stepping.done:
            stepping.done = True
            action()
        return original(number, learning_rate, **more)

    stepping.done = False
    trainer.train_step.step = stepping


class Memoryless:
    """A device that has room for so many sequences in a forward pass."""

    def __init__(self, train_step, rows, from_call=1, error=None):
        self._train, self.rows, self._from, self._calls = train_step.loss.train, rows, from_call, 0
        self._error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        train_step.loss.train = self

    def __call__(self, inputs, targets):
        self._calls += 1
        if len(inputs) > self.rows and self._calls >= self._from:
            raise self._error
        return self._train(inputs, targets)
