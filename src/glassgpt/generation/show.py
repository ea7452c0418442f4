"""What `glassgpt generate` prints."""

from __future__ import annotations

import json

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine import Sample, generate, stream
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel


def print_json(model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions) -> None:
    """One JSON object a sample: `text` (the continuation alone), `tokens` (its ids), `finish_reason`."""
    for sample in generate(model, tokenizer, prompt, options):
        line = {"text": sample.text, "tokens": sample.tokens, "finish_reason": sample.finish_reason}
        console.result(json.dumps(line, ensure_ascii=False))


def print_stream(model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions) -> None:
    """The prompt and its continuation as it comes; several samples each when it is complete, with a heading."""
    if options.num_samples > 1:
        for sample in generate(model, tokenizer, prompt, options):
            _print_sample(sample, prompt, options.num_samples)
        return
    pieces = stream(model, tokenizer, prompt, options)
    console.result(prompt or "", end="")
    for piece in pieces:
        console.result(piece.text, end="")
    console.result("")


def _print_sample(sample: Sample, prompt: str | None, count: int) -> None:
    console.result(f"── sample {sample.index + 1} of {count} ({sample.finish_reason}) ──")
    console.result((prompt or "") + sample.text)
