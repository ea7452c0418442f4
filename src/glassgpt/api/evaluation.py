"""Evaluate a model, and search for decoding settings that suit it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from glassgpt import console
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.data.files import check_output_path, write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import UsageError
from glassgpt.evaluation import evaluate as evaluation
from glassgpt.evaluation.evaluate import EvaluationReport, EvaluationRequest
from glassgpt.evaluation.held_out import PromptOptions, human_continuations
from glassgpt.evaluation.pictures import PICTURES, draw_comparison
from glassgpt.evaluation.show import ConsoleObserver, report_json, show_report
from glassgpt.evaluation.show_sweep import settings_toml
from glassgpt.evaluation.sweep import Sweep, count_with_validation, sweep


def evaluate(
    loaded: LoadedModel,
    dataset: TokenDataset,
    request: EvaluationRequest,
    *,
    as_json: bool = False,
    samples: int = 2,
    json_file: Path | None = None,
    picture: Path | None = None,
    force: bool = False,
) -> EvaluationReport:
    """Evaluate a model, print the report and write the files requested.

    Args:
        loaded: the model.
        dataset: tokenized for the model.
        request: what to evaluate.
        as_json: print one JSON object instead of tables.
        samples: number of prompts whose texts are printed.
        json_file: file to write the JSON object to.
        picture: file to plot the comparison into.
        force: overwrite existing files.

    Raises:
        UsageError: a file cannot be written.
        GlassGPTError: see `glassgpt.evaluation.evaluate.evaluate`.
    """
    require_sample_count(samples)
    if picture is not None:
        check_output_path("--picture", picture, PICTURES, force=force)
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    decoding_model = loaded.decoding_model if request.settings else None
    observer = ConsoleObserver()
    report = evaluation.evaluate(loaded.model, dataset, request, decoding_model=decoding_model, observer=observer)
    if as_json:
        console.output_json(report_json(report, dataset))
    else:
        show_report(report, dataset, samples)
    _write_files(report, dataset, json_file, picture)
    return report


def require_sample_count(samples: int) -> None:
    """Check the number of prompts whose texts are printed.

    Raises:
        UsageError: it is negative.
    """
    if samples < 0:
        raise UsageError(f"--samples must be 0 or more, not {samples}")


def _write_files(report: EvaluationReport, dataset: TokenDataset, json_file: Path | None, picture: Path | None) -> None:
    if json_file is not None:
        write_atomically(json_file, f"{json.dumps(report_json(report, dataset), ensure_ascii=False)}\n".encode())
        console.info(f"wrote {json_file}")
    if picture is not None and report.comparison is not None:
        has_all_glyphs = draw_comparison(report.comparison, dataset.tokenizer, picture)
        if not has_all_glyphs:
            console.warn(
                f"{picture}: the font lacks some characters, which are drawn as boxes; --json-file has the full texts"
            )
        console.info(f"wrote {picture}")


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
    """Find decoding settings for a purpose and write them to a file for `--settings`.

    Args:
        loaded: the model.
        dataset: tokenized for the model.
        purpose: name of a generation preset.
        prompts: how to select the prompts to search on; half as many again are selected to validate the winner on.
        budget: approximate number of texts that the search may generate.
        out: file to write.
        run: name of the model in the file.

    Raises:
        GlassGPTError: see `glassgpt.evaluation.sweep.sweep`.
    """
    observer = ConsoleObserver()
    prompts = prompts.resolve(loaded.model.config.context_length)
    selected = dataclasses.replace(prompts, count=count_with_validation(prompts.count))
    human = human_continuations(dataset, selected, observer)
    found = sweep(
        loaded.model,
        loaded.tokenizer,
        human,
        purpose,
        prompts,
        budget,
        decoding_model=loaded.decoding_model,
        observer=observer,
    )
    write_atomically(out, settings_toml(found, run).encode())
    return found
