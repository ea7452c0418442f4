"""Evaluate models that chat, and compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.api.figures import report_figures
from glassgpt.api.load_run import load
from glassgpt.api.serving import chat_template, default_slots
from glassgpt.data.chat.jinja_template import JinjaTemplate, Template, marked_template
from glassgpt.data.chat.render import render
from glassgpt.data.files import check_output_path
from glassgpt.errors import UsageError
from glassgpt.evaluation.chat.evaluate import ChatModel, ChatReport, evaluate_chat
from glassgpt.evaluation.chat.replies import ReplyLimits
from glassgpt.evaluation.chat.show import chat_json, show_chat_reports
from glassgpt.evaluation.chat.tasks import NEW_TOKENS, ChatTasks
from glassgpt.evaluation.show import ConsoleObserver
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.precision import Precision
from glassgpt.training.checkpoint import find_checkpoint
from glassgpt.training.run_folder import RunFolder

OWN_ARGUMENTS = {"max_tokens": "--new-tokens", "seed": "--seed"}
"""Settings of replies that have an option of their own."""


@dataclass(frozen=True)
class ChatEvaluation:
    """A request for an evaluation of runs that chat.

    Attributes:
        tasks: what to evaluate on.
        decoding: generation settings by name; empty is greedy.
        new_tokens: longest reply.
        seed: of sampling, if the settings sample.
        slots: replies generated at once; 0 chooses by the device.
        checkpoint: see `load`, as are `device` and `precision`.
    """

    tasks: ChatTasks
    decoding: Mapping[str, Any]
    new_tokens: int = NEW_TOKENS
    seed: int = 0
    slots: int = 0
    checkpoint: str = "best"
    device: str = "auto"
    precision: Precision = "auto"

    def options(self) -> GenerationOptions:
        """Return the options of each reply but the stop strings of its template.

        Raises:
            GenerationError: a value is out of range.
            UsageError: the settings name what has an argument of its own, or several replies.
        """
        if names := [name for name in OWN_ARGUMENTS if name in self.decoding]:
            raise UsageError(f"--decoding sets {names[0]}; use {OWN_ARGUMENTS[names[0]]} instead")
        if "num_samples" in self.decoding:
            raise UsageError("--decoding sets num_samples, but each prompt gets one reply; leave it out")
        given = {
            "temperature": 0.0,
            **self.decoding,
            "max_tokens": self.new_tokens,
            "num_samples": 1,
            "seed": self.seed,
        }
        options = options_from_kwargs(given)
        options.check()
        return options


def evaluate_chats(
    runs: Sequence[Path],
    request: ChatEvaluation,
    *,
    title: str = "",
    as_json: bool = False,
    samples: int = 2,
    json_file: Path | None = None,
    force: bool = False,
) -> dict[str, ChatReport]:
    """Evaluate runs on the same conversations, print their figures side by side, and return them by name.

    Args:
        runs: their folders.
        request: what to evaluate, and how.
        title: of the table.
        as_json: print one JSON object instead of a table.
        samples: number of prompts of each task whose replies are printed.
        json_file: file to write the JSON object to.
        force: overwrite an existing file.

    Raises:
        UsageError: there is no task, or the file cannot be written.
        GlassGPTError: see `load` and `glassgpt.evaluation.chat.evaluate.evaluate_chat`.
    """
    request.tasks.require_any()
    request.options()
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    for run in runs:  # all of them, before the first is evaluated, which can take hours
        _templates(run, request)
        find_checkpoint(RunFolder(run).require(), request.checkpoint)  # verifies it
    names = [run.absolute().name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    reports: dict[str, ChatReport] = {}
    for name, run in zip(names, runs, strict=True):
        console.info(f"evaluating {run}")
        reports[name] = evaluate_run(run, request)
    settings = {
        "new_tokens": request.new_tokens,
        "seed": request.seed,
        "shots": len(request.tasks.shots),
        "decoding": dict(request.decoding),
        "checkpoint": request.checkpoint,
        "device": request.device,
        "precision": request.precision,
    }
    result = chat_json(reports, settings)
    report_figures(result, lambda: show_chat_reports(reports, title, samples), as_json=as_json, json_file=json_file)
    return reports


def evaluate_run(run: Path, request: ChatEvaluation) -> ChatReport:
    """Evaluate one run; see `evaluate_chats`.

    Raises:
        UsageError: the loss is asked for, and the run's template cannot say what the assistant wrote.
        GlassGPTError: see `load` and `glassgpt.evaluation.chat.evaluate.evaluate_chat`.
    """
    template, marked = _templates(run, request)
    slots = request.slots or default_slots(request.device)
    loaded = load(
        run, checkpoint=request.checkpoint, device=request.device, precision=request.precision, batch_size=slots
    )
    tokenizer = loaded.tokenizer
    chat = ChatModel(
        loaded.model,
        loaded.decoding_model,
        tokenizer,
        lambda messages: template.encode(tokenizer, messages),
        [] if marked is None else [render(tokenizer, marked, each) for each in request.tasks.conversations],
    )
    options = request.options()
    options = dataclasses.replace(options, stop=(*options.stop, *template.stop))
    return evaluate_chat(chat, request.tasks, ReplyLimits(options, slots), observer=ConsoleObserver())


def _templates(run: Path, request: ChatEvaluation) -> tuple[Template, JinjaTemplate | None]:
    """Return the template of a run's prompts, and that of its conversations if there are any; see `_marked_template`."""
    template = chat_template(run)
    return template, _marked_template(run, template) if request.tasks.conversations else None


def _marked_template(run: Path, template: Template) -> JinjaTemplate:
    """Return the template by which conversations are rendered for the loss: a model without one gets the plain one.

    Raises:
        UsageError: it is a table, which does not say where the assistant's text begins and ends.
    """
    if marked := marked_template(template):
        return marked
    raise UsageError(
        f"--conversations needs a chat template in Jinja, and {run} has {template.source}; write it as chat_template.jinja"
    )
