"""`glassgpt replay`: generate recorded answers again, alone, and compare every bit."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from glassgpt.errors import GenerationError, UsageError
from glassgpt.generation.engine.logprobs import PromptScoring
from glassgpt.serving.engine_thread import exact_engine
from glassgpt.serving.jobs import Burst
from glassgpt.serving.recording import VERSION, options_from_json, sample_json, scores_json
from glassgpt.serving.served_model import Weights

WEIGHTS_AT_ONCE = 4
"""Models that are held in memory."""
SAMPLE_KEYS = {"index", "text", "tokens", "finish_reason", "logprobs"}
SHOWN_CHARACTERS = 40
BEGINNING = json.dumps({"version": VERSION}).removesuffix("}")
"""Beginning of every record."""


@dataclass(frozen=True)
class Replayed:
    """The comparison of one recorded answer.

    Attributes:
        line: its line in the file.
        request: id of the HTTP request.
        differences: what is not as recorded, in words; empty if every bit is the same.
        changes: what the bits depend on and is not as it was, in words.
    """

    line: int
    request: str
    differences: tuple[str, ...]
    changes: tuple[str, ...]


LoadWeights = Callable[[str, str, int, bool, str], Weights]
"""(run, checkpoint, slots, is_adapter, kernel) -> its weights: of an adapter, beside those of its base."""


def replay_records(lines: Iterable[str], load: LoadWeights) -> Iterator[Replayed]:
    """Yield the comparison of each record; those that were cut off are left out.

    Args:
        lines: of a file written by `Recorder`; bytes that are not UTF-8 as surrogates.
        load: returns the weights that answered, with the kernel that multiplied them.

    Raises:
        UsageError: a line is not a record.
        GlassGPTError: weights cannot be loaded.
    """
    load = functools.lru_cache(WEIGHTS_AT_ONCE)(load)  # requests of a base and its adapters alternate
    for number, line in enumerate(lines, start=1):
        if _is_cut(line):
            continue
        record = _parse(number, line)
        identity = record["identity"]
        slots, kernel = int(identity["slots"]), identity.get("kernel", "")
        weights = load(record["run"], record["checkpoint"], slots, _is_adapter(record), kernel)
        try:
            found = generate_again(record, weights)
            differences = tuple(_differences(record, found))
        except GenerationError as error:
            differences = (f"it cannot be generated: {error}",)
        changes = tuple(
            f"{name} was {before}, is {after}"
            for name, before in identity.items()
            if (after := weights.identity.get(name)) != before
        )
        yield Replayed(number, record["request"], differences, changes)


def check_records(lines: Iterable[str], run: Path | None) -> list[int]:
    """Check all records before the first of them is generated again.

    Args:
        lines: see `replay_records`.
        run: folder that stands for the one that each record names; None takes that one.

    Returns:
        The numbers of the lines that were cut off, as by a process that was killed while it wrote.

    Raises:
        UsageError: a line is not a record, or some are of an adapter and some are not, for which one run cannot stand.
    """
    first: dict[bool, int] = {}
    cut: list[int] = []
    for number, line in enumerate(lines, start=1):
        if _is_cut(line):
            cut.append(number)
            continue
        first.setdefault(_is_adapter(_parse(number, line)), number)
        if run is not None and len(first) == 2:
            raise UsageError(
                f"line {first[True]} was answered by an adapter and line {first[False]} by a model without one, but {run} can "
                "stand for one of them only; leave it out, or put the two kinds of lines into separate files"
            )
    return cut


def _is_cut(line: str) -> bool:
    """Return whether a line is the beginning of a record."""
    if not line.strip() or not (line.startswith(BEGINNING) or BEGINNING.startswith(line.rstrip("\n"))):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _is_adapter(record: Mapping[str, Any]) -> bool:
    return "adapter" in record["identity"]


def _parse(number: int, line: str) -> dict[str, Any]:
    try:
        line.encode()  # bytes that were not UTF-8 are refused
        record = json.loads(line)
        if record["version"] != VERSION:
            raise ValueError(f"its version is {record['version']}, expected {VERSION}")
        options_from_json(record["options"], record["seed"])
        _check_types(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"line {number} is not a record of glassgpt serve --record: {error}") from error
    return record


def _check_types(record: Mapping[str, Any]) -> None:
    """Check what a replay reads of a record, but its options.

    Raises:
        KeyError: a key is missing.
        ValueError: a value has another type.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        "request": str, "run": str, "checkpoint": str, "prompt": list, "identity": dict, "samples": list,
        "scored": (int, NoneType), "scores": (list, NoneType),
    }  # fmt: skip
    if record["samples"]:
        kinds |= {"logprobs": (int, NoneType), "ignore_eos": bool}
    for name, kind in kinds.items():
        if not isinstance(record[name], kind):
            raise ValueError(f"{name} is {str(record[name])[:SHOWN_CHARACTERS]}")
    identity, prompt = record["identity"], record["prompt"]
    if not all(isinstance(value, str) for value in identity.values()) or int(identity["slots"]) < 1:
        raise ValueError("identity is not one of text values, with slots of at least 1")
    if not prompt or not all(type(token) is int and token >= 0 for token in prompt):
        raise ValueError("prompt is not a list of tokens")
    for sample in record["samples"]:
        if not sample.keys() >= SAMPLE_KEYS or not isinstance(sample["tokens"], list):
            raise ValueError(f"a sample has not the keys {', '.join(sorted(SAMPLE_KEYS))}")


def generate_again(record: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """Return the fields `scores` and `samples` of a record, generated again.

    Raises:
        GenerationError: the prompt or an option is not valid for these weights.
    """
    model, tokenizer, prompt = weights.model, weights.tokenizer, record["prompt"]
    scores = None
    if record["scored"] is not None:
        scoring = PromptScoring(model, prompt, tokenizer.vocab_size, record["scored"])
        while not scoring.step():
            pass
        scores = scores_json(scoring.result)
    options = options_from_json(record["options"], record["seed"])
    samples: dict[int, Burst] = {}
    if record["samples"]:
        engine = exact_engine(model, tokenizer, slots=int(record["identity"]["slots"]))
        engine.add(engine.prepare(prompt, options, logprobs=record["logprobs"], ignore_end=record["ignore_eos"]))
        while not engine.is_idle:
            for chunk in engine.step():
                samples.setdefault(chunk.index, Burst(chunk.index)).add(chunk)
    return {"scores": scores, "samples": [sample_json(burst) for _, burst in sorted(samples.items())]}


def _differences(record: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    if record["scores"] != found["scores"]:
        yield "log-probabilities of the prompt"
    if len(record["samples"]) != len(found["samples"]):
        yield f"{len(found['samples'])} samples instead of {len(record['samples'])}"
    for before, after in zip(record["samples"], found["samples"], strict=False):
        where = f"sample {before['index']}"
        if before["tokens"] != after["tokens"]:
            pairs = zip(before["tokens"], after["tokens"], strict=False)
            at = next(
                (at for at, (a, b) in enumerate(pairs) if a != b), min(len(before["tokens"]), len(after["tokens"]))
            )
            yield f"{where}: tokens from the {at + 1}th on"
        elif before["text"] != after["text"] or before["finish_reason"] != after["finish_reason"]:
            yield f"{where}: text or finish reason"
        elif before["logprobs"] != after["logprobs"]:
            yield f"{where}: log-probabilities"
