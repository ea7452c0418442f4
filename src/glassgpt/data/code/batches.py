"""Batches of a text in which documents are rearranged to fill in the middle; see `glassgpt.data.code.fim`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import Batches, build_batches
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.data.code.config import FIMConfig
from glassgpt.data.code.fim import FIMTransform
from glassgpt.data.code.sentinels import Sentinels
from glassgpt.data.shards import Split, TokenArray, TokenDataset
from glassgpt.data.token_view import TokenView
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import WrongDataError


class FIMTokens(TokenView):
    """A training text that is to be rearranged while batching; what it returns itself is as on disk.

    Args:
        tokens: the text.
        tokenizer: of the tokens.
        config: how it is rearranged.
    """

    def __init__(self, tokens: TokenArray, tokenizer: Tokenizer, config: FIMConfig) -> None:
        super().__init__(tokens)
        self.tokenizer, self.config = tokenizer, config


class FIMBatches(Batches):
    """A stream of windows with rearranged documents; see `Batches` for the arguments.

    The position counts windows of the text on disk, so that saving, seeking and quarantine are those of `Batches`.
    """

    def __init__(
        self, tokens: FIMTokens, context_length: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(tokens, context_length, seed, rank=rank, world_size=world_size)
        self._transform = FIMTransform(tokens.tokenizer, tokens.config, seed)

    def read(self, starts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the given windows; see `Batches.read`."""
        length = self.context_length + 1
        read = self.tokens.read_many(starts.tolist(), length)
        windows = [self._transform(window, int(start)) for window, start in zip(read, starts, strict=True)]
        block = torch.from_numpy(np.stack(windows))  # (batch_size, context_length + 1)
        return block[:, :-1].contiguous(), block[:, 1:].contiguous()


build_batches.register(FIMTokens, FIMBatches)


class FIMDataset(TokenDataset):
    """A dataset whose training text is rearranged while batching; it is validated on the text as it is.

    Args:
        dataset: the text.
        config: how it is rearranged.

    Attributes:
        dataset: the text.
    """

    def __init__(self, dataset: TokenDataset, config: FIMConfig) -> None:
        super().__init__(dataset.folder, dataset.info, dataset.headers)
        self.dataset, self._config = dataset, config

    def split(self, name: Split) -> TokenArray:
        """Return the tokens of one split."""
        tokens = self.dataset.split(name)
        return tokens if name == "validation" else FIMTokens(tokens, self.tokenizer, self._config)


def with_fim(dataset: TokenDataset, config: FIMConfig) -> TokenDataset:
    """Return a dataset with the configured share of documents rearranged.

    Raises:
        WrongDataError: it consists of conversations.
        WrongTokenizerError: its tokenizer lacks the special tokens.
    """
    if not config.rate:
        return dataset
    if isinstance(dataset, ConversationDataset):
        raise WrongDataError(f"fim.rate cannot be combined with the conversations in {dataset.folder}; set it to 0")
    Sentinels.of(dataset.tokenizer)
    return FIMDataset(dataset, config)
