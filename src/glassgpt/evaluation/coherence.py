"""Coherence of texts: the cosine similarity between the embeddings of adjacent sentences (Foltz et al. 1998).

Embeddings from language models all point in roughly the same direction (Ethayarajh 2019), so that any two sentences look
similar. The mean over human sentences is therefore subtracted first (Mu and Viswanath 2018); unrelated sentences then
score about 0.
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
from glassgpt.errors import GlassGPTError, MissingExtraError, UsageError
from glassgpt.evaluation.diversity import mean
from glassgpt.model.transformer import LanguageModel

_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n\s*\n")
EMBEDDING_BATCH_SIZE = 32

Vectors = NDArray[np.float64]


class Embedder(Protocol):
    """Computes sentence embeddings.

    Attributes:
        name: shown next to the results.
    """

    name: str

    def embed(self, sentences: Sequence[str]) -> Vectors:
        """Return one vector per sentence: (N, D)."""
        ...


class ModelStates:
    """Embeds a sentence as the mean of the evaluated model's own last hidden states.

    This needs no other model, but is not independent: a model may find its own nonsense coherent.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
    """

    name = "the model's own hidden states, averaged over each sentence"

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Vectors:
        """Return one vector per sentence: (N, n_embd). Sentences longer than the context are truncated."""
        context = self._model.config.context_length
        encoded = [self._tokenizer.encode(sentence)[:context] for sentence in sentences]
        device = next(self._model.parameters()).device
        means = [self._model.features(torch.tensor([ids], device=device))[0].float().mean(dim=0) for ids in encoded]
        return torch.stack(means).cpu().double().numpy()


class EmbeddingModel:
    """Embeds sentences by a sentence-transformers or transformers encoder from a local folder; nothing is downloaded.

    Args:
        folder: contains config.json, weights as safetensors and the tokenizer. Pooling is the mean over tokens, or the
            first token if `1_Pooling/config.json` says so.

    Raises:
        UsageError: there is no such model, or it cannot be loaded.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"--embedding-model must be the folder of a sentence-transformers or transformers model on this machine; "
                f"{folder} has no config.json"
            )
        self.name = f"the embedding model {folder.name}"
        self._tokenizer, self._model = _load_encoder(folder)
        self._first_token = _pools_first_token(folder)

    def embed(self, sentences: Sequence[str]) -> Vectors:
        """Return one vector per sentence: (N, hidden size)."""
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
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Safetensors only: unpickling an untrusted file can run arbitrary code.
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
    except ImportError as error:  # of a package that this model needs, too
        raise GlassGPTError(_not_loaded(folder, error)) from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(_not_loaded(folder, error)) from error
    return tokenizer, model.eval()


def _not_loaded(folder: Path, error: Exception) -> str:
    reason = str(error).strip() or type(error).__name__
    return f"--embedding-model {folder} cannot be loaded: {reason.splitlines()[0]}"


def _pools_first_token(folder: Path) -> bool:
    path = folder / "1_Pooling" / "config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("pooling_mode_cls_token"))


def sentences(text: str) -> list[str]:
    """Split a text into sentences at punctuation and empty lines; parts without a letter or digit are dropped."""
    parts = (part.strip() for part in _END.split(text))
    return [part for part in parts if any(character.isalnum() for character in part)]


class Coherence:
    """Measures the coherence of texts.

    Args:
        embedder: computes the sentence embeddings.
        human_texts: texts written by people; the mean of their sentence embeddings is subtracted from all others.
    """

    def __init__(self, embedder: Embedder, human_texts: Sequence[str]) -> None:
        self._embedder = embedder
        known = [sentence for text in human_texts for sentence in sentences(text)]
        self._origin = embedder.embed(known).mean(axis=0) if known else np.zeros(())

    @property
    def name(self) -> str:
        """Return the name of the embedder."""
        return self._embedder.name

    def measure(self, texts: Sequence[str]) -> float:
        """Return the mean cosine of adjacent sentences, averaged over texts: -1 to 1; NaN if none has two sentences."""
        return mean(self._measure_one(sentences(text)) for text in texts)

    def _measure_one(self, parts: Sequence[str]) -> float:
        if len(parts) < 2:
            return math.nan
        return adjacent_cosine(self._embedder.embed(parts) - self._origin)


def adjacent_cosine(vectors: Vectors) -> float:
    """Return the mean cosine of each row of (N, D) with the next; the cosine with a row of zeros is 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    return float((unit[:-1] * unit[1:]).sum(axis=1).mean())
