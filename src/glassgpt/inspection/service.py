"""Who answers a page's questions: the runs that are looked into, and the traces that were asked for last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InspectionError
from glassgpt.generation.engine.sampling import gumbel_sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.checkpoint_traces import keep, model_after, steps_of
from glassgpt.inspection.details import detail, places, shortened, sources
from glassgpt.inspection.interventions import from_json, is_number, to_json
from glassgpt.inspection.serialization import array, overview, token_json
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.run_folder import RunFolder

SLIDERS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
}
"""The options that a page may set."""
TRACES_KEPT = 4
"""What is looked at, the same undisturbed, another run's, and one more. At GPT-2's size a run of 1,024 tokens takes
0.6 GB."""
MODELS_KEPT = 3
"""Of earlier checkpoints."""
QUESTION: dict[str, Any] = {"run": 0, "step": None, "text": None, "written": [], "interventions": []}
"""What a question holds, and what it is where it is left out."""


class ExpiredTraceError(InspectionError):
    """A trace is asked for that is kept no more; the page asks its question again."""


@dataclass(frozen=True)
class LoadedRun:
    """A run that is looked into.

    Attributes:
        name: by which a person knows it.
        model: as it was loaded.
        tokenizer: the model's.
        folder: where its earlier checkpoints lie, if there are any.
    """

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    folder: RunFolder | None = None

    def steps(self) -> list[int]:
        """Of training, for which there are checkpoints."""
        return [] if self.folder is None else steps_of(self.folder)


class InspectionService:
    """Answers a page's questions, one at a time.

    Args:
        subjects: the run, and perhaps another to compare it with.
        text: to begin with.
        options: to begin with.
    """

    def __init__(self, subjects: Sequence[LoadedRun], text: str | None, options: GenerationOptions) -> None:
        self._lock = threading.Lock()
        self._subjects, self._text, self._options = subjects, text, options
        self._traces: dict[str, Trace] = {}
        self._models: dict[tuple[int, int], LanguageModel] = {}

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The `overview` of a trace, its `id`, and what else there is to look at.

        Args:
            question: `text`, `written` (ids of tokens after it), `interventions` (see `to_json`), `run` (0, or 1 for
                the one that it is compared with) and `step` (of training; None is the checkpoint that was loaded). All
                may be left out.

        Raises:
            InspectionError: the question is not understood or cannot be answered.
            GlassGPTError: see `trace` and `model_after`.
        """
        asked = _understood(question, len(self._subjects))
        asked["text"] = asked["text"] if asked["text"] is not None else self._text
        with self._lock:
            found = self._trace_of(asked)
            subject = self._subjects[asked["run"]]
            names = [each.name for each in self._subjects]
            told = page_overview(found, self._options, names, subject.steps())
            return {"id": _id_of(asked), "overview": told}

    def array(self, key: str, name: str, *index: int) -> tuple[bytes, tuple[int, ...]]:
        """A tensor of a trace that was asked for, or a part of it; see `wire.array`.

        Raises:
            ExpiredTraceError: the trace is kept no more.
            InspectionError: there is no such tensor, or it is too large.
        """
        with self._lock:
            return array(self._kept(key), name, *index)

    def detail(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """A detail of a trace that was asked for; see the module `details`.

        Args:
            question: `id`, `what`, `arguments` and `options` (those of `SLIDERS`). Of `what` there are besides
                `sample`, which draws a `token` with a `seed`, and `sources`, our lines that compute the figures.

        Raises:
            ExpiredTraceError: the trace is kept no more.
            InspectionError: the question is not understood.
            GenerationError: the options cannot work.
        """
        what, arguments = question.get("what"), question.get("arguments", {})
        if not isinstance(what, str) or not isinstance(arguments, dict):
            raise InspectionError("a detail has a what, and arguments by name")
        options = self._options_from(question.get("options", {}))
        with self._lock:
            found = self._kept(question.get("id")).with_options(options)
            own: dict[str, Callable[[Trace, Any], dict[str, Any]]] = {"sample": _drawn, "sources": _sources}
            return own[what](found, arguments) if what in own else detail(found, what, arguments)

    def _kept(self, key: Any) -> Trace:
        if not isinstance(key, str) or key not in self._traces:
            raise ExpiredTraceError("this view is too old; follow the text once more")
        return self._traces[key]

    def _trace_of(self, asked: dict[str, Any]) -> Trace:
        key = _id_of(asked)
        found = self._traces.get(key) or self._made(asked)
        keep(self._traces, key, found, TRACES_KEPT)
        return found

    def _made(self, asked: dict[str, Any]) -> Trace:
        if asked["interventions"]:
            base = self._trace_of({**asked, "interventions": []})
            return base.intervene(*map(from_json, asked["interventions"]))
        subject = self._subjects[asked["run"]]
        model = subject.model if asked["step"] is None else self._model(asked["run"], asked["step"])
        return trace(model, subject.tokenizer, asked["text"], self._options, asked["written"])

    def _model(self, run: int, step: int) -> LanguageModel:
        subject = self._subjects[run]
        if subject.folder is None:
            raise InspectionError(f"{subject.name} has no checkpoints to go through")
        device = next(subject.model.parameters()).device
        found = self._models.get((run, step)) or model_after(subject.folder, subject.tokenizer, step).to(device)
        keep(self._models, (run, step), found, MODELS_KEPT)
        return found

    def _options_from(self, given: Any) -> GenerationOptions:
        if not isinstance(given, dict):
            raise InspectionError("options are a JSON object")
        wrong = [name for name, value in given.items() if name not in SLIDERS or not is_number(value)]
        if wrong:
            raise InspectionError(
                f"{shortened(wrong[0])} cannot be set here; allowed are numbers for {', '.join(SLIDERS)}"
            )
        values: dict[str, Any] = {name: SLIDERS[name](value) for name, value in given.items()}
        options = dataclasses.replace(self._options, **values)
        options.check()
        return options


def page_overview(
    found: Trace, options: GenerationOptions, runs: Sequence[str] = ("",), steps: Sequence[int] = ()
) -> dict[str, Any]:
    """The `overview`, and what else a page has to know from the beginning.

    Keys besides those of `overview`: `written`, how many of the tokens are not of the text; `options`, those of
    `SLIDERS` to begin with; `runs`, the names of what can be compared; `steps`, for which there are
    checkpoints; `places`, the lines of ours that compute the details.
    """
    sliders = {name: getattr(options, name) for name in SLIDERS}
    more = {"written": found.written, "options": sliders, "runs": [*runs], "steps": [*steps], "places": places()}
    return {**overview(found), **more}


def _understood(question: Mapping[str, Any], n_runs: int) -> dict[str, Any]:
    """A question with everything in it, spelled in one way, so that the same question has the same id."""
    wrong = sorted(set(question) - set(QUESTION))
    if wrong:
        raise InspectionError(f"a question has no {shortened(wrong[0])}; allowed are {', '.join(sorted(QUESTION))}")
    asked = {**QUESTION, **question}
    if not isinstance(asked["text"], str | None) or not _is_list_of(asked["interventions"], dict):
        raise InspectionError("a question has a text and a list of interventions")
    if not _is_list_of(asked["written"], int) or type(asked["step"]) not in (int, type(None)):
        raise InspectionError("what was written is a list of token ids, and a step is a number")
    if type(asked["run"]) is not int or not 0 <= asked["run"] < n_runs:
        raise InspectionError(f"there is no run {shortened(asked['run'])}; there are {n_runs}")
    return {**asked, "interventions": [to_json(from_json(each)) for each in asked["interventions"]]}


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(each) is kind for each in value)


def _id_of(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def _drawn(found: Trace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A token from the distribution behind all processors; without chance where the options are greedy."""
    seed = arguments.get("seed")
    if set(arguments) != {"seed"} or type(seed) is not int or not 0 <= seed < 2**32:
        raise InspectionError("sample takes a seed from 0 to 4294967295")
    chances = found[found.stages()[-1]].cpu()
    token = int(chances.argmax()) if found.options.is_greedy else _draw(chances, seed, len(found))
    return {"token": {**token_json(found.tokenizer, token), "probability": float(chances[token])}, "seed": seed}


def _draw(chances: torch.Tensor, seed: int, position: int) -> int:
    return int(gumbel_sample(chances.log()[None], seed, [0], [position])[0])


def _sources(found: Trace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments:
        raise InspectionError("sources takes no arguments")
    return sources(found)
