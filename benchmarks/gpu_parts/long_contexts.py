"""Verify decoding behind long prompts on the device: log-probabilities against float32, and bits alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from glassgpt.generation.bench import TOP_50, endless_tokenizer
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.config import GPT2_VOCAB_SIZE
from glassgpt.model.transformer import LanguageModel

GREEDY = GenerationOptions(temperature=0.0, top_p=1.0)
SCORED_TOKENS, REPORTED = 8, 20
"""Greedy tokens whose log-probabilities are compared with float32, and most probable tokens per position."""
KERNELS, OTHER_KEYS = "glassgpt", "largest difference if the first 512 tokens were others"
ROUNDS = 3
"""Times that a batch is generated: CUDA graphs of prompts are captured when a shape occurs for the second time."""
Text = tuple[list[int], list[TokenLogprobs | None]]


def random_prompts(batch: int, length: int, seed: int) -> Tensor:
    """Return prompts (B, T) int64."""
    return torch.randint(GPT2_VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(seed))


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], options: GenerationOptions, logprobs: int | None = None
) -> list[Text]:
    """Return the new tokens of each prompt, and with them their log-probabilities if they are asked for."""
    texts: dict[int, Text] = {
        engine.add(engine.prepare(prompt, options, logprobs=logprobs)): ([], []) for prompt in prompts
    }
    while not engine.is_idle:
        for chunk in engine.step():
            tokens, reported = texts[chunk.request]
            tokens.append(chunk.token)
            reported.append(chunk.logprobs)
    return list(texts.values())


@torch.inference_mode()
def logprob_errors(
    exact: LanguageModel, ours: LanguageModel, peer: str, theirs: Callable[[Tensor], Tensor], length: int
) -> dict[str, float]:
    """Return the largest difference from float32 of the log-probabilities of the most probable tokens.

    Also returned is the difference that other keys in the first chunk make: a small error means something only if this is larger.

    Args:
        exact: in float32.
        ours: decodes; the tokens are its greedy ones.
        peer: name of `theirs`.
        theirs: returns logits (B, T, V) in the precision of `ours`, by other code.
        length: of the prompt.
    """
    prompt, device = random_prompts(1, length, 99)[0].tolist(), next(exact.parameters()).device
    engine = Engine(ours, endless_tokenizer(ours), slots=1, capacity=length + SCORED_TOKENS)
    new, reported = generate(engine, [prompt], replace(GREEDY, max_tokens=SCORED_TOKENS, seed=0), REPORTED)[0]
    tops = [each.top for each in reported if each]
    tokens = torch.tensor([[*prompt, *new]], device=device)
    ids = torch.tensor([[token for token, _ in top] for top in tops], device=device)
    found = torch.tensor([[logprob for _, logprob in top] for top in tops], device=device)

    def logprobs(logits: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        return logits(tokens)[0, length - 1 : -1].float().log_softmax(-1)

    wanted, of_peer = logprobs(exact, tokens), logprobs(theirs, tokens).gather(1, ids)
    other = torch.cat([random_prompts(1, 512, 98).to(device), tokens[:, 512:]], 1)[:, : tokens.size(1)]
    is_long = length > 512
    right = int((wanted.argmax(-1) == tokens[0, length:]).sum())
    wanted = wanted.gather(1, ids)
    return {
        KERNELS: float((wanted - found).abs().max()),
        peer: float((wanted - of_peer).abs().max()),
        **({OTHER_KEYS: float((wanted - logprobs(exact, other).gather(1, ids)).abs().max())} if is_long else {}),
        "greedy tokens that are also float32's": right,
        "of": SCORED_TOKENS,
    }


@torch.inference_mode()
def differing_texts(model: LanguageModel, lengths: Sequence[int], new_tokens: int) -> dict[str, int]:
    """Return how many texts differ alone and in a batch whose prompts have these lengths, and in a larger cache.

    Args:
        model: decodes.
        lengths: of the prompts.
        new_tokens: tokens of each text, by CUDA graphs of several steps; log-probabilities are compared, bit for bit, for
            `SCORED_TOKENS` tokens, which are decoded step by step.
    """
    tokenizer = endless_tokenizer(model)
    # A CPU's products depend on the number of rows; nothing on a GPU may.
    tolerance = 0.0 if next(model.parameters()).is_cuda else 1e-5
    prompts = [random_prompts(1, length, 70 + length)[0].tolist() for length in lengths]
    together = Engine(model, tokenizer, slots=len(prompts))
    texts = replace(TOP_50, max_tokens=new_tokens, seed=3)
    scores = replace(GREEDY, max_tokens=SCORED_TOKENS, seed=3)
    ways = {"texts": (texts, None), "log-probabilities": (scores, REPORTED)}
    found = dict.fromkeys(ways, 0)
    alone: dict[tuple[str, int], Text] = {}
    for number, prompt in enumerate(prompts):
        single = Engine(model, tokenizer, slots=1, capacity=len(prompt) + new_tokens)
        for name, (options, logprobs) in ways.items():
            alone[name, number] = generate(single, [prompt], options, logprobs)[0]
    for _ in range(ROUNDS):
        for name, (options, logprobs) in ways.items():
            batch = generate(together, prompts, options, logprobs)
            found[name] += sum(not _is_equal(text, alone[name, number], tolerance) for number, text in enumerate(batch))
    return {**found, "of": ROUNDS * len(prompts)}


def _is_equal(one: Text, other: Text, tolerance: float) -> bool:
    """Return whether tokens are equal, and log-probabilities differ by no more than the tolerance."""
    if one[0] != other[0]:
        return False
    pairs = [
        (a, b)
        for first, second in zip(one[1], other[1], strict=True)
        if first and second
        for (_, a), (_, b) in zip(first.top, second.top, strict=True)
    ]
    return all(abs(a - b) <= tolerance for a, b in pairs)
