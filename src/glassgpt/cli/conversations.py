"""The conversations of `finetune --format chat`: shown, or prepared as a dataset. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt import console
from glassgpt.errors import UsageError

if TYPE_CHECKING:
    from glassgpt.adaptation.conversations import ConversationSource


@dataclass(frozen=True)
class ConversationOptions:
    """The options of `finetune` that need --format chat; see its help.

    Attributes:
        data: file of conversations, or a dataset of conversations.
        validation_data: file of conversations to validate on.
        chat_template: file of a Jinja template.
        row_tokens: tokens of a row.
        show: number of conversations to show.
        replay: dataset of old text and its share of the training text; None mixes nothing in.
    """

    data: Path | None
    validation_data: Path | None
    chat_template: Path | None
    row_tokens: int
    show: int
    replay: tuple[Path, float] | None = None

    def require_unused(self) -> None:
        """Check that none is given, as for text.

        Raises:
            UsageError: one is.
        """
        if self.validation_data or self.chat_template or self.row_tokens or self.show:
            raise UsageError("--validation-data, --chat-template, --row-tokens and --show need --format chat")

    def require_length(self, chosen: str | None) -> None:
        """Check that the tokens of a sequence, if they are chosen, are those of the rows that are to be prepared.

        Raises:
            UsageError: they are not.
        """
        from glassgpt.data.chat.dataset import is_conversations

        if self.data is None or is_conversations(self.data) or chosen in (None, "0", str(self.row_tokens)):
            return
        raise UsageError(
            f"train.sequence_length is {chosen}, but conversations are read in rows; choose their length with --row-tokens"
        )


def show_conversations(run: Path, options: ConversationOptions) -> None:
    """Print some conversations with the learned tokens in color.

    Raises:
        GlassGPTError: see `read_source`; or the template refuses a conversation.
    """
    from glassgpt.data.chat.dataset import is_conversations
    from glassgpt.data.chat.render import render
    from glassgpt.data.chat.show import print_conversation

    if options.show < 0:
        raise UsageError(f"--show is {options.show}; it must be at least 1")
    if options.data is not None and is_conversations(options.data):
        raise UsageError(f"{options.data} is prepared already; --show needs a file of conversations")
    source = _read(run, options)
    for number, conversation in enumerate(islice(source.train, options.show), 1):
        print_conversation(number, render(source.tokenizer, source.template, conversation), source.tokenizer)


def prepare_conversations(run: Path, options: ConversationOptions, out: Path) -> Path:
    """Return the folder of the dataset of conversations, which is created beside that of the new run.

    Args:
        run: the run to fine-tune.
        options: the conversations.
        out: folder of the new run.

    Raises:
        GlassGPTError: see `read_source` and `prepare_source`.
    """
    from glassgpt.adaptation.conversations import prepare_source
    from glassgpt.config import load_config
    from glassgpt.data.chat.dataset import is_conversations
    from glassgpt.data.chat.show import print_conversations

    if options.data is not None and is_conversations(options.data):
        if options.validation_data or options.chat_template or options.row_tokens or options.replay:
            raise UsageError(
                f"{options.data} is prepared already; --validation-data, --chat-template, --row-tokens and --replay need a file"
            )
        return options.data
    source, folder = _read(run, options), out.with_name(f"{out.name}-data")
    context = load_config(run).model.context_length
    print_conversations(prepare_source(source, folder, context, options.row_tokens, options.replay))
    return folder


def _read(run: Path, options: ConversationOptions) -> ConversationSource:
    from glassgpt.adaptation.conversations import read_source

    if options.data is None:
        raise UsageError("no conversations are given; add --data FILE.jsonl")
    source = read_source(run, options.data, options.validation_data, options.chat_template)
    count = len(source.train) + len(source.validation)
    console.info(f"{options.data}: {count:,} conversations in the format {source.format}")
    if source.unread:
        console.info(f"note: keys of rows that are not read: {', '.join(source.unread)}")
    console.info(f"chat template: {source.template_origin}")
    return source
