"""The tasks of a chat evaluation: prompts of IFEval, problems of GSM8K and held-out conversations. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from glassgpt.data.chat.formats import detect_format, read_conversations
from glassgpt.data.chat.messages import Conversation
from glassgpt.errors import UsageError
from glassgpt.evaluation.chat.gsm8k import Problem, load_gsm8k
from glassgpt.evaluation.chat.ifeval import InstructedPrompt, load_ifeval

T = TypeVar("T")
NEW_TOKENS = 512
"""Longest reply by default."""


@dataclass(frozen=True)
class ChatTasks:
    """Tasks to evaluate on; an empty task is left out.

    Attributes:
        ifeval: prompts with instructions.
        gsm8k: word problems.
        shots: problems with their solutions, that precede each problem as a conversation.
        conversations: held-out conversations.
    """

    ifeval: Sequence[InstructedPrompt] = ()
    gsm8k: Sequence[Problem] = ()
    shots: Sequence[Problem] = ()
    conversations: Sequence[Conversation] = ()

    def require_any(self) -> None:
        """Check that there is a task.

        Raises:
            UsageError: there is none.
        """
        if not (self.ifeval or self.gsm8k or self.conversations):
            raise UsageError(
                "--chat needs something to evaluate on: --ifeval FILE, --gsm8k FILE or --conversations FILE"
            )


def read_tasks(
    ifeval: Path | None = None,
    gsm8k: Path | None = None,
    conversations: Path | None = None,
    *,
    limit: int = 0,
    shots: int = 0,
) -> ChatTasks:
    """Return the tasks in files of one JSON object per line.

    Args:
        ifeval: prompts of IFEval; None leaves the task out, as with the others.
        gsm8k: problems of GSM8K.
        conversations: conversations in any format that `finetune --format chat` reads.
        limit: rows of each task; 0 means all.
        shots: problems at the start of `gsm8k` that serve as examples.

    Raises:
        DataError: a row is not of the expected form; names the line.
        UsageError: no problem remains beside the examples.
    """
    problems = load_gsm8k(gsm8k) if gsm8k is not None else []
    if gsm8k is not None and shots >= len(problems):
        raise UsageError(f"--shots is {shots}, but {gsm8k} has {len(problems)} problems; at least one must remain")
    return ChatTasks(
        _first(load_ifeval(ifeval) if ifeval is not None else [], limit),
        _first(problems[shots:], limit),
        problems[:shots],
        _first(_conversations(conversations) if conversations is not None else [], limit),
    )


def _first(rows: list[T], limit: int) -> list[T]:
    return rows[:limit] if limit else rows


def _conversations(path: Path) -> list[Conversation]:
    return list(read_conversations(path, detect_format(path)))
