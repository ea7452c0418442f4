"""`--record`: answers with what they depend on, as lines of JSON that `glassgpt replay` can reproduce."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.options import GenerationOptions
from glassgpt.schema import convert, settings_of
from glassgpt.serving.generation_call import GenerationCall, PromptResult
from glassgpt.serving.jobs import Burst

logger = logging.getLogger(__name__)
VERSION = 1


class Recorder:
    """Appends answers to a file, in a thread, so that nobody waits for the disk.

    Args:
        path: of the file, readable by its owner only.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(  # noqa: SIM115 - closed by `close`
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8"
        )
        if path.is_file() and _is_cut(path):
            self._file.write("\n")  # its process was killed while it wrote: the next record gets a line of its own
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="glassgpt-record")

    def write(self, request_id: str, endpoint: str, call: GenerationCall, results: Sequence[PromptResult]) -> None:
        """Append one line per prompt of an answer."""
        lines = [record_json(request_id, endpoint, call, result) for result in results]
        self._thread.submit(self._append, lines)

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
            self._file.flush()
        except OSError as error:
            logger.error("an answer could not be recorded: %s", error)

    def close(self) -> None:
        """Finish writing."""
        self._thread.shutdown()
        self._file.close()


def _is_cut(path: Path) -> bool:
    """Return whether the last line of a file has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def record_json(request_id: str, endpoint: str, call: GenerationCall, result: PromptResult) -> dict[str, Any]:
    """Return the record of one prompt."""
    plan, weights = result.plan, call.version.weights
    request = plan.request
    return {
        "version": VERSION,
        "time": time.time(),
        "request": request_id,
        "endpoint": endpoint,
        "model": call.model.name,
        "run": weights.run,
        "checkpoint": weights.checkpoint,
        "identity": dict(weights.identity),
        "prompt": [*plan.tokens],
        "options": options_json(call.options),
        "seed": None if request is None else request.seed,
        "logprobs": None if request is None else request.logprobs,
        "ignore_eos": request is not None and request.end_of_text == -1,
        "scored": plan.scored,
        "scores": None if result.scores is None else scores_json(result.scores),
        "samples": [sample_json(burst) for burst in result.samples],
    }


def scores_json(scores: Sequence[TokenLogprobs]) -> list[Any]:
    """Return log-probabilities as JSON: floats are written so that they read back as the same bits."""
    return [[each.token, each.logprob, [list(pair) for pair in each.top]] for each in scores]


def sample_json(burst: Burst) -> dict[str, Any]:
    """Return a complete sample as JSON."""
    return {
        "index": burst.index,
        "text": burst.text,
        "tokens": [*burst.tokens],
        "finish_reason": burst.finish_reason,
        "logprobs": scores_json(burst.logprobs),
    }


def options_json(options: GenerationOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults, as JSON; the seed is recorded apart."""
    values = {each.name: getattr(options, each.name) for each in settings_of(GenerationOptions) if each.name != "seed"}
    changed = {
        each.name: values[each.name]
        for each in settings_of(GenerationOptions)
        if each.name in values and values[each.name] != each.default and not each.details.python_only
    }
    if "logit_bias" in changed:
        changed["logit_bias"] = {f"#{token}": value for token, value in changed["logit_bias"].items()}
    return changed


def options_from_json(values: Mapping[str, Any], seed: int | None) -> GenerationOptions:
    """Return the options in a record.

    Raises:
        ValueError: a value has the wrong type.
        KeyError: an option is unknown.
    """
    known = {each.name: each for each in settings_of(GenerationOptions)}
    return replace(
        GenerationOptions(**{name: convert(value, known[name]) for name, value in values.items()}), seed=seed
    )


@dataclass(frozen=True)
class StreamRecord:
    """Collects the bursts of a stream, to record the complete answer.

    Attributes:
        call: the generation.
        samples: by prompt and sample.
        scores: by prompt.
    """

    call: GenerationCall
    samples: dict[tuple[int, int], Burst]
    scores: dict[int, list[TokenLogprobs]]

    def add(self, key: int, part: Burst | list[TokenLogprobs]) -> None:
        """Add a part of the answer."""
        if not isinstance(part, Burst):
            self.scores[key] = part
        elif (key, part.index) in self.samples:
            self.samples[key, part.index].extend(part)
        else:
            self.samples[key, part.index] = replace(part, tokens=[*part.tokens], logprobs=[*part.logprobs])

    def results(self) -> list[PromptResult]:
        """Return the complete answer."""
        return [
            PromptResult(
                plan,
                self.scores.get(key),
                [burst for (prompt, _), burst in sorted(self.samples.items()) if prompt == key],
            )
            for key, plan in enumerate(self.call.plans)
        ]
