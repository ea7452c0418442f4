"""Text generation as a plain loop: the readable reference implementation of the engine.

Prompt -> logits -> logits processors -> sample -> text, for one sequence, with the KV cache and nothing else. The
engine adds batches, scheduling and faster kernels; a test proves that it generates the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.sampling import gumbel_sample, sample
from glassgpt.generation.engine.streaming import TextStream
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from glassgpt.model.transformer import LanguageModel


def generate_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, options: GenerationOptions) -> str:
    """Return the continuation of a prompt, without the stop string or stop token that ended it.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: at least one token, at most as many as the model's context holds.
        options: generation options with a seed.

    Raises:
        GenerationError: the options leave no token to sample.
    """
    stream, text = TextStream(tokenizer, options.stop, options.min_tokens), ""
    for token in generate_tokens(model, tokenizer, tokenizer.encode(prompt), options):
        if token in options.stop_tokens:
            break
        text += stream.push(token)
        if stream.stopped:
            return text
    return text + stream.finish()


@torch.inference_mode()
def generate_tokens(
    model: LanguageModel, tokenizer: Tokenizer, prompt: Sequence[int], options: GenerationOptions, index: int = 0
) -> Iterator[int]:
    """Yield the tokens of a continuation, a stop token included, end-of-text excluded.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: token ids.
        options: generation options with a seed.
        index: the sample's index, which determines its noise.
    """
    processors = build_processors(options, tokenizer)
    parameter = next(model.parameters())
    cache = model.new_cache(slots=1)
    output: list[int] = []
    new_tokens = list(prompt)  # the model sees each token once; the cache keeps its keys and values
    while len(output) < options.max_tokens and cache.lengths[0] + len(new_tokens) <= cache.capacity:
        tokens = torch.tensor([new_tokens], device=parameter.device)  # (1, T): the prompt, then one token at a time
        logits = model(tokens, cache)[:, -1, : tokenizer.vocab_size].float().cpu()  # (1, V) of the last position
        logits = apply_processors(logits, processors, [TokenHistory(prompt, output)])
        if options.is_greedy:
            token = int(sample(logits, None))
        else:
            position = len(prompt) + len(output)
            token = int(gumbel_sample(logits, options.seed or 0, [index], [position]))
        if token == tokenizer.end_of_text:
            return
        output.append(token)
        yield token
        if token in options.stop_tokens:
            return
        new_tokens = [token]
