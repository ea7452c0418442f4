"""A chat model that answers with quotations from an index: the model `RUN+INDEX` of /v1/chat/completions.

The last message is the question. The answer has the quotations with the numbers of their sources, and the field `sources` with
the passages and where in them the quotations stand. Several such requests take turns, passage by passage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glassgpt.retrieval.answering import DEFAULT_PASSAGES, DEFAULT_THRESHOLD, Answer, answer_steps
from glassgpt.retrieval.model_requests import LogprobRequest, perform_one
from glassgpt.retrieval.quoting import QuotingModel
from glassgpt.retrieval.show_answers import sources_json
from glassgpt.serving import formatting
from glassgpt.serving.errors import APIError
from glassgpt.serving.http import DONE, event
from glassgpt.serving.identifiers import new_id
from glassgpt.serving.jobs import Inbox, Job, TaskDone

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Index
    from glassgpt.serving.served_model import ServedModel

NO_ANSWER = "The documents do not seem to answer this question."
UNSUPPORTED = ("logprobs", "explain", "response_format")
"""Fields that an answer from documents cannot have."""


def documents_model_name(run: str, index: str) -> str:
    """Return the name under which a served model answers from an index."""
    return f"{run}+{index}"


@dataclass(frozen=True)
class Documents:
    """An index that a served model answers from.

    Attributes:
        index: open for searching.
        passages: to read for each question.
        threshold: confidence below which there is no answer.
    """

    index: Index
    passages: int = DEFAULT_PASSAGES
    threshold: float = DEFAULT_THRESHOLD


class AnswerTask:
    """The answer to a question, as a task for the engine's thread; see `ModelTask`."""

    def __init__(self, reader: QuotingModel, documents: Documents, question: str) -> None:
        hits = documents.index.search(question, documents.passages)
        self._reader = reader
        self._steps = answer_steps(reader, question, hits, threshold=documents.threshold)
        self._request: LogprobRequest | None = None  # to be performed next
        self.result: Answer | None = None

    def step(self) -> bool:
        """Let the model read the next passage; return True with the answer complete."""
        try:
            if self._request is None:
                self._request = next(self._steps)
            result = perform_one(self._reader.model, self._reader.tokenizer, self._request)
            self._request = self._steps.send(result)
        except StopIteration as end:
            self.result = end.value
            return True
        return False


async def answer_from_documents(
    model: ServedModel, documents: Documents, messages: Sequence[tuple[str, str]], values: Mapping[str, Any]
) -> dict[str, Any] | AsyncIterator[bytes]:
    """Return the completion of a conversation whose last message is a question to documents, or the events of its stream.

    Raises:
        APIError: a field is given that such an answer cannot have, or the last message is no question.
    """
    given = next((name for name in UNSUPPORTED if values.get(name)), None)
    if given is not None or (values["n"] or 1) != 1:
        name = given or "n"
        raise APIError(
            f"{name} is not supported by {model.name}, which answers with quotations from documents", param=name
        )
    role, question = messages[-1]
    if role != "user" or not question.strip():
        raise APIError("the last message must be a question of the user", param="messages")
    answer = await _answered(model, documents, question)
    head = {
        "id": new_id("chatcmpl-"),
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.current.weights.fingerprint,
    }
    text = answer.text or NO_ANSWER
    tokenizer = model.current.weights.tokenizer
    usage = formatting.usage(len(tokenizer.encode(question)), len(tokenizer.encode(text)))
    found = {"sources": sources_json(answer), "confidence": round(answer.confidence, 4), "abstains": answer.abstains}
    if values["stream"]:
        includes_usage = (values["stream_options"] or {}).get("include_usage") is True
        return _stream(head, text, found, usage if includes_usage else None)
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage, **found}


async def _answered(model: ServedModel, documents: Documents, question: str) -> Answer:
    version, inbox = model.current, Inbox()
    reader = QuotingModel(version.weights.model, version.weights.tokenizer, model.template)
    task = await asyncio.to_thread(AnswerTask, reader, documents, question)  # it searches
    job = Job(inbox, task=task)
    results: list[Answer] = []
    async with model.run(version, [job], inbox) as arriving:
        async for arrived in arriving():
            results += [done.result for _, done in arrived if isinstance(done, TaskDone)]
    return results[0]


async def _stream(
    head: Mapping[str, Any], text: str, found: Mapping[str, Any], usage: Mapping[str, int] | None
) -> AsyncIterator[bytes]:
    """Yield the answer as one chunk, since it is complete before its sources are known, and the sources with its end."""
    plain = {**head, "object": "chat.completion.chunk"}
    chunk = plain if usage is None else {**plain, "usage": None}
    delta = {"role": "assistant", "content": text}
    yield event({**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]})
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    yield event({**chunk, "choices": [last], **found}) + (DONE if usage is None else b"")
    if usage is not None:
        yield event({**plain, "choices": [], "usage": usage}) + DONE
