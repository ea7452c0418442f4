"""The command that compresses a model."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from glassgpt import console
from glassgpt.cli.distillation import (
    SmallerModelArguments,
    SmallerModelFlags,
    check_distillation,
    check_search,
    distil,
)
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, Overrides, Run
from glassgpt.compression.methods import CompressionMethod, check_methods
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.methods.sparsity import Sparsity, SparsityMethod
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from glassgpt.api.compression import CompressionSource
    from glassgpt.compression.report import CompressionReport

METHOD = Group("Methods", sort_key=1)
SEARCH = Group("Finding out what to do", sort_key=3)
MEASURED = Group("Text", sort_key=4)


def compress(
    run: Run,
    *,
    out: Path | None = None,
    smaller: SmallerModelArguments = SmallerModelFlags(),  # noqa: B008 - frozen
    int8: Annotated[Flag, Parameter(group=METHOD)] = False,
    int4: Annotated[Flag, Parameter(group=METHOD)] = False,
    rounding: Annotated[Literal["gptq", "nearest"], Parameter(group=METHOD)] = "gptq",
    symmetric: Annotated[Flag, Parameter(group=METHOD)] = False,
    sparsity: Annotated[str | None, Parameter(group=METHOD)] = None,
    method: Annotated[SparsityMethod, Parameter(group=METHOD)] = "sparsegpt",
    sensitivity: Annotated[Flag, Parameter(group=SEARCH)] = False,
    target: Annotated[str | None, Parameter(group=SEARCH)] = None,
    minutes: Annotated[float, Parameter(group=SEARCH)] = 10.0,
    picture: Annotated[Path | None, Parameter(group=SEARCH)] = None,
    data: Annotated[Path | None, Parameter(group=MEASURED)] = None,
    calibration_tokens: Annotated[Integer, Parameter(group=MEASURED)] = 32768,
    eval_tokens: Annotated[Integer, Parameter(group=MEASURED)] = 32768,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    json: Flag = False,
    force: Flag = False,
    overrides: Overrides,
) -> None:
    """Make a run's model smaller, as a new run, and measure what that costs: perplexity, size, speed, and which texts change.

    Parameters
    ----------
    out:
        Run folder to create.
    int8:
        Store weights in 8 bits, with a scale per output channel.
    int4:
        Store the weights of the blocks in 4 bits, in groups of 32, and the embedding and the head in 8.
    rounding:
        How int4 rounds: gptq makes up for each rounding error with the following weights, nearest does not.
    symmetric:
        With int4: no offsets, as in the 4 bits of ONNX Runtime and llama.cpp; an export in 4 bits then keeps the weights.
    sparsity:
        Share of the blocks' weights to set to zero, such as 0.5, or 2:4 for two of every four: for study, as neither size
        nor speed changes.
    method:
        How sparsity chooses them: with sparsegpt the weights that remain make up for the others, with wanda they stay.
    sensitivity:
        Only show how much the perplexity rises with each matrix alone in 4 bits.
    target:
        A size such as 60MB or a speed such as 200tok/s: try all combinations of methods, smaller models that are trained included, and create the run that meets it at the lowest perplexity.
    minutes:
        Time for trying combinations and for training smaller models; the one that is being measured is finished.
    picture:
        Draw the sensitivity, or size and perplexity of the combinations, into this .png, .svg or .pdf file.
    data:
        Dataset to calibrate and evaluate on; defaults to the one the run was trained on.
    calibration_tokens:
        Tokens of the training text that gptq, sparsegpt, wanda and prune read.
    eval_tokens:
        Held-out tokens to evaluate; 0 means all.
    json:
        Print the report as one JSON object.
    force:
        Overwrite an existing picture.
    """
    RunFolder(run).require()
    methods = [
        *smaller.methods(run),
        *([Sparsity(sparsity, method)] if sparsity is not None else []),
        *([Int8()] if int8 else []),
        *([Int4(rounding, symmetric)] if int4 else []),
    ]
    if symmetric and not int4:
        raise UsageError("--symmetric is a kind of --int4; add --int4, or leave it out")
    _check_tokens(calibration_tokens, eval_tokens)
    trains = smaller.resume or (any(method.trains for method in methods) and not smaller.no_training)
    if trains and not sensitivity and target is None:
        out = check_distillation(run, out, methods, data, checkpoint, overrides, resume=smaller.resume)
        from glassgpt.api.compression import CompressionSource

        source = CompressionSource(run, data, checkpoint, device, calibration_tokens, eval_tokens)
        _show(distil(source, out, methods, overrides, resume=smaller.resume), out, as_json=json)
        return
    if overrides and target is None:
        raise UsageError(f"--{next(iter(overrides))} is a setting of training; it needs --distil, --prune or --target")
    used = {"--resume": smaller.resume, "--no-training": smaller.no_training, "--json": json}
    used["--train.device"] = any(name.replace("_", "-") == "train.device" for name in overrides)  # --device chooses
    others = [option for option, is_given in used.items() if is_given]
    _check_work(run, out, methods, others, sensitivity=sensitivity, target=target, picture=picture, minutes=minutes)
    _check_paths(run, out, data, picture, force=force)
    if target is not None:
        check_search(run, data, checkpoint, overrides)

    from glassgpt.api.compression import CompressionSource  # loads torch, which takes seconds

    source = CompressionSource(run, data, checkpoint, device, calibration_tokens, eval_tokens)
    if sensitivity:
        _show_sensitivity(source, picture)
    elif target is not None:
        _search(source, out, target, minutes, picture, overrides)
    elif out is not None:
        _compress(source, out, methods, as_json=json)


def _check_paths(run: Path, out: Path | None, data: Path | None, picture: Path | None, *, force: bool) -> None:
    from glassgpt.cli.checks import check_run_and_dataset
    from glassgpt.data.files import check_output_path, require_creatable

    if out is not None:
        RunFolder(out).require_new()
        require_creatable(out)
    if picture is not None:
        check_output_path("--picture", picture, (".png", ".svg", ".pdf"), force=force)
    check_run_and_dataset(run, data)


def _check_tokens(calibration: int, evaluated: int) -> None:
    if calibration < 1 or evaluated < 0:
        raise UsageError(
            f"--calibration-tokens is {calibration} and --eval-tokens {evaluated}; they must be at least 1 and 0"
        )


def _check_work(
    run: Path,
    out: Path | None,
    methods: list[CompressionMethod],
    others: list[str],
    *,
    sensitivity: bool,
    target: str | None,
    picture: Path | None,
    minutes: float,
) -> None:
    """Check that the command asks for one thing only, and that it suits the model.

    `others` are options that a search and the sensitivity have no use for.
    """
    from glassgpt.compression.search import parse_target
    from glassgpt.config import load_config

    wanted = [
        *(f"--{method.name}" for method in methods),
        *(["--sensitivity"] if sensitivity else []),
        *(["--target"] if target is not None else []),
    ]
    if sensitivity or target is not None:
        wanted += others
    if len(wanted) > 1 and (sensitivity or target is not None):
        raise UsageError(f"{' and '.join(wanted)} cannot be combined; choose one")
    if target is not None:
        parse_target(target)
        if not 0 < minutes < math.inf:  # nan neither
            raise UsageError(f"--minutes is {minutes}; it must be above 0 and finite")
    elif not sensitivity:
        check_methods(methods, load_config(run).model, trains=False)
        if out is None:
            raise UsageError("the compressed model needs a run folder; add --out RUN")
        if picture is not None:
            raise UsageError("--picture draws the results of --sensitivity or --target; add one of them")


def _compress(source: CompressionSource, out: Path, methods: list[CompressionMethod], *, as_json: bool) -> None:
    from glassgpt import api

    _show(api.compress(source, out, methods), out, as_json=as_json)


def _show(report: CompressionReport, out: Path, *, as_json: bool) -> None:
    from glassgpt.compression.show import show_compression

    if as_json:
        console.output_json(report.to_json())
    else:
        show_compression(report)
    _announce(out)


def _show_sensitivity(source: CompressionSource, picture: Path | None) -> None:
    from glassgpt.api.compression import sensitivity
    from glassgpt.compression.pictures import draw_sensitivity
    from glassgpt.compression.show import show_sensitivity

    found = sensitivity(source)
    show_sensitivity(found)
    if picture is not None:
        draw_sensitivity(found, picture)
        console.info(f"wrote {picture}")


def _search(
    source: CompressionSource,
    out: Path | None,
    text: str,
    minutes: float,
    picture: Path | None,
    overrides: dict[str, str],
) -> None:
    from glassgpt.api.compression_search import compress_to_target
    from glassgpt.compression.pictures import draw_frontier
    from glassgpt.compression.search import best_for, parse_target
    from glassgpt.compression.show import show_candidates, show_compression

    target = parse_target(text)
    candidates, report = compress_to_target(source, out, target, seconds=60 * minutes, overrides=overrides)
    show_candidates(candidates, target)
    if picture is not None:
        draw_frontier(candidates, picture)
        console.info(f"wrote {picture}")
    chosen = best_for(target, candidates)
    if chosen is None:
        raise GlassGPTError(f"none of {len(candidates)} combinations meets {text}; the table shows what is possible")
    if not chosen.methods:
        console.info(f"the original model meets {text} already")
    elif report is not None and out is not None:
        show_compression(report)
        _announce(out)
    else:
        console.info(f"{chosen.name} meets {text} at the lowest perplexity; add --out RUN to create that run")


def _announce(out: Path) -> None:
    console.info(f"wrote {out}; generate text with: glassgpt generate {shlex.quote(str(out))} --prompt TEXT")
