"""Models, texts and settings shared by the tests of inspection."""

import pytest

from glassgpt.data import load_tokenizer
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
GPT2 = ModelConfig(vocab_size=257, context_length=48, n_layer=3, n_head=3, n_embd=24)
MODERN = ModelConfig(
    arch="modern", vocab_size=260, context_length=48, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, window=5, bias=False
)
LLAMA = ModelConfig(
    arch="llama", vocab_size=260, context_length=48, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, n_inner=40, bias=False
)
ALL_ARCHITECTURES = pytest.mark.parametrize("config", [GPT2, MODERN, LLAMA], ids=lambda config: config.arch)
TEXT = "the cat saw the cat"
