"""Conversations on disk: a dataset folder like any other, whose tokens are rows of packed conversations.

Beside the shards, `conversations.json` has the length of the rows, and a file per split has one byte per token: whether it
is learned, and whether it begins a conversation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.rows import row_length_problem
from glassgpt.data.files import read_regular
from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shard_format import ShardHeader
from glassgpt.data.shards import SPLITS, Split, TokenDataset
from glassgpt.data.summary import DatasetSummary
from glassgpt.errors import DataError, UsageError
from glassgpt.schema.json_fields import from_json, json_object

if TYPE_CHECKING:
    from glassgpt.data.chat.batches import ConversationTokens

CONVERSATIONS_FILE = "conversations.json"
TEMPLATE_FILE = "chat_template.jinja"
FORMAT, FORMAT_VERSION = "glassgpt-conversations", 1


@dataclass(frozen=True)
class SplitConversations:
    """Counts of one split.

    Attributes:
        conversations: number that is in the rows.
        cut: number of these that lost their last turns, because they did not fit into a row.
        dropped: number that did not fit even so.
        tokens: number of tokens of conversations, without padding.
        supervised: number of tokens that are learned, those of text included.
        sha256: checksum of the flags.
        text: number of tokens of the text that is mixed in, in rows of its own.
    """

    conversations: int
    cut: int
    dropped: int
    tokens: int
    supervised: int
    sha256: str
    text: int = 0


@dataclass(frozen=True)
class ConversationSummary:
    """The content of `conversations.json`.

    Attributes:
        row_length: tokens of a row, one more than a model reads of it.
        stop: id of the token that ends an answer.
        pad: id of the tokens that fill a row.
        train: counts of the training split.
        validation: counts of the validation split.
    """

    row_length: int
    stop: int
    pad: int
    train: SplitConversations
    validation: SplitConversations

    def split(self, name: Split) -> SplitConversations:
        """Return the counts of one split."""
        return self.train if name == "train" else self.validation

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> ConversationSummary:
        """Read the file.

        Raises:
            DataError: it is damaged or of a newer version.
        """
        try:
            fields = json_object(read_regular(path))
            if (fields.pop("format", None), fields.pop("version", None)) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is not {FORMAT} {FORMAT_VERSION}")
            summary = from_json(cls, fields, may_lack_defaults=True)
            if summary.row_length < 2:
                raise ValueError("its row_length must be at least 2")
            return summary
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}; prepare the conversations again") from error


class ConversationDataset(TokenDataset):
    """A dataset of packed conversations.

    Attributes:
        conversations: what `conversations.json` says.
    """

    def __init__(self, folder: Path, info: DatasetSummary, headers: dict[str, ShardHeader]) -> None:
        super().__init__(folder, info, headers)
        self.conversations = ConversationSummary.read(folder / CONVERSATIONS_FILE)
        if not (folder / TEMPLATE_FILE).is_file():
            raise DataError(f"{folder / TEMPLATE_FILE} is missing; prepare the conversations again")
        self._flags = {name: self._read_flags(name) for name in SPLITS}

    def split(self, name: Split) -> ConversationTokens:
        """Return the rows of one split."""
        from glassgpt.data.chat.batches import ConversationTokens  # needs torch, the rest of this file does not

        counts, row_length = self.conversations.split(name), self.conversations.row_length
        tokens = super().split(name)
        predicted = len(tokens) // row_length * (row_length - 1)
        return ConversationTokens(tokens, self._flags[name], row_length, counts.supervised / max(1, predicted))

    def _read_flags(self, name: Split) -> NDArray[np.uint8]:
        path, counts = self.folder / flags_file(name), self.conversations.split(name)
        try:
            raw = read_regular(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; prepare the conversations again") from error
        if hashlib.sha256(raw).hexdigest() != counts.sha256 or len(raw) != self.info.split(name).tokens:
            raise DataError(
                f"{path} does not match its checksum in {CONVERSATIONS_FILE}; prepare the conversations again"
            )
        return np.frombuffer(raw, dtype=np.uint8)

    @classmethod
    def open(cls, folder: Path) -> ConversationDataset:
        """See `TokenDataset.open`.

        Raises:
            DataError: also if the flags or the chat template are missing or damaged.
        """
        dataset = super().open(folder)
        assert isinstance(dataset, cls)
        return dataset


def flags_file(split: str) -> str:
    """Return the name of the file with a split's flags."""
    return f"{split}.flags"


def is_conversations(folder: Path) -> bool:
    """Return whether a dataset consists of conversations."""
    return (folder / CONVERSATIONS_FILE).is_file()


def row_problems(folder: Path, sequence_length: int) -> list[str]:
    """Return `row_length_problem` of a dataset, in a list that is empty if there is none, or for a dataset of text.

    Raises:
        DataError: the summary of the conversations is damaged.
    """
    if not is_conversations(folder):
        return []
    rows = ConversationSummary.read(folder / CONVERSATIONS_FILE)
    problem = row_length_problem(rows.row_length, sequence_length)
    return [problem] if problem else []


def require_text(folder: Path) -> None:
    """Check that a dataset is one of text, whose passages can be prompts.

    Raises:
        UsageError: it consists of conversations or documents with media, several of which share a row.
    """
    if (rows := rows_in(folder)) and not is_conversations(folder):
        raise UsageError(
            f"{folder} holds {rows}, which cannot be continued as a text; give a dataset of text with --data DIR"
        )
    if is_conversations(folder):
        raise UsageError(
            f"{folder} holds conversations, which cannot be continued as a text; give a dataset of text with --data DIR, or "
            "evaluate replies with: glassgpt evaluate RUN --chat --conversations FILE"
        )


def held_out_targets(dataset: TokenDataset) -> int:
    """Return the number of tokens of the validation split that a loss on all of it counts."""
    if isinstance(dataset, ConversationDataset):
        return dataset.conversations.validation.supervised
    return dataset.info.validation.tokens - 1


def open_dataset(folder: Path) -> TokenDataset:
    """Open a dataset, of text or of conversations.

    Raises:
        DataError: see `TokenDataset.open` and `ConversationDataset.open`.
    """
    return (ConversationDataset if is_conversations(folder) else TokenDataset).open(folder)
