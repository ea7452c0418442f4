"""Traces of one text through the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.errors import CheckpointError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.caching import LRUCache
from glassgpt.inspection.media import MediaPrefix
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import (
    checkpoint_name,
    checkpoint_step,
    find_checkpoint,
    list_models,
    load_model,
    read_state,
)
from glassgpt.training.run_folder import RunFolder

CACHED_TRACES = 3
"""Traces in memory, each with its model: the current checkpoint and its neighbors."""

T = TypeVar("T")


class CheckpointTraces:
    """Traces of one text, one per checkpoint, verified and loaded on request; created by `trace_checkpoints`.

    Attributes:
        run: the run.
        tokenizer: the run's.
        text: that is traced, or None for the beginning of a document.
        options: see `Trace`.
        steps: training steps that have a checkpoint or snapshot, in order; a damaged one is reported when it is requested.
        media: pictures and sounds before the text.
        load: loads the model of a training step; None takes `load_checkpoint_model`.
    """

    def __init__(
        self,
        run: RunFolder,
        tokenizer: Tokenizer,
        text: str | None,
        options: GenerationOptions,
        media: MediaPrefix | None = None,
        load: Callable[[int], LanguageModel] | None = None,
    ) -> None:
        self.run, self.tokenizer, self.text, self.options, self.media, self.load = (
            run,
            tokenizer,
            text,
            options,
            media,
            load,
        )
        self.steps = checkpoint_steps(run)
        self._traces: LRUCache[int, Trace] = LRUCache(CACHED_TRACES)

    def __getitem__(self, step: int) -> Trace:
        """Return the trace at a training step.

        Raises:
            CheckpointError: there is no checkpoint of that step, or it is damaged.
            TokenizerError: it was trained with another tokenizer than the run has now.
            InspectionError: the text cannot be traced.
        """
        return self._traces.get(step, lambda: self._load(step))

    def map(self, function: Callable[[Trace], T]) -> Iterator[tuple[int, T]]:
        """Yield the step and the function's result for each checkpoint, oldest first; raises as `__getitem__` does."""
        return ((step, function(self[step])) for step in self.steps)

    def _load(self, step: int) -> Trace:
        model = self.load(step) if self.load else load_checkpoint_model(self.run, self.tokenizer, step)
        return trace(model, self.tokenizer, self.text, self.options, media=self.media)


def load_checkpoint_model(run: RunFolder, tokenizer: Tokenizer, step: int) -> LanguageModel:
    """Load the model of a run at a training step, verified.

    Raises:
        CheckpointError: there is no checkpoint of that step, or it is damaged.
        TokenizerError: it was trained with another tokenizer than the run has now.
    """
    checkpoint = find_checkpoint(run, checkpoint_name(step))
    if read_state(checkpoint).tokenizer_fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"{run.tokenizer} is not the tokenizer that {checkpoint.name} was trained with; restore the original file"
        )
    return load_model(checkpoint)


def checkpoint_steps(run: RunFolder) -> list[int]:
    """Return the training steps for which a run has a checkpoint or snapshot, in order."""
    return [checkpoint_step(path) for path in list_models(run)]


def trace_checkpoints(run: str | Path, text: str | None, options: GenerationOptions | None = None) -> CheckpointTraces:
    """Return the traces of a text through all checkpoints and snapshots of a run.

    Args:
        run: the run's folder.
        text: see `trace`.
        options: see `trace`.

    Raises:
        CheckpointError: the run is missing, or has no checkpoint yet.
        TokenizerError: the run's tokenizer cannot be read.
    """
    folder = RunFolder(Path(run)).require()
    traces = CheckpointTraces(folder, load_tokenizer(folder.tokenizer), text, options or GenerationOptions())
    if not traces.steps:
        raise CheckpointError(f"{run} has no checkpoint yet; train it for longer, or save more often")
    return traces
