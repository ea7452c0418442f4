"""Connect the trackers that `train.trackers` names with a run."""

from __future__ import annotations

from operator import attrgetter

from glassgpt.config import RunConfig, settings
from glassgpt.data.shards import TokenDataset
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.plain import generate_text
from glassgpt.training.loop import Trainer
from glassgpt.training.trackers.base import TrackedRun
from glassgpt.training.trackers.build import build_trackers
from glassgpt.training.trackers.observer import Sample, Trackers

PROMPT_TOKENS, SAMPLE_TOKENS = 32, 64


def trackers_of(trainer: Trainer, config: RunConfig) -> list[Trackers]:
    """Return the observer that feeds the trackers of a configuration, or nothing if it names none."""
    if not config.train.trackers:
        return []
    values = {name: attrgetter(name)(config) for name in settings()}
    run = TrackedRun(trainer.run_folder.path, values)
    return build_trackers(config.train.trackers, run, trainer.emit, _sample_of(trainer, config.seed))


def _sample_of(trainer: Trainer, seed: int) -> Sample | None:
    """Return a function that continues the first words of the held-out text; None where the model cannot do that alone.

    It changes neither the weights nor any generator: sampling noise is a function of the seed.
    """
    dataset, model = trainer.dataset, trainer.model
    held_out = dataset.split("validation")
    length = min(PROMPT_TOKENS, model.config.context_length // 2, len(held_out))
    if type(dataset) is not TokenDataset or trainer.train_step.loss.is_sharded or length < 1:
        return None
    prompt = dataset.tokenizer.decode(held_out.read(0, length).tolist())
    options = GenerationOptions(max_tokens=SAMPLE_TOKENS, temperature=0.8, seed=seed)

    def sample() -> str:
        was_training = model.training
        model.eval()
        try:
            return f"{prompt}|{generate_text(model, dataset.tokenizer, prompt, options)}"
        finally:
            model.train(was_training)

    return sample
