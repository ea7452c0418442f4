"""How good a model is, and which settings suit it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from glassgpt import console
from glassgpt.api.loading import LoadedModel
from glassgpt.data.files import check_output_path, write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import UsageError
from glassgpt.evaluation.evaluate import EvaluationReport, EvaluationRequest, report_json, show_report
from glassgpt.evaluation.evaluate import evaluate as measure
from glassgpt.evaluation.held_out import PromptOptions, human_continuations
from glassgpt.evaluation.pictures import PICTURES, draw_comparison
from glassgpt.evaluation.show_sweep import settings_toml
from glassgpt.evaluation.sweep import Sweep, count_with_validation, sweep


def evaluate(
    loaded: LoadedModel,
    dataset: TokenDataset,
    questions: EvaluationRequest,
    *,
    as_json: bool = False,
    samples: int = 2,
    json_file: Path | None = None,
    picture: Path | None = None,
    force: bool = False,
) -> EvaluationReport:
    """Find out, print and write down what is asked about a model.

    Args:
        loaded: the model.
        dataset: made with its tokenizer.
        questions: what to find out.
        as_json: print one JSON object instead of tables.
        samples: prompts whose texts are printed.
        json_file: where to write the JSON too.
        picture: where to draw the comparison.
        force: whether files that are there may be written over.

    Raises:
        UsageError: a file could not be written.
        GlassGPTError: see `glassgpt.evaluation.evaluate.evaluate`.
    """
    if samples < 0:
        raise UsageError(f"--samples is {samples}; allowed is 0 or more")
    if picture is not None:
        check_output_path("--picture", picture, PICTURES, force=force)
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    writer = loaded.writer if questions.settings else None
    report = measure(loaded.model, dataset, questions, writer=writer)
    if as_json:
        console.output(report_json(report, dataset))
    else:
        show_report(report, dataset, samples)
    _write_down(report, dataset, json_file, picture)
    return report


def _write_down(report: EvaluationReport, dataset: TokenDataset, json_file: Path | None, picture: Path | None) -> None:
    if json_file is not None:
        write_atomically(json_file, f"{report_json(report, dataset)}\n".encode())
        console.info(f"wrote {json_file}")
    if picture is not None and report.comparison is not None:
        draw_comparison(report.comparison, dataset.tokenizer, picture)
        console.info(f"drew {picture}")


def sweep_decoding(
    loaded: LoadedModel,
    dataset: TokenDataset,
    purpose: str,
    prompts: PromptOptions,
    *,
    budget: int,
    out: Path,
    run: str,
) -> Sweep:
    """Find a setting for a purpose and write it into a file that `--settings` reads.

    Args:
        loaded: the model.
        dataset: made with its tokenizer.
        purpose: one of the ready settings' names.
        prompts: what to search on; half as many again are cut to check the winner on.
        budget: texts to be written by the search, about.
        out: the file.
        run: what the file calls the model.

    Raises:
        GlassGPTError: see `glassgpt.evaluation.sweep.sweep`.
    """
    prompts = prompts.fitted(loaded.model.config.context_length)
    human = human_continuations(dataset, dataclasses.replace(prompts, count=count_with_validation(prompts.count)))
    found = sweep(loaded.model, loaded.tokenizer, human, purpose, prompts, budget, writer=loaded.writer)
    write_atomically(out, settings_toml(found, run).encode())
    return found
