"""Whether a sentence has to do with the one before it: cosine between the embeddings of neighbours.

The measure is that of Foltz et al. (1998), by averages over sentences. Vectors of language
models all point roughly one way (Ethayarajh 2019), so that any two sentences look alike; the mean over sentences
that people wrote is taken off first (Mu and Viswanath 2018), and 0 is what unrelated sentences get.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import MissingExtraError, UsageError
from glassgpt.evaluation.diversity import mean
from glassgpt.model.transformer import LanguageModel

_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n\s*\n")
EMBEDDING_BATCH_SIZE = 32

Vectors = NDArray[np.float64]


class Embedder(Protocol):
    """Makes vectors of sentences.

    Attributes:
        name: what it is, for the reader of the figures.
    """

    name: str

    def embed(self, sentences: Sequence[str]) -> Vectors:
        """(N, D), a row for each sentence."""
        ...


class ModelStates:
    """The evaluated model's own last hidden states, averaged over a sentence.

    At hand without another model, but no measure from outside: a model may find its own nonsense coherent.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
    """

    name = "the model's own hidden states, averaged over each sentence"

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Vectors:
        """(N, n_embd); of a sentence longer than the context, its beginning."""
        context = self._model.config.context_length
        encoded = [self._tokenizer.encode(sentence)[:context] for sentence in sentences]
        device = next(self._model.parameters()).device
        rows = [self._model.features(torch.tensor([ids], device=device))[0].float().mean(dim=0) for ids in encoded]
        return torch.stack(rows).cpu().double().numpy()


class EmbeddingModel:
    """A sentence-transformers or transformers encoder from a local folder; nothing is fetched.

    Args:
        folder: with config.json, the weights as safetensors and the tokenizer. Pooling is the mean over tokens,
            or the first token where `1_Pooling/config.json` says so.

    Raises:
        UsageError: there is no such model, or it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"--embedding-model is {folder}; allowed is the folder of a sentence-transformers or transformers "
                f"model on this machine, with its config.json"
            )
        self.name = f"the embedding model {folder.name}"
        self._tokenizer, self._model = _load_encoder(folder)
        self._first_token = _pools_first_token(folder)

    def embed(self, sentences: Sequence[str]) -> Vectors:
        """(N, hidden size)."""
        batches = [sentences[at : at + EMBEDDING_BATCH_SIZE] for at in range(0, len(sentences), EMBEDDING_BATCH_SIZE)]
        return np.concatenate([self._embed(batch) for batch in batches])

    @torch.no_grad()
    def _embed(self, sentences: Sequence[str]) -> Vectors:
        batch = self._tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        states = self._model(**batch).last_hidden_state.double()  # (B, T, D)
        if self._first_token:
            return states[:, 0].numpy()
        mask = batch["attention_mask"][..., None].double()
        return ((states * mask).sum(1) / mask.sum(1)).numpy()


def _load_encoder(folder: Path) -> tuple[Any, Any]:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("transformers", "eval", "an embedding model") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Safetensors only: a pickle from a stranger could run anything.
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--embedding-model {folder} cannot be loaded: {reason}") from error
    return tokenizer, model.eval()


def _pools_first_token(folder: Path) -> bool:
    path = folder / "1_Pooling" / "config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_cls_token"))


def sentences(text: str) -> list[str]:
    """A text's sentences, by punctuation and empty lines; what holds no letter or figure is none."""
    parts = (part.strip() for part in _END.split(text))
    return [part for part in parts if any(character.isalnum() for character in part)]


class Coherence:
    """Coherence of texts, measured from what is usual among people.

    Args:
        embedder: makes the vectors.
        usual: texts that people wrote; the mean of their sentences is the origin.
    """

    def __init__(self, embedder: Embedder, usual: Sequence[str]) -> None:
        self._embedder = embedder
        known = [sentence for text in usual for sentence in sentences(text)]
        self._origin = embedder.embed(known).mean(axis=0) if known else np.zeros(())

    @property
    def name(self) -> str:
        """What made the vectors."""
        return self._embedder.name

    def of(self, texts: Sequence[str]) -> float:
        """Mean cosine of neighbouring sentences, averaged over texts: -1 to 1; nan where none has two sentences."""
        return mean(self._of_one(sentences(text)) for text in texts)

    def _of_one(self, parts: Sequence[str]) -> float:
        if len(parts) < 2:
            return math.nan
        return neighbour_cosine(self._embedder.embed(parts) - self._origin)


def neighbour_cosine(vectors: Vectors) -> float:
    """Mean cosine of each row (N, D) with the next; a row of zeros has none with any."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    return float((unit[:-1] * unit[1:]).sum(axis=1).mean())
