"""Evaluate the answers of a model to pictures and sounds whose text is known: exact ones, and the best of all texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glassgpt.data.decompress import DAMAGED, opened
from glassgpt.data.json_rows import decode_line, lines, parse_row, too_long, without_nulls
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError, GenerationError, WrongDataError
from glassgpt.evaluation.edit_distance import error_rate
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.sources import KEYS, MediaSource, SourceDocument, parse_document

MOST_VALUES = 20
"""Values of a key by which the result is divided; a key with more of them, such as a name, divides nothing."""
NAMES_AT_ONCE = 128
"""Texts that are ranked in one pass."""


@dataclass(frozen=True)
class Question:
    """Media whose text is known.

    Attributes:
        media: pictures and sounds, in order; they precede the prompt.
        prompt: text between them and the answer.
        answer: the text that is right.
        labels: other keys of the row, such as the language, by which the result is divided.
        origin: file and line, for messages.
    """

    media: tuple[MediaSource, ...]
    prompt: str
    answer: str
    labels: Mapping[str, str]
    origin: str


class Named(NamedTuple):
    """A text and its log-probability in nats, its end included."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Answer:
    """The answer of a model to a question.

    Attributes:
        question: that was asked.
        said: the greedy continuation.
        best: the most probable of all texts that are right for a question with this prompt; empty if they were not ranked.
    """

    question: Question
    said: str
    best: tuple[Named, ...] = ()

    @property
    def is_exact(self) -> bool:
        """True if it said the text, apart from blanks around it."""
        return self.said.strip() == self.question.answer.strip()

    @property
    def is_among_best(self) -> bool:
        """True if the text is among the most probable ones."""
        return any(each.text.strip() == self.question.answer.strip() for each in self.best)


@dataclass(frozen=True)
class NamingReport:
    """The answers of a model to all questions.

    Attributes:
        answers: in the order of the rows.
        top: number of the most probable texts that were looked for; 0 if none were.
    """

    answers: tuple[Answer, ...]
    top: int = 0
    shares: Mapping[str, float] = field(init=False)
    by_label: Mapping[str, Mapping[str, Mapping[str, float]]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", self._shares(self.answers))
        object.__setattr__(self, "by_label", self._by_label())

    def _shares(self, answers: Sequence[Answer]) -> dict[str, float]:
        count = max(1, len(answers))
        found = {
            "rows": float(len(answers)),
            "exact": sum(each.is_exact for each in answers) / count,
            "character_errors": error_rate((each.said.strip(), each.question.answer.strip()) for each in answers),
        }
        if self.top:
            found[f"top_{self.top}"] = sum(each.is_among_best for each in answers) / count
        return found

    def _by_label(self) -> dict[str, dict[str, dict[str, float]]]:
        keys = dict.fromkeys(key for each in self.answers for key in each.question.labels)
        divided: dict[str, dict[str, dict[str, float]]] = {}
        for key in keys:
            values = Counter(each.question.labels.get(key, "") for each in self.answers)
            if 1 < len(values) <= MOST_VALUES:
                divided[key] = {
                    value: self._shares([each for each in self.answers if each.question.labels.get(key, "") == value])
                    for value in sorted(values)
                }
        return divided


def read_questions(path: Path, limit: int = 0) -> list[Question]:
    """Return the rows of a file, as `prepare --format multimodal` takes them: media, perhaps a prompt, and a text.

    Args:
        path: the file; it may be compressed.
        limit: rows to read; 0 reads all.

    Raises:
        WrongDataError: it cannot be read.
        DataError: a row is not of this form, or there are none.
    """
    found: list[Question] = []
    try:
        with ExitStack() as stack:
            stream, _ = opened(path, stack, str(path))
            for number, line in enumerate(lines(stream), start=1):
                origin = f"{path}, line {number}"
                if line is None:
                    raise DataError(f"{origin}: {too_long()}")
                if line.strip():
                    found.append(
                        _question(parse_row(decode_line(line, origin, first=number == 1), origin), path, origin)
                    )
                if limit and len(found) == limit:
                    break
    except DAMAGED as error:
        raise DataError(f"{path} is truncated or not what its name says: {error}") from error
    except OSError as error:
        raise WrongDataError(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise DataError(f"{path} has no rows; give a file with one JSON object per line")
    return found


def _question(row: Mapping[str, Any], path: Path, origin: str) -> Question:
    given = without_nulls(row)
    has_text = isinstance(given.get("text"), str) and bool(given["text"].strip())
    is_plain = not {"content", "messages"} & given.keys()
    document = None if is_plain and not has_text else parse_document(row, path.parent, origin)
    if document is None or not document.media or not has_text:
        raise DataError(f"{origin}: to be asked about, a row needs image or audio, and text")
    labels = {key: str(value) for key, value in given.items() if key not in KEYS}
    return Question(tuple(document.media), _prompt(document), row["text"], labels, origin)


def _prompt(document: SourceDocument) -> str:
    """Return the text that is not learned."""
    parts = [part for turn in document.turns if not turn.learned for part in turn.parts]
    return "".join(part for part in parts if isinstance(part, str))


def answers_by_prompt(questions: Sequence[Question]) -> dict[str, list[str]]:
    """Return the different answers to the questions with each prompt, in order: the texts to rank."""
    found: dict[str, dict[str, None]] = {}
    for question in questions:
        found.setdefault(question.prompt, {}).setdefault(question.answer)
    return {prompt: list(answers) for prompt, answers in found.items()}


class NameRanker:
    """Finds the most probable of many texts after a prompt, without computing all of them.

    A text is at most as probable as its first token. So the texts are scored by falling probability of their first tokens,
    until none of the rest can be better than those that were found.

    Args:
        model: prepared for generation, in evaluation mode.
        tokenizer: the model's.
        names: the texts, without duplicates.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, names: Sequence[str]) -> None:
        self._model, self._vocab_size, self.names = model, tokenizer.vocab_size, list(names)
        ids = [[*tokenizer.encode(name), tokenizer.end_of_text] for name in names]
        device = next(model.parameters()).device
        longest = max(map(len, ids))
        self._lengths = torch.tensor([len(each) for each in ids], device=device)
        self._ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in ids], device=device)  # (N, L)

    @torch.inference_mode()
    def best(self, prompt: Sequence[int], count: int) -> list[Named]:
        """Return the most probable texts after a prompt, the best first.

        Args:
            prompt: ids, at least one.
            count: number of texts to return, at least 1.

        Raises:
            GenerationError: a text does not fit into the context behind the prompt.
        """
        longest, left = self._ids.size(1) - 1, self._model.config.context_length - len(prompt)
        if longest > left:
            raise GenerationError(
                f"the longest text has {longest:,} tokens, and behind its prompt there are {left:,} positions left in the context; "
                "leave it out"
            )
        cache = self._model.new_cache(1, len(prompt))
        ids = torch.tensor([list(prompt)], device=self._ids.device)
        first = self._logprobs(self._model.features(ids, cache)[:, -1])[0]  # (V,)
        bounds, order = first[self._ids[:, 0]].sort(descending=True)
        found: list[tuple[float, int]] = []
        for part, bound in zip(order.split(NAMES_AT_ONCE), bounds[::NAMES_AT_ONCE].tolist(), strict=True):
            if len(found) == count and bound <= found[-1][0]:
                break
            totals = self._totals(part, cache, len(prompt), first)
            found = sorted([*found, *zip(totals.tolist(), part.tolist(), strict=True)], reverse=True)[:count]
        return [Named(self.names[at], total) for total, at in found]

    def _totals(self, chosen: Tensor, prompt: Any, length: int, first: Tensor) -> Tensor:
        """Return the log-probabilities of texts (N,), given the cache of the prompt and what may follow it."""
        ids, count = self._ids[chosen], len(chosen)
        ids = ids[:, : int(self._lengths[chosen].max())]
        cache = self._model.new_cache(count, length + ids.size(1) - 1)
        cache.copy_slots(range(count), prompt, [0] * count, [length] * count)
        logprobs = self._logprobs(self._model.features(ids[:, :-1], cache))  # (N, L - 1, V)
        nats = logprobs.gather(2, ids[:, 1:, None])[..., 0]
        is_text = torch.arange(1, ids.size(1), device=ids.device) < self._lengths[chosen, None]
        return first[ids[:, 0]] + nats.where(is_text, 0).sum(dim=1)

    def _logprobs(self, features: Tensor) -> Tensor:
        return self._model.head(features)[..., : self._vocab_size].float().log_softmax(dim=-1)


def report_json(report: NamingReport) -> dict[str, Any]:
    """Return the figures and every answer as JSON values."""
    return {
        **report.shares,
        "by": report.by_label,
        "answers": [
            {
                "row": each.question.origin,
                "expected": each.question.answer.strip(),
                "said": each.said.strip(),
                **({"best": [[name.text.strip(), round(name.logprob, 3)] for name in each.best]} if each.best else {}),
            }
            for each in report.answers
        ],
    }


def batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    """Yield the questions, `size` at a time."""
    for first in range(0, len(questions), size):
        yield questions[first : first + size]
