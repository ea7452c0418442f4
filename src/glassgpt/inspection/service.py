"""Answers the page's requests: the runs being inspected, and the most recent traces of them."""

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
from glassgpt.inspection.analysis import telling_keys
from glassgpt.inspection.caching import LRUCache
from glassgpt.inspection.checkpoint_traces import checkpoint_steps, load_checkpoint_model
from glassgpt.inspection.details import abbreviate, detail, source_references, sources
from glassgpt.inspection.interventions import from_json, is_number, to_json
from glassgpt.inspection.media import MediaPrefix
from glassgpt.inspection.serialization import overview, tensor_bytes, token_json
from glassgpt.inspection.telling import TextCandidate
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.run_folder import RunFolder

ADJUSTABLE_OPTIONS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
}
"""Generation options that the page can set."""
CACHED_TRACES = 4
"""The current trace, the same without interventions, that of the other run, and one more. For GPT-2 with 1,024 tokens a
trace takes 0.6 GB."""
CACHED_MODELS = 3
"""Models of earlier checkpoints."""
REQUEST_DEFAULTS: dict[str, Any] = {"run": 0, "step": None, "text": None, "written": [], "interventions": []}
"""Fields of a trace request, with their defaults."""


class ExpiredTraceError(InspectionError):
    """A trace is requested that is no longer cached; the page requests it again."""


@dataclass(frozen=True)
class LoadedRun:
    """A run to inspect.

    Attributes:
        name: shown to the user.
        model: the loaded model.
        tokenizer: the model's.
        folder: of the run, for its earlier checkpoints; None if there are none.
        load: loads the model of a training step; None takes `load_checkpoint_model`.
    """

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    folder: RunFolder | None = None
    load: Callable[[int], LanguageModel] | None = None

    def steps(self) -> list[int]:
        """Return the training steps that have a checkpoint."""
        return [] if self.folder is None else checkpoint_steps(self.folder)

    def at_step(self, step: int) -> LanguageModel:
        """Return the model of a training step.

        Raises:
            InspectionError: there are no checkpoints.
            GlassGPTError: see `load_checkpoint_model`.
        """
        if self.load is not None:
            return self.load(step)
        if self.folder is None:
            raise InspectionError(f"{self.name} has no checkpoints")
        return load_checkpoint_model(self.folder, self.tokenizer, step)


class InspectionService:
    """Answers the page's requests, one at a time.

    Args:
        runs: the run to inspect, and optionally another to compare it with.
        text: initial text.
        options: initial generation options.
        candidates: texts of which the initial one was chosen, which the page offers; see `choose_text`.
        media: pictures and sounds before every text.
    """

    def __init__(
        self,
        runs: Sequence[LoadedRun],
        text: str | None,
        options: GenerationOptions,
        candidates: Sequence[TextCandidate] = (),
        media: MediaPrefix | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._runs, self._text, self._options = runs, text, options
        self._candidates, self._media = [vars(each) for each in candidates], media
        self._traces: LRUCache[str, Trace] = LRUCache(CACHED_TRACES)
        self._models: LRUCache[tuple[int, int], LanguageModel] = LRUCache(CACHED_MODELS)

    def trace(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Trace a text, and return the `overview` of the trace and its `id`.

        Args:
            request: `text`, `written` (ids of generated tokens after it), `interventions` (see `to_json`), `run` (0, or 1
                for the one to compare with) and `step` (a training step; None means the loaded checkpoint). All are optional.

        Raises:
            InspectionError: the request is invalid.
            GlassGPTError: see `trace` and `load_checkpoint_model`.
        """
        complete = _validate_request(request, len(self._runs))
        complete["text"] = complete["text"] if complete["text"] is not None else self._text
        with self._lock:
            found = self._get_trace(complete)
            run = self._runs[complete["run"]]
            names = [each.name for each in self._runs]
            shown = page_overview(found, self._options, names, run.steps())
            return {"id": _request_id(complete), "overview": {**shown, "candidates": self._candidates}}

    def tensor_bytes(self, trace_id: str, name: str, *index: int) -> tuple[bytes, tuple[int, ...]]:
        """Return a tensor of a cached trace, or a slice of it; see `serialization.tensor_bytes`.

        Raises:
            ExpiredTraceError: the trace is no longer cached.
            InspectionError: there is no such tensor, or it is too large.
        """
        with self._lock:
            return tensor_bytes(self._cached_trace(trace_id), name, *index)

    def detail(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a detail of a cached trace; see the module `details`.

        Args:
            request: `id`, `what`, `arguments` and `options` (those in `ADJUSTABLE_OPTIONS`). In addition to the details of
                that module, `what` can be `sample`, which samples a `token` with a `seed`, or `sources`, the source code
                that computes the values.

        Raises:
            ExpiredTraceError: the trace is no longer cached.
            InspectionError: the request is invalid.
            GenerationError: the options are invalid.
        """
        what, arguments = request.get("what"), request.get("arguments", {})
        if not isinstance(what, str) or not isinstance(arguments, dict):
            raise InspectionError("a detail request needs a what (text) and arguments (an object)")
        options = self._options_from(request.get("options", {}))
        with self._lock:
            found = self._cached_trace(request.get("id")).with_options(options)
            additional: dict[str, Callable[[Trace, Any], dict[str, Any]]] = {"sample": _sample, "sources": _sources}
            return additional[what](found, arguments) if what in additional else detail(found, what, arguments)

    def _cached_trace(self, trace_id: Any) -> Trace:
        found = self._traces.peek(trace_id) if isinstance(trace_id, str) else None
        if found is None:
            raise ExpiredTraceError("this trace is no longer in memory; request it again")
        return found

    def _get_trace(self, request: dict[str, Any]) -> Trace:
        return self._traces.get(_request_id(request), lambda: self._compute_trace(request))

    def _compute_trace(self, request: dict[str, Any]) -> Trace:
        if request["interventions"]:
            base = self._get_trace({**request, "interventions": []})
            return base.intervene(*map(from_json, request["interventions"]))
        run = self._runs[request["run"]]
        model = run.model if request["step"] is None else self._checkpoint_model(request["run"], request["step"])
        return trace(model, run.tokenizer, request["text"], self._options, request["written"], self._media)

    def _checkpoint_model(self, index: int, step: int) -> LanguageModel:
        run = self._runs[index]
        device = next(run.model.parameters()).device
        return self._models.get((index, step), lambda: run.at_step(step).to(device))

    def _options_from(self, given: Any) -> GenerationOptions:
        if not isinstance(given, dict):
            raise InspectionError("options must be a JSON object")
        wrong = [name for name, value in given.items() if name not in ADJUSTABLE_OPTIONS or not is_number(value)]
        if wrong:
            raise InspectionError(
                f"{abbreviate(wrong[0])} cannot be set here; options are numbers for {', '.join(ADJUSTABLE_OPTIONS)}"
            )
        values: dict[str, Any] = {name: ADJUSTABLE_OPTIONS[name](value) for name, value in given.items()}
        options = dataclasses.replace(self._options, **values)
        options.check()
        return options


def page_overview(
    found: Trace, options: GenerationOptions, runs: Sequence[str] = ("",), steps: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the `overview` and everything else that the page needs at the start.

    Additional keys: `written`, the number of generated tokens; `options`, the initial values of `ADJUSTABLE_OPTIONS`;
    `runs`, the names of the runs; `steps` that have a checkpoint; `places`, the source locations of the details; `telling`,
    the head with the most telling attention from the last token, `keys` of all heads: see `telling_keys`.
    """
    more = {
        "written": found.n_generated,
        "options": {name: getattr(options, name) for name in ADJUSTABLE_OPTIONS},
        "runs": [*runs],
        "steps": [*steps],
        "places": source_references(),
        "telling": _telling(found),
    }
    return {**overview(found), **more}


def _telling(found: Trace) -> dict[str, Any]:
    keys, weights = telling_keys(found)
    layer, head = divmod(int(weights.argmax()), weights.size(1))
    return {"layer": layer, "head": head, "keys": keys.tolist()}


def _validate_request(request: Mapping[str, Any], n_runs: int) -> dict[str, Any]:
    """Return a request with defaults filled in, in a canonical form, so that equal requests have equal ids."""
    unknown = sorted(set(request) - set(REQUEST_DEFAULTS))
    if unknown:
        fields = ", ".join(sorted(REQUEST_DEFAULTS))
        raise InspectionError(f"unknown field {abbreviate(unknown[0])} in the request; its fields are {fields}")
    complete = {**REQUEST_DEFAULTS, **request}
    if not isinstance(complete["text"], str | None) or not _is_list_of(complete["interventions"], dict):
        raise InspectionError("text must be a string, and interventions a list of objects")
    if not _is_list_of(complete["written"], int) or type(complete["step"]) not in (int, type(None)):
        raise InspectionError("written must be a list of token ids, and step an integer")
    if type(complete["run"]) is not int or not 0 <= complete["run"] < n_runs:
        raise InspectionError(f"run must be from 0 to {n_runs - 1}, not {abbreviate(complete['run'])}")
    return {**complete, "interventions": [to_json(from_json(each)) for each in complete["interventions"]]}


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(each) is kind for each in value)


def _request_id(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:24]


def _sample(found: Trace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Sample a token from the distribution after all logits processors; take the most probable one if greedy."""
    seed = arguments.get("seed")
    if set(arguments) != {"seed"} or type(seed) is not int or not 0 <= seed < 2**32:
        raise InspectionError("sample takes a seed, an integer from 0 to 4294967295")
    probabilities = found[found.stages()[-1]].cpu()
    is_greedy = found.options.is_greedy
    token = int(probabilities.argmax()) if is_greedy else _sample_token(probabilities, seed, len(found))
    return {"token": {**token_json(found.tokenizer, token), "probability": float(probabilities[token])}, "seed": seed}


def _sample_token(probabilities: torch.Tensor, seed: int, position: int) -> int:
    return int(gumbel_sample(probabilities.log()[None], seed, [0], [position])[0])


def _sources(found: Trace, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments:
        raise InspectionError("sources takes no arguments")
    return sources(found)
