"""`glassgpt evaluate --chat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.errors import UsageError, require_extra

if TYPE_CHECKING:
    from glassgpt.evaluation.chat.tasks import ChatTasks


DECODING = "greedy"
"""Default settings for replies."""


def require_no_text_options(option: str, given: Mapping[str, bool]) -> None:
    """Check that no option is given that would be ignored, such as one that evaluates on text with --chat.

    Args:
        option: with which they would be ignored.
        given: for each of them, whether it is given.

    Raises:
        UsageError: one is.
    """
    if names := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"{names[0]} cannot be combined with {option}; leave it out")


@dataclass(frozen=True)
class ChatFiles:
    """The files to evaluate on, and how much of them.

    Attributes:
        ifeval: prompts of IFEval.
        gsm8k: problems of GSM8K.
        conversations: held-out conversations.
        limit: rows of each; 0 means all.
        shots: solved problems before each problem.
    """

    ifeval: Path | None
    gsm8k: Path | None
    conversations: Path | None
    limit: int
    shots: int

    def require_none(self, others: int, decoding: str) -> None:
        """Check that nothing of this is given without --chat, nor settings of its replies, nor more than one run.

        Raises:
            UsageError: it is.
        """
        given: dict[str, object] = {
            "--ifeval": self.ifeval,
            "--gsm8k": self.gsm8k,
            "--conversations": self.conversations,
        }
        given |= {"--limit": self.limit or None, "--shots": self.shots or None}
        given |= {"--decoding": decoding if decoding != DECODING else None}
        if names := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{names[0]} is for chats; add --chat")
        if others:
            raise UsageError("several runs are compared with --chat only; without it, give one run")

    def require_limit_alone(self, others: int, *, chat: bool) -> None:
        """Check that nothing of this but the limit is given with --code.

        Raises:
            UsageError: it is.
        """
        given = {
            "--chat": chat,
            "--ifeval": self.ifeval is not None,
            "--gsm8k": self.gsm8k is not None,
            "--conversations": self.conversations is not None,
            "--shots": self.shots != 0,
        }
        require_no_text_options("--code", given)
        if others:
            raise UsageError("several runs are compared with --chat only; without it, give one run")

    def check(self) -> None:
        """Check what is given, without torch.

        Raises:
            UsageError: nothing is given, a file does not exist, or a number is negative.
            MissingExtraError: IFEval needs a package that is not installed.
        """
        from glassgpt.evaluation.chat.languages import LANGDETECT
        from glassgpt.evaluation.chat.rows import require_file

        for option, path in (
            ("--ifeval", self.ifeval),
            ("--gsm8k", self.gsm8k),
            ("--conversations", self.conversations),
        ):
            require_file(option, path)
        for option, number in (("--limit", self.limit), ("--shots", self.shots)):
            if number < 0:
                raise UsageError(f"{option} must be 0 or more, not {number}")
        if self.shots and self.gsm8k is None:
            raise UsageError("--shots needs the problems that it takes them from; add --gsm8k FILE")
        if self.ifeval is not None:
            require_extra(*LANGDETECT)

    def read(self) -> ChatTasks:
        """Return what the files hold.

        Raises:
            DataError: a row is not of the expected form.
            UsageError: there is nothing to evaluate.
        """
        from glassgpt.evaluation.chat.tasks import read_tasks

        tasks = read_tasks(self.ifeval, self.gsm8k, self.conversations, limit=self.limit, shots=self.shots)
        tasks.require_any()
        return tasks


def evaluate_chat(
    runs: Sequence[Path],
    files: ChatFiles,
    *,
    decoding: str,
    new_tokens: int | None,
    seed: int,
    samples: int,
    checkpoint: str,
    device: str,
    json: bool,
    json_file: Path | None,
    force: bool,
) -> None:
    """Evaluate runs on the same conversations; the arguments are those of `evaluate`."""
    from glassgpt.data.files import check_output_path
    from glassgpt.evaluation.chat.tasks import NEW_TOKENS
    from glassgpt.training.checkpoint_layout import require_checkpoint
    from glassgpt.training.run_folder import RunFolder

    for folder in [RunFolder(run).require() for run in runs]:
        require_checkpoint(folder, checkpoint)
    if twice := [run for at, run in enumerate(runs) if run in runs[:at]]:
        raise UsageError(f"{twice[0]} is given twice; give each run once")
    if json_file is not None:
        check_output_path("--json-file", json_file, force=force)
    if samples < 0:
        raise UsageError(f"--samples must be 0 or more, not {samples}")
    files.check()
    tasks = files.read()

    from glassgpt.api.chat_evaluation import ChatEvaluation, evaluate_chats  # loads torch, which takes seconds
    from glassgpt.evaluation.compare import parse_one_setting

    request = ChatEvaluation(
        tasks,
        parse_one_setting(decoding, "--decoding"),
        new_tokens=NEW_TOKENS if new_tokens is None else new_tokens,
        seed=seed,
        checkpoint=checkpoint,
        device=device,
    )
    title = f"{decoding}, replies of up to {request.new_tokens} tokens"
    evaluate_chats(runs, request, title=title, as_json=json, samples=samples, json_file=json_file, force=force)
