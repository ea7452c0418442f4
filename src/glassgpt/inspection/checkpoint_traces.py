"""The same sentence through a run's checkpoints: how the model came to what it says now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.errors import CheckpointError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import (
    checkpoint_name,
    checkpoint_step,
    find_checkpoint,
    list_checkpoints,
    load_model,
    read_state,
)
from glassgpt.training.run_folder import RunFolder

TRACES_KEPT = 3
"""In memory at once, each with its model: the one looked at and its neighbours."""

Figure = TypeVar("Figure")
Key = TypeVar("Key")
Kept = TypeVar("Kept")


class History:
    """Traces of one text, a checkpoint each, loaded and verified when they are asked for; made by `history`.

    Attributes:
        run: the run.
        tokenizer: the run's.
        text: that is traced, or None for the beginning of a document.
        options: see `Trace`.
        steps: of training, for which there are checkpoints, in order; a damaged one shows when it is asked for.
    """

    def __init__(self, run: RunFolder, tokenizer: Tokenizer, text: str | None, options: GenerationOptions) -> None:
        self.run, self.tokenizer, self.text, self.options = run, tokenizer, text, options
        self.steps = steps_of(run)
        self._traces: dict[int, Trace] = {}

    def __getitem__(self, step: int) -> Trace:
        """The trace after so many steps of training.

        Raises:
            CheckpointError: there is no checkpoint of that step, or it is damaged.
            TokenizerError: it was trained with another tokenizer than the run has now.
            InspectionError: the text cannot be traced.
        """
        found = self._traces.get(step) or self._load(step)
        keep(self._traces, step, found, TRACES_KEPT)
        return found

    def follow(self, figure: Callable[[Trace], Figure]) -> Iterator[tuple[int, Figure]]:
        """A figure of every checkpoint, oldest first; see `__getitem__` for what can go wrong."""
        return ((step, figure(self[step])) for step in self.steps)

    def _load(self, step: int) -> Trace:
        return trace(model_after(self.run, self.tokenizer, step), self.tokenizer, self.text, self.options)


def keep(kept: dict[Key, Kept], key: Key, value: Kept, most: int) -> None:
    """Put something behind all others, and let the first go where there are too many: the last asked for stays longest."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


def model_after(run: RunFolder, tokenizer: Tokenizer, step: int) -> LanguageModel:
    """A run's model after so many steps of training, verified.

    Raises:
        CheckpointError: there is no checkpoint of that step, or it is damaged.
        TokenizerError: it was trained with another tokenizer than the run has now.
    """
    checkpoint = find_checkpoint(run, checkpoint_name(step))
    if read_state(checkpoint).tokenizer_fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"{run.tokenizer} is not the tokenizer that {checkpoint.name} was trained with; put back the "
            "file that the run began with"
        )
    return load_model(checkpoint)


def steps_of(run: RunFolder) -> list[int]:
    """The steps of training for which a run has checkpoints, in order."""
    return [checkpoint_step(path) for path in list_checkpoints(run)]


def history(run: str | Path, text: str | None, options: GenerationOptions | None = None) -> History:
    """The checkpoints of a run, to be looked into with one text.

    Args:
        run: the run's folder.
        text: see `trace`.
        options: see `trace`.

    Raises:
        CheckpointError: there is no run, or it has no checkpoint yet.
        TokenizerError: the run's tokenizer cannot be read.
    """
    folder = RunFolder(Path(run)).require()
    found = History(folder, load_tokenizer(folder.tokenizer), text, options or GenerationOptions())
    if not found.steps:
        raise CheckpointError(f"{run} has no checkpoint yet; train it for longer, or save more often")
    return found
