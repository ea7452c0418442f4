"""torch.export: one file that runs without glassgpt, also from C++."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.interchange.formats.base import Engine, ExportFormat, ExportOptions
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel

MODEL_FILE = "model.pt2"
INPUTS_FILE = "inputs.json"


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    import torch

    from glassgpt.interchange.tokenizer_files import write_tokenizer_files
    from glassgpt.interchange.traced_model import TracedModel, dynamic_shapes, example_inputs

    write_tokenizer_files(tokenizer, model.config.context_length, folder)
    with torch.no_grad():
        program = torch.export.export(
            TracedModel(model), example_inputs(model.config), dynamic_shapes=dynamic_shapes(model.config)
        )
    content = io.BytesIO()  # writing to a full disk by itself, PyTorch ends the process
    torch.export.save(program, content)
    (folder / MODEL_FILE).write_bytes(content.getbuffer())
    config = model.config
    empty_past = {"count": 2 * config.n_layer, "shape": ["batch_size", config.kv_heads, 0, config.head_width]}
    inputs = {
        "arguments": ["input_ids", "attention_mask", "position_ids", "past_key_values"],
        "results": ["logits", "present_key_values…"],
        "past_key_values": empty_past,
        "context_length": config.context_length,
    }
    (folder / INPUTS_FILE).write_text(json.dumps(inputs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class _Program:
    """The saved program, as the engine of a check."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        import torch

        # The tracer adds the guard that a sequence has at least four tokens, which nothing in the graph needs.
        self._module: Any = torch.export.load(path).module(check_guards=False)
        self._config = config

    def _step(self, tokens: Sequence[int], past: Sequence[Any]) -> tuple[Any, list[Any]]:
        import torch

        n_past = past[0].size(2) if past else 0
        shape = (1, self._config.kv_heads, 0, self._config.head_width)
        past = list(past) or [torch.zeros(shape)] * (2 * self._config.n_layer)
        total = n_past + len(tokens)
        positions = torch.arange(n_past, total)[None]
        with torch.no_grad():
            logits, *present = self._module(
                torch.tensor([list(tokens)]), torch.ones(1, total, dtype=torch.long), positions, past
            )
        return logits, present

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `Engine.logits`."""
        return self._step(tokens, ())[0][0].numpy()

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """See `Engine.greedy`."""
        logits, past = self._step(tokens, ())
        new = [int(logits[0, -1].argmax())]
        while len(new) < count:
            logits, past = self._step(new[-1:], past)
            new.append(int(logits[0, -1].argmax()))
        return new


def _open_engine(folder: Path, config: ModelConfig) -> Engine:
    return _Program(folder / MODEL_FILE, config)


FORMAT = ExportFormat(
    name="pt2",
    summary="torch.export",
    architectures=("gpt2", "modern", "llama"),
    weights=("float32",),
    write=_write,
    usage=lambda folder: f"torch.export.load({str(folder / MODEL_FILE)!r}).module(check_guards=False)",
    open_engine=_open_engine,
    tolerance={"float32": 1e-5},
)
