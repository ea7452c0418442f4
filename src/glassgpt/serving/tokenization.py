"""/tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

import asyncio
from typing import Any

from glassgpt.serving import formatting
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import DETOKENIZE_FIELDS, TOKENIZE_FIELDS
from glassgpt.serving.http import SHORT_BODY, Answer, Call


async def tokenize(context: ServerContext, call: Call) -> Answer:
    """Answer POST /tokenize."""
    values = await context.parse(call, TOKENIZE_FIELDS)
    weights = context.find(values["model"]).current.weights
    tokenizer = weights.tokenizer
    encode = tokenizer.encode_with_special_tokens if values["add_special_tokens"] else tokenizer.encode
    if call.size <= SHORT_BODY:
        tokens = encode(values["prompt"])
    else:
        loop = asyncio.get_running_loop()
        tokens = await loop.run_in_executor(context.executor, encode, values["prompt"])
    answer: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": weights.model.config.context_length,
        "tokens": tokens,
    }
    if values["return_token_strs"]:
        answer["token_strs"] = [formatting.token_text(tokenizer, token) for token in tokens]
    return answer


async def detokenize(context: ServerContext, call: Call) -> Answer:
    """Answer POST /detokenize."""
    values = await context.parse(call, DETOKENIZE_FIELDS)
    tokenizer = context.find(values["model"]).current.weights.tokenizer
    invalid = next((token for token in values["tokens"] if not 0 <= token < tokenizer.vocab_size), None)
    if invalid is not None:
        raise APIError(
            f"tokens contains {invalid}; ids must be between 0 and {tokenizer.vocab_size - 1}", param="tokens"
        )
    return {"prompt": tokenizer.decode(values["tokens"])}


async def tokenizer_info(context: ServerContext, call: Call) -> Answer:
    """Answer GET /tokenizer_info."""
    weights = context.find(None).current.weights
    tokenizer = weights.tokenizer
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    end = names[tokenizer.end_of_text]
    return {
        "tokenizer_class": tokenizer.kind,
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": weights.model.config.context_length,
        "eos_token": end,
        "eos_token_id": tokenizer.end_of_text,
        "bos_token": end,
        "bos_token_id": tokenizer.end_of_text,
        "special_tokens": tokenizer.special_tokens,
    }
