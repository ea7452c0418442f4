"""The options of `compress` that make a smaller model and train it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from glassgpt.cli.shared import Flag, Integer
from glassgpt.compression.methods import CompressionMethod, check_methods
from glassgpt.compression.methods.distil import Distil
from glassgpt.compression.methods.prune import Part, Prune
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from glassgpt.api.compression import CompressionSource
    from glassgpt.compression.report import CompressionReport

TRAINED = Group("Smaller models, trained to predict what the original predicts", sort_key=2)


@dataclass(frozen=True)
class SmallerModelFlags:
    """The options.

    Attributes:
        distil: Take evenly spaced layers of the model and train them. The run trains like any other; its settings
            (--train.max-steps, --train.learning-rate ...) start from those of RUN.
        layers: Layers of the distilled model; by default half of them.
        prune: Remove the least important layers, heads, or neurons of each MLP, and train the rest.
        keep: Share of the layers, heads or neurons that prune keeps.
        no_training: Do not train, to see what the training gains.
        resume: Continue the training of --out, which was stopped, and measure the result.
    """

    distil: Flag = False
    layers: Integer | None = None
    prune: Part | None = None
    keep: float = 0.75
    no_training: Flag = False
    resume: Flag = False

    def methods(self, run: Path) -> list[CompressionMethod]:
        """Return the methods that were asked for.

        Raises:
            UsageError: an option is given without the one that it belongs to.
        """
        from glassgpt.config import load_config

        if self.layers is not None and not self.distil:
            raise UsageError("--layers belongs to --distil; add it")
        chosen: list[CompressionMethod] = []
        if self.distil:
            half = load_config(run).model.n_layer // 2
            chosen.append(Distil(half if self.layers is None else self.layers))
        if self.prune:
            chosen.append(Prune(self.prune, self.keep))
        return chosen


SmallerModelArguments = Annotated[SmallerModelFlags, Parameter(name="*", group=TRAINED)]
"""The options, each with its own name."""


def check_distillation(
    run: Path,
    out: Path | None,
    methods: list[CompressionMethod],
    data: Path | None,
    checkpoint: str,
    overrides: dict[str, str],
    *,
    resume: bool,
) -> Path:
    """Check everything about a distillation that needs no torch, and return the folder of the run.

    Raises:
        GlassGPTError: something is missing or invalid.
    """
    from glassgpt.cli.checks import check_run_and_dataset, check_training
    from glassgpt.compression.distillation import require_student, require_text, training_settings
    from glassgpt.config import held_out_folder, load_config

    if out is None:
        raise UsageError("the compressed model needs a run folder; add --out RUN")
    if resume:
        RunFolder(out).require()
        if methods or data is not None:
            raise UsageError(f"--resume takes the methods and the dataset from {out}; leave them out")
        require_student(load_config(out).train.teacher, run, out)
        check_training(load_config(out, overrides), out, resume=True, processes=1)
        return out
    before = load_config(run)
    check_methods(methods, before.model)
    RunFolder(out).require_new()
    check_run_and_dataset(run, data)
    folder = held_out_folder(run, data)
    require_text(folder)
    settings = training_settings(run, folder, methods, before.model, before.train, overrides, checkpoint)
    check_training(load_config(run, settings), out, resume=False, processes=1)
    return out


def check_search(run: Path, data: Path | None, checkpoint: str, overrides: dict[str, str]) -> None:
    """Check the settings that a search trains smaller models with; with conversations or another checkpoint than the best it trains none.

    Raises:
        GlassGPTError: one of them is invalid, or they are given in vain.
    """
    from glassgpt.compression.distillation import require_text, training_settings
    from glassgpt.config import check_config, held_out_folder, load_config
    from glassgpt.data.chat.dataset import is_conversations

    before = load_config(run)
    folder = held_out_folder(run, data)
    if (is_conversations(folder) or checkpoint != "best") and not overrides:
        return
    require_text(folder)
    settings = training_settings(run, folder, [], before.model, before.train, overrides, checkpoint)
    check_config(load_config(run, settings))


def distil(
    source: CompressionSource,
    out: Path,
    methods: list[CompressionMethod],
    overrides: dict[str, str],
    *,
    resume: bool,
) -> CompressionReport:
    """Train a smaller model, or continue to; return its report."""
    from glassgpt import api

    if not resume:
        return api.distil(source, out, methods, overrides=overrides)
    return api.finish_distillation(
        source.run, out, device=source.device, eval_tokens=source.eval_tokens, overrides=overrides
    )
