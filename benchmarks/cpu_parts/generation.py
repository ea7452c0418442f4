"""Measure generation of one text with a KV cache: the complete call, from the prompt's text (ours) or ids (transformers)."""

from __future__ import annotations

from typing import Any

import torch

from cpu_parts.measure import Row, Target, clock, compare, interleave, rates
from cpu_parts.models import END_OF_TEXT, matching_models
from cpu_parts.steps import require_token_counts
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.transformer import LanguageModel

REFERENCE, OURS = "transformers", "glassgpt"
TARGETS = {OURS: Target(">=", 1.5)}
PROMPT_TOKENS = 64
TOP_K = 50
GREEDY_TOKENS = 16
SENTENCE = " The quick brown fox jumps over the lazy dog while a curious cat looks on from the old wall."


def measure_generation(rounds: int, new_tokens: int) -> list[Row]:
    """Return rows of new tokens per second at batch 1, prefill included."""
    ours, theirs = (model.eval() for model in matching_models())
    ours = prepare_for_decoding(ours)
    tokenizer = gpt2_tokenizer()
    prompt = prompt_of(PROMPT_TOKENS, tokenizer)
    require_equal_texts(
        our_tokens(ours, tokenizer, prompt, GREEDY_TOKENS, temperature=0.0),
        their_tokens(theirs, tokenizer.encode(prompt), GREEDY_TOKENS, do_sample=False),
    )
    systems = {
        REFERENCE: lambda: clock(lambda: sample_theirs(theirs, tokenizer, prompt, new_tokens)),
        OURS: lambda: clock(lambda: sample_ours(ours, tokenizer, prompt, new_tokens)),
    }
    for work in systems.values():
        work()
    samples = interleave(systems, rounds)
    part = f"generation, {PROMPT_TOKENS} + {new_tokens} tokens"
    return compare(part, "tokens/s", rates(samples, new_tokens), REFERENCE, TARGETS)


def prompt_of(n_tokens: int, tokenizer: Tokenizer) -> str:
    """Return a text of exactly `n_tokens` tokens; each of its words is one token."""
    words = [tokenizer.decode([token]) for token in tokenizer.encode(SENTENCE)]
    prompt = "".join(words[i % len(words)] for i in range(n_tokens))
    assert len(tokenizer.encode(prompt)) == n_tokens
    return prompt


def sample_ours(model: LanguageModel, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> None:
    """Generate a text with top-k 50."""
    require_token_counts([our_tokens(model, tokenizer, prompt, new_tokens, temperature=1.0, top_k=TOP_K)], new_tokens)


def sample_theirs(model: Any, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> None:
    """Generate a text with top-k 50 with transformers, whose call takes and returns ids."""
    ids = tokenizer.encode(prompt)
    require_token_counts(
        [their_tokens(model, ids, new_tokens, do_sample=True, top_k=TOP_K, temperature=1.0)], new_tokens
    )


def our_tokens(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    new_tokens: int,
    *,
    temperature: float,
    top_k: int = 0,
) -> list[int]:
    """Return the new tokens from `glassgpt.generation`."""
    options = GenerationOptions(max_tokens=new_tokens, temperature=temperature, top_k=top_k, top_p=1.0, seed=1)
    return generate(model, tokenizer, prompt, options)[0].tokens


def their_tokens(model: Any, prompt: list[int], new_tokens: int, **settings: Any) -> list[int]:
    """Return the new tokens from `transformers`' `generate`."""
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = None
    text = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        use_cache=True,
        pad_token_id=END_OF_TEXT,
        **settings,
    )
    return text[0, len(prompt) :].tolist()


def require_equal_texts(ours: list[int], theirs: list[int]) -> None:
    """Exit if the two generate different greedy tokens: they would not be doing the same work."""
    if ours != theirs:
        raise SystemExit(f"generation: the greedy tokens differ: glassgpt {ours}, transformers {theirs}")
