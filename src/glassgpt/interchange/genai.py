"""The files beside an exported ONNX graph that ONNX Runtime GenAI needs to run it."""

from __future__ import annotations

from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN, PATTERNS
from glassgpt.interchange.files import Json
from glassgpt.model.config import ModelConfig

FILE_NAME = "genai_config.json"
TYPE = "phi"
"""A type of decoder whose graph has the inputs and outputs that ours has; there is no `gpt2` with position ids as input."""


def unreadable_tokenizer(tokenizer: Tokenizer) -> str | None:
    """Return why ONNX Runtime GenAI cannot read a tokenizer, in one line, or None.

    It has a matcher for each pattern that it knows. Others become a C++ `std::regex`, which has no character classes and
    fails in texts that are not ASCII (0.18).
    """
    patterns = [pattern for name, pattern in PATTERNS.items() if name != DEFAULT_PATTERN]
    if tokenizer.kind == "bytes" or (tokenizer.kind == "bpe" and tokenizer.payload["pattern"] in patterns):
        return None
    return (
        f"ONNX Runtime GenAI cannot read the tokenizer {tokenizer.name}, so no {FILE_NAME} was written for it; "
        f"it can if the text is prepared with --tokenizer bpe:SIZE --pattern gpt2, llama or qwen2"
    )


def genai_config(config: ModelConfig, end_of_text: int, model_file: str) -> Json:
    """Return the content of `genai_config.json`.

    Args:
        config: the model's shape.
        end_of_text: the id that ends a text.
        model_file: name of the ONNX file beside it.
    """
    decoder: dict[str, Any] = {
        "session_options": {"provider_options": []},
        "filename": model_file,
        "head_size": config.head_width,
        "hidden_size": config.n_embd,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "num_hidden_layers": config.n_layer,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    return {
        "model": {
            "type": TYPE,
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
            "decoder": decoder,
        },
        "search": {"do_sample": False, "max_length": config.context_length, "past_present_share_buffer": False},
    }
