"""Run every evaluation of `glassgpt evaluate --chat` on one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glassgpt.data.chat.render import Rendered
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.chat.assistant_loss import assistant_loss
from glassgpt.evaluation.chat.gsm8k import examples, is_correct
from glassgpt.evaluation.chat.replies import Messages, Reply, ReplyLimits, generate_replies
from glassgpt.evaluation.chat.tasks import ChatTasks
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss


@dataclass(frozen=True)
class ChatModel:
    """A model that chats.

    Attributes:
        model: in evaluation mode; computes the loss.
        decoding_model: the same, prepared for generation.
        tokenizer: the model's.
        encode: messages to the ids of the prompt, by the model's chat template.
        conversations: the held-out conversations, rendered by the same template.
    """

    model: LanguageModel
    decoding_model: LanguageModel
    tokenizer: Tokenizer
    encode: Callable[[Messages], list[int]]
    conversations: Sequence[Rendered] = ()


@dataclass(frozen=True)
class Share:
    """A part of a whole.

    Attributes:
        count: of what has the property.
        total: of all.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.count / self.total


@dataclass(frozen=True)
class ScoredReply:
    """A reply with its scores.

    Attributes:
        task: `ifeval` or `gsm8k`.
        prompt: the user's message.
        reply: the reply; None if the prompt left no space for one in the context, which counts as a failure.
        strict: for each instruction or the answer, whether it is right.
        loose: the same, loosely; see `ifeval.py`.
    """

    task: str
    prompt: str
    reply: Reply | None
    strict: list[bool]
    loose: list[bool]


@dataclass(frozen=True)
class ChatReport:
    """The results of one model.

    Attributes:
        replies: in the order of the tasks and their prompts.
        loss: of the assistant's tokens, if conversations were given.
    """

    replies: list[ScoredReply] = field(default_factory=list[ScoredReply])
    loss: ValidationLoss | None = None

    def of(self, task: str) -> list[ScoredReply]:
        """Return the replies of a task."""
        return [each for each in self.replies if each.task == task]

    def shares(self) -> dict[str, Share]:
        """Return each measured share by its name, in the order in which they are shown."""
        found: dict[str, Share] = {}
        if ifeval := self.of("ifeval"):
            for level in ("strict", "loose"):
                lists = [each.strict if level == "strict" else each.loose for each in ifeval]
                found[f"ifeval_prompt_{level}"] = Share(sum(map(all, lists)), len(lists))
                found[f"ifeval_instruction_{level}"] = Share(sum(map(sum, lists)), sum(map(len, lists)))
        if gsm8k := self.of("gsm8k"):
            found["gsm8k"] = Share(sum(all(each.strict) for each in gsm8k), len(gsm8k))
        if answered := [each.reply for each in self.replies if each.reply is not None]:
            found["stopped"] = Share(sum(reply.stopped for reply in answered), len(answered))
            found["loops"] = Share(sum(reply.loops for reply in answered), len(answered))
        return found

    @property
    def mean_tokens(self) -> float | None:
        """Mean length of the replies; None if there are none."""
        lengths = [each.reply.tokens for each in self.replies if each.reply is not None]
        return sum(lengths) / len(lengths) if lengths else None

    @property
    def unanswered(self) -> int:
        """Number of prompts that do not fit the context."""
        return sum(each.reply is None for each in self.replies)


def evaluate_chat(
    chat: ChatModel, tasks: ChatTasks, limits: ReplyLimits, *, observer: EvaluationObserver = SILENT
) -> ChatReport:
    """Evaluate a model.

    Args:
        chat: the model.
        tasks: what to evaluate on.
        limits: how replies are generated.
        observer: receives progress, and a warning about prompts that do not fit the context.

    Raises:
        UsageError: there is no task.
        GenerationError: the template refuses a conversation, or the options cannot be used with this model.
        DataError: the conversations have nothing to learn, or it cannot be said what.
    """
    tasks.require_any()
    head = examples(tasks.shots)
    asked: list[Messages] = [[("user", each.text)] for each in tasks.ifeval]
    asked += [[*head, ("user", each.question)] for each in tasks.gsm8k]
    prompts = [chat.encode(messages) for messages in asked]
    said = chat.conversations
    loss = assistant_loss(chat.model, chat.tokenizer, said, observer=observer) if said else None
    given = generate_replies(chat.decoding_model, chat.tokenizer, prompts, limits, observer=observer) if prompts else []
    report = ChatReport(_scored(tasks, given), loss)
    if report.unanswered:
        observer.warning(
            f"{report.unanswered} of {len(prompts)} prompts are longer than the model's context of "
            f"{chat.model.config.context_length:,}; they count as wrong"
        )
    return report


def _scored(tasks: ChatTasks, replies: Sequence[Reply | None]) -> list[ScoredReply]:
    count = len(tasks.ifeval)
    scored: list[ScoredReply] = []
    for prompt, reply in zip(tasks.ifeval, replies[:count], strict=True):
        text = "" if reply is None else reply.text
        strict, loose = prompt.followed(text), prompt.followed(text, loose=True)
        scored.append(ScoredReply("ifeval", prompt.text, reply, strict, loose))
    for problem, reply in zip(tasks.gsm8k, replies[count:], strict=True):
        right = [reply is not None and is_correct(problem, reply.text)]
        scored.append(ScoredReply("gsm8k", problem.question, reply, right, right))
    return scored
