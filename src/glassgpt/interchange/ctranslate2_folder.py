"""Models as folders for CTranslate2, converted by its own converter from our Hugging Face export."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.comparison import quietly
from glassgpt.interchange.files import reason
from glassgpt.interchange.huggingface import export_model
from glassgpt.interchange.tokenizer_files import special_token_json
from glassgpt.model.transformer import LanguageModel

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def write_ctranslate2(model: LanguageModel, tokenizer: Tokenizer, folder: Path, weights: str) -> None:
    """Write a model and its tokenizer into an existing folder.

    Raises:
        InterchangeError: the converter refuses the model.
    """
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source, converted = Path(scratch, "hf"), Path(scratch, "ct2")
        export_model(model, tokenizer, source)
        for name in TOKENIZER_FILES:
            (folder / name).write_bytes((source / name).read_bytes())
        _name_unused_tokens(source / "tokenizer.json", tokenizer.vocab_size, model.config.vocab_size)
        try:
            converter = TransformersConverter(str(source))
            quietly(lambda: converter.convert(str(converted), quantization=None if weights == "float32" else weights))
        except (ValueError, RuntimeError, KeyError) as error:
            raise InterchangeError(f"CTranslate2 cannot convert the model: {reason(error)}") from error
        _set_norm_eps(converted / "config.json", model.config.norm_eps)
        for path in sorted(converted.iterdir()):
            path.replace(folder / path.name)


def _name_unused_tokens(path: Path, tokens: int, vocab_size: int) -> None:
    """Add special tokens to a `tokenizer.json` for the rows of the embedding that have no token."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] += [special_token_json(f"[PAD{token}]", token) for token in range(tokens, vocab_size)]
    path.write_text(json.dumps(content), encoding="utf-8")


def _set_norm_eps(path: Path, norm_eps: float) -> None:
    """Set the constant of LayerNorm, which the converter of GPT-2 leaves out: the engine then takes 1e-5."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["layer_norm_epsilon"] = norm_eps
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class CTranslate2:
    """A converted folder in CTranslate2 on the CPU."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import ctranslate2

        self._generator: Any = ctranslate2.Generator(str(folder), device="cpu", inter_threads=1, intra_threads=threads)
        self._vocabulary: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `Engine.logits`."""
        return np.array(self._generator.forward_batch([list(tokens)]))[0]

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """See `Engine.greedy`."""
        (found,) = self._generator.generate_batch(
            [[self._vocabulary[token] for token in tokens]],
            sampling_topk=1,
            max_length=count,
            end_token=[],  # end-of-text is a token like the others
            include_prompt_in_result=False,
        )
        return found.sequences_ids[0]
