"""Prompt lookup inside CUDA graphs: the same text as without it, and tokens per second of both in turns.

Prompts are the first 64 tokens of given texts, 256 tokens follow; nothing ends a text earlier. A figure is over whole calls,
prefill included: all new tokens divided by all seconds, after rounds that do not count. In every round each variant
generates the same texts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton

import glassgpt
from glassgpt.data import load_tokenizer
from glassgpt.data.files import write_atomically
from glassgpt.generation.bench import TOP_50, GenerationWorkload, endless_tokenizer, measure_generation
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.gpu import lookup_graphs
from glassgpt.generation.gpu.cache_attention import LONG_CONTEXT
from glassgpt.generation.gpu.row_step import RowStep, max_width
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import to_bfloat16
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel

RESULTS = Path(__file__).parent / "results" / "lookup-gpu.json"
PROMPT_TOKENS, NEW_TOKENS = 64, 256
CHECKED_PROMPTS, WARM_UPS = 20, 2
OPTIONS = {
    "greedy": GenerationOptions(temperature=0.0, top_p=1.0),
    "temperature 0.8": GenerationOptions(temperature=0.8, top_p=1.0),
    "temperature 0.8, top-k 50": replace(TOP_50, temperature=0.8),
    "top-k 50": TOP_50,
}
PLAIN = "no proposals"
ROUNDS = {1: 20, 8: 6, 64: 3}
"""Timed rounds of each batch size."""
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "modern": {"arch": "modern", "bias": False, "n_kv_head": 6, "window": 128},
    "llama": {"arch": "llama", "bias": False, "n_kv_head": 4},
    "llama, context of 4,096": {"arch": "llama", "bias": False, "n_kv_head": 4, "context_length": 4096},
}


def random_model(context_length: int = 1024, **shape: Any) -> LanguageModel:
    """Return a model of 12 layers with random weights, in bfloat16 on the GPU."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=GPT2_VOCAB_SIZE, context_length=context_length, **shape)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # Modern's zero-initialized projections would hide errors
            torch.nn.init.normal_(parameter, std=0.02)
    return to_bfloat16(model.cuda())


def single_steps(
    step_type: type[FusedStep], model: LanguageModel, tokens: torch.Tensor
) -> tuple[KVCache, list[torch.Tensor]]:
    """Return the cache and each position's logits after steps of one token per slot, with a kind of step."""
    parameter, config = next(model.parameters()), model.config
    device = parameter.device
    cache = KVCache(config, tokens.size(0), tokens.size(1) + 212, dtype=parameter.dtype, device=device)
    state = SlotState(tokens.size(0), config.vocab_size, device)
    step = step_type(model, cache, state, config.vocab_size)
    logits: list[torch.Tensor] = []
    for position in range(tokens.size(1)):
        state.append(tokens[:, position].tolist())
        state.ints[1] = position
        step.feed(tokens.size(0))
        logits.append(step.logits[: tokens.size(0)].clone())
    return cache, logits


@torch.inference_mode()
def differing_rows(model: LanguageModel, length: int = 300, second: int = 250) -> dict[str, int]:
    """Return how many rows have other bits when the slot's successive tokens are processed together, by rows per slot.

    Compared with steps of one token, whose keys and values are the same; two slots of different length. "no proposals"
    counts the positions that differ from the steps of decoding without proposals, whose attention kernel is another.
    """
    device, config = next(model.parameters()).device, model.config
    tokens = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(7))
    cache, logits = single_steps(RowStep, model, tokens)
    _, plain = single_steps(FusedStep, model, tokens)
    different = sum(not torch.equal(one, other) for one, other in zip(logits, plain, strict=True))
    keys, values = cache.keys.clone(), cache.values.clone()
    found: dict[str, int] = {PLAIN: different}
    for width in (2, 5, 8, 16):
        if width > max_width(config):
            continue
        starts = (length - 20, min(second, length - 16))  # the second crosses the first block or chunk of keys
        rows = SlotState(2 * width, config.vocab_size, device)
        rows.ints[0] = torch.cat([tokens[slot, at : at + width] for slot, at in enumerate(starts)]).int()
        rows.ints[1] = torch.cat([torch.arange(at, at + width) for at in starts]).int()
        for slot, at in enumerate(starts):
            cache.keys[:, slot, :, at:] = cache.values[:, slot, :, at:] = 3.0
        several = RowStep(model, cache, rows, config.vocab_size)
        several.width = width
        several.feed(2 * width)
        found[str(width)] = sum(
            not torch.equal(several.logits[slot * width + nth], logits[at + nth][slot])
            for slot, at in enumerate(starts)
            for nth in range(width)
        )
        layers = [
            layer
            for layer in range(config.n_layer)
            for slot, at in enumerate(starts)
            if not torch.equal(cache.keys[layer, slot, :, : at + width], keys[layer, slot, :, : at + width])
        ]
        if layers:
            print(f"{width} rows per slot: other keys from layer {layers[0]} on", flush=True)
        cache.keys.copy_(keys)
        cache.values.copy_(values)
    return found


class Variant:
    """An engine that is kept, so that graphs are captured once.

    Args:
        model: in bfloat16.
        slots: batch size.
        draft: most tokens to propose; 0 for decoding without proposals.
        rounds: rounds per launch.
        max_rows: see `lookup_graphs.MAX_ROWS`.
        prompt_tokens: tokens of the prompts.
    """

    def __init__(
        self,
        model: LanguageModel,
        slots: int,
        draft: int,
        rounds: int = 4,
        max_rows: int = 64,
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> None:
        self._rounds, self._max_rows, self._slots = rounds, max_rows, slots
        self.strategy = SpeculativeDecoding(tokens=draft) if draft else None
        self._set()
        self._engine = Engine(
            model,
            endless_tokenizer(model),
            slots=slots,
            capacity=prompt_tokens + NEW_TOKENS,
            decoder=self.strategy or select_decoder,
        )
        self.seconds, self.tokens = 0.0, 0

    def _set(self) -> None:
        lookup_graphs.ROUNDS_PER_LAUNCH, lookup_graphs.MAX_ROWS = self._rounds, self._max_rows
        lookup_graphs.MAX_SLOTS = self._slots

    def generate(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> list[list[int]]:
        """Return the new tokens of each prompt, and count seconds and tokens."""
        self._set()
        options = replace(options, max_tokens=NEW_TOKENS, seed=11)
        torch.cuda.synchronize()
        start = time.perf_counter()
        texts: dict[int, list[int]] = {self._engine.submit(prompt, options): [] for prompt in prompts}
        while not self._engine.is_idle:
            for chunk in self._engine.step():
                texts[chunk.request].append(chunk.token)
        self.seconds += time.perf_counter() - start
        self.tokens += sum(map(len, texts.values()))
        return list(texts.values())

    def reset(self) -> None:
        """Forget what was counted."""
        self.seconds, self.tokens = 0.0, 0
        if self.strategy:
            stats = self.strategy.stats
            stats.proposed = stats.accepted = stats.passes = 0


def variants_of(model: LanguageModel, batch: int) -> dict[str, Variant]:
    """Return the variants to compare at a batch size."""
    drafts = {1: (1, 4, 7, 15), 8: (1, 3, 7), 64: (1,)}[batch]
    variants = {PLAIN: Variant(model, batch, 0)}
    for draft in drafts:
        variants[f"draft {draft}"] = Variant(model, batch, draft, max_rows=max(64, 2 * batch))
    if batch == 1:
        variants["draft 7, 2 rounds"] = Variant(model, 1, 7, rounds=2)
        variants["draft 7, 8 rounds"] = Variant(model, 1, 7, rounds=8)
    return variants


def timed(model: LanguageModel, prompts: Sequence[Sequence[int]], batch: int) -> list[dict[str, Any]]:
    """Return tokens per second of each variant and setting at a batch size, and how many texts were different."""
    variants, found = variants_of(model, batch), list[dict[str, Any]]()
    for name, options in OPTIONS.items():
        different = dict.fromkeys(variants, 0)
        for number in range(WARM_UPS + ROUNDS[batch]):
            if number == WARM_UPS:
                for variant in variants.values():
                    variant.reset()
            first = number * batch % (len(prompts) - batch + 1)
            texts = {key: each.generate(prompts[first : first + batch], options) for key, each in variants.items()}
            for key, text in texts.items():
                different[key] += sum(one != other for one, other in zip(text, texts[PLAIN], strict=True))
        found += [
            {**_figures(batch, name, key, variant), "different_texts": different[key]}
            for key, variant in variants.items()
        ]
        for row in found[-len(variants) :]:
            print(row, flush=True)
    return found


def _figures(batch: int, options: str, name: str, variant: Variant) -> dict[str, Any]:
    row: dict[str, Any] = {"batch": batch, "options": options, "variant": name}
    row["tokens_per_second"] = round(variant.tokens / variant.seconds)
    if variant.strategy:
        stats = variant.strategy.stats
        row["acceptance_rate"] = round(stats.acceptance_rate, 4)
        row["tokens_per_round"] = round(stats.tokens_per_forward, 3)
        if stats.passes:
            row["microseconds_per_round"] = round(1e6 * variant.seconds / (stats.passes / batch), 1)
    return row


def equal_texts(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> dict[str, str]:
    """Return for how many prompts the text is the same, one at a time and together."""
    asked = [*OPTIONS.items(), ("top-p 0.9", GenerationOptions(temperature=1.0, top_p=0.9))]
    found: dict[str, str] = {}
    longest = max(map(len, prompts))
    alone, together = (Variant(model, slots, draft, prompt_tokens=longest) for slots, draft in ((1, 7), (8, 4)))
    for name, options in asked:
        plain = Variant(model, 8, 0, prompt_tokens=longest).generate(prompts, options)
        for how, texts in (("one at a time", alone), ("together", together)):
            same = sum(a == b for a, b in zip(texts.generate(prompts, options), plain, strict=True))
            rate = texts.strategy.stats.acceptance_rate if texts.strategy else 0.0
            found[f"{name}, {how}"] = f"{same} of {len(prompts)}, {rate:.1%} of the proposals accepted"
            print(name, how, found[f"{name}, {how}"], flush=True)
            texts.reset()
    return found


def repeating_prompts(count: int, length: int) -> list[list[int]]:
    """Return prompts of random tokens each of which repeats itself, so that something is always proposed."""
    tokens = torch.randint(GPT2_VOCAB_SIZE, (count, length // 4), generator=torch.Generator().manual_seed(5))
    return [each * 4 for each in tokens.tolist()]


def equality(save: Any) -> dict[str, dict[str, int]]:
    """Compare rows and texts with and without proposals for each shape; return the rows that differ.

    Args:
        save: called with each part of the result.
    """
    bits: dict[str, dict[str, int]] = {}
    texts: dict[str, dict[str, str]] = {}
    for name, shape in SHAPES.items():
        model = random_model(**shape)
        is_long = model.config.context_length > LONG_CONTEXT
        bits[name] = differing_rows(model, 1100, 506) if is_long else differing_rows(model)
        print(name, "rows with other bits, by rows per slot", bits[name], flush=True)
        with torch.inference_mode():
            texts[name] = equal_texts(model, repeating_prompts(CHECKED_PROMPTS, 480 if is_long else PROMPT_TOKENS))
        save(rows_with_other_bits=bits, equal_texts_of_random_models=texts)
    return bits


def encoded(texts: Iterable[str], encode: Any) -> list[list[int]]:
    """Return the first tokens of the texts that have enough of them."""
    tokens = [list(encode(text)) for text in texts]
    return [each[:PROMPT_TOKENS] for each in tokens if len(each) >= PROMPT_TOKENS]


def usual_speed(model: LanguageModel) -> dict[int, int]:
    """Return tokens per second without proposals as `bench generate` defines it: random prompts, top-k 50."""
    speeds, _ = measure_generation(model, GenerationWorkload(rounds=9))
    return {speed.batch: round(speed.tokens_per_second) for speed in speeds}


def speeds(run: Path | None, texts: Sequence[str], save: Any) -> list[dict[str, Any]]:
    """Measure all variants with a trained run, or with random weights; return the rows.

    Args:
        run: the run.
        texts: see `--prompts`.
        save: called with each part of the result.
    """
    if run:
        loaded = glassgpt.load(str(run), device="cuda")
        model, tokenizer = to_bfloat16(loaded.model), loaded.tokenizer
    else:
        model, tokenizer = random_model(), load_tokenizer("gpt2")
    prompts = encoded(texts, tokenizer.encode)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        save(trained=bool(run), model=model.config.arch, parameters=sum(p.numel() for p in model.parameters()))
        save(equal_texts=equal_texts(model, prompts[:CHECKED_PROMPTS]))
        for batch in (1, 8, 64):
            rows += timed(model, prompts, batch)
            save(rows=rows)
        save(without_proposals=usual_speed(model))
    return rows


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained run; without one, random weights")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="JSON list of texts like those it was trained on; without them only bits and texts are compared",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    result: dict[str, Any] = {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": {"gpu": torch.cuda.get_device_name()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
    }

    def save(**part: Any) -> None:
        result.update(part)
        write_atomically(chosen.out, (json.dumps(result, indent=2) + "\n").encode())

    bits = equality(save)
    rows = speeds(chosen.run, json.loads(chosen.prompts.read_text()), save) if chosen.prompts else []
    if any(n for each in bits.values() for width, n in each.items() if width != PLAIN):
        raise SystemExit("rows processed together have other bits")
    if any(row["different_texts"] for row in rows):
        raise SystemExit("the promise of equal texts is broken")


if __name__ == "__main__":
    main()
