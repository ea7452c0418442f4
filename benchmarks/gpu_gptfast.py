"""gpt-fast and glassgpt in turns on one GPU: the same Llama with the same random weights, batch 1, top-k 50.

gpt-fast's functions are compiled as its options --compile and --compile_prefill do; glassgpt is the engine with one slot.
Prompts are random, and calls that compile or capture graphs do not count. After the first token: for gpt-fast, the
difference between calls for all tokens and for two; for glassgpt, the tokens that arrive after those of the first launch.

    python benchmarks/gpu_gptfast.py GPT_FAST   # a checkout of https://github.com/meta-pytorch/gpt-fast
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import inspect
import json
import platform
import sys
import time
import types
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpu_parts.measure import Samples, compare
from glassgpt.data.files import write_atomically
from glassgpt.generation.bench import TOP_50, endless_tokenizer
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from gpu_parts.moments import later_rate, wait

RESULTS = Path(__file__).parent / "results" / "gpt-fast-gpu.json"
OURS, PEER = "glassgpt", "gpt-fast, compiled"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WHOLE, LATER = "whole call", "after the first token"
WARM_UPS = 3


@dataclass(frozen=True)
class Sizes:
    """Choices of what is measured: the model, tokens of a prompt, tokens that follow."""

    model: ModelConfig
    prompt: int = 64
    new: int = 256


LLAMA = ModelConfig(
    arch="llama", context_length=1024, bias=False, tied_head=False,
    n_layer=12, n_head=12, n_embd=768, n_inner=2048, vocab_size=50304,
)  # fmt: skip
FULL = Sizes(LLAMA)
SMALL = Sizes(replace(LLAMA, n_layer=2, n_head=2, n_embd=32, n_inner=64, vocab_size=512), prompt=16, new=24)


def modules_of(checkout: Path) -> tuple[Any, Any]:
    """Return gpt-fast's modules `generate` and `model`, without the tokenizers that it would import."""
    sys.path.insert(0, str(checkout))
    tokenizer: Any = types.ModuleType("tokenizer")
    tokenizer.get_tokenizer = None
    sys.modules["tokenizer"] = tokenizer
    return importlib.import_module("generate"), importlib.import_module("model")


def neighbors_first(weight: Tensor, heads: int) -> Tensor:
    """Reorder the outputs of q or k: gpt-fast rotates neighbors (0, 1), we rotate (0, half of the head)."""
    width_out, width = weight.shape
    return weight.view(heads, 2, width_out // heads // 2, width).transpose(1, 2).reshape(width_out, width)


def peer_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Return a Llama's weights under gpt-fast's names."""
    heads = model.config.n_head
    weights = {
        {"token_embedding.weight": "tok_embeddings.weight", "lm_head.weight": "output.weight"}.get(name, name): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("blocks.")
    }
    for number, block in enumerate(model.blocks):
        given: Any = block
        q, k = (neighbors_first(each.weight, heads) for each in (given.attention.q, given.attention.k))
        layer = {
            "attention.wqkv": torch.cat([q, k, given.attention.v.weight]), "attention.wo": given.attention.out.weight,
            "feed_forward.w1": given.mlp.gate.weight, "feed_forward.w3": given.mlp.up.weight,
            "feed_forward.w2": given.mlp.down.weight,
            "attention_norm": given.norm1.weight, "ffn_norm": given.norm2.weight,
        }  # fmt: skip
        weights |= {f"layers.{number}.{name}.weight": tensor.detach() for name, tensor in layer.items()}
    return weights


def peer_model(code: Any, model: LanguageModel) -> Any:
    """Return gpt-fast's model with the weights of ours, on the same device."""
    config = model.config
    sizes = code.ModelArgs(
        block_size=config.context_length, vocab_size=config.vocab_size, n_layer=config.n_layer, n_head=config.n_head,
        dim=config.n_embd, intermediate_size=config.n_inner, rope_base=config.rope_theta, norm_eps=config.norm_eps,
    )  # fmt: skip
    peer = code.Transformer(sizes).eval()
    peer.load_state_dict(peer_weights(model))
    return peer.to(DEVICE)


class Theirs:
    """gpt-fast's `generate`; a call returns the tokens and the seconds."""

    def __init__(self, code: Any, model: Any, *, compiled: bool) -> None:
        if compiled:
            code.decode_one_token = torch.compile(code.decode_one_token, mode="reduce-overhead", fullgraph=True)
            code.prefill = torch.compile(code.prefill, fullgraph=True, dynamic=True)
        self._generate, self._model = code.generate, model
        self._given: dict[str, Any] = {"interactive": False, "draft_model": None}
        if "batch_size" in inspect.signature(code.generate).parameters:
            self._given["batch_size"] = 1

    def __call__(self, prompt: Tensor, new: int, top_k: int = 50) -> tuple[list[int], float]:
        """Generate."""
        prompt = prompt.to(DEVICE)
        wait()
        start = time.perf_counter()
        text, _ = self._generate(self._model, prompt, new, temperature=1.0, top_k=top_k, **self._given)
        wait()
        return text.flatten()[prompt.numel() :].tolist(), time.perf_counter() - start

    def rates(self, prompt: Tensor, new: int) -> dict[str, float]:
        """Return tokens per second."""
        (_, whole), (_, two) = self(prompt, new), self(prompt, 2)
        return {WHOLE: new / whole, LATER: (new - 2) / (whole - two)}


class Ours:
    """An engine with one slot; a call returns the tokens and the seconds at which each arrived."""

    def __init__(self, model: LanguageModel, sizes: Sizes) -> None:
        self._engine = Engine(model, endless_tokenizer(model), slots=1, capacity=sizes.prompt + sizes.new)

    def __call__(self, prompt: Tensor, new: int, top_k: int = 50) -> tuple[list[int], list[float]]:
        """Generate."""
        wait()
        start, tokens, arrived = time.perf_counter(), [], []
        self._engine.submit(prompt.tolist(), replace(TOP_50, top_k=top_k, max_tokens=new, seed=0))
        while not self._engine.is_idle:
            for chunk in self._engine.step():
                tokens.append(chunk.token)
                arrived.append(time.perf_counter() - start)
        return tokens, arrived

    def rates(self, prompt: Tensor, new: int) -> dict[str, float]:
        """Return tokens per second."""
        _, arrived = self(prompt, new)
        return {WHOLE: new / arrived[-1], LATER: later_rate([arrived])}


def equal_tokens(theirs: Theirs, ours: Ours, prompt: Tensor, new: int) -> int:
    """Return how many greedy tokens are the same before the first other one; near ties part texts in bfloat16."""
    pairs = zip(theirs(prompt, new, top_k=1)[0], ours(prompt, new, top_k=1)[0], strict=True)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), new)


def random_prompt(sizes: Sizes, seed: int) -> Tensor:
    """Return the tokens of a prompt."""
    return torch.randint(sizes.model.vocab_size, (sizes.prompt,), generator=torch.Generator().manual_seed(seed))


def measure(theirs: Theirs, ours: Ours, sizes: Sizes, rounds: int) -> list[dict[str, Any]]:
    """Return the rows, after calls that do not count."""
    kept: dict[str, Samples] = {what: {PEER: [], OURS: []} for what in (WHOLE, LATER)}
    for number in range(WARM_UPS + rounds):
        prompt = random_prompt(sizes, number)
        for name, system in ((PEER, theirs), (OURS, ours)):
            for what, rate in system.rates(prompt, sizes.new).items():
                if number >= WARM_UPS:
                    kept[what][name].append(rate)
    part = f"batch 1, prompt {sizes.prompt}, {sizes.new} new tokens"
    return [asdict(row) for what, rates in kept.items() for row in compare(f"{part}, {what}", "tokens/s", rates, PEER)]


def about(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Return the conditions of the measurement."""
    return {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/gpu_gptfast.py GPT_FAST",
        "hardware": {"gpu": torch.cuda.get_device_name() if DEVICE == "cuda" else "none"},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": {**asdict(sizes), "rounds": rounds},
    }


def main() -> None:
    """Compare greedy tokens, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--no-compile", action="store_true", help="leave gpt-fast uncompiled")
    given = parser.parse_args()
    sizes = SMALL if given.small else FULL
    torch.manual_seed(0)
    exact = build_model(sizes.model).eval().to(DEVICE)
    code, shapes = modules_of(given.checkout)
    peer = peer_model(shapes, exact).to(torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    theirs = Theirs(code, peer, compiled=not given.no_compile)
    ours = Ours(prepare_for_decoding(exact) if DEVICE == "cuda" else exact, sizes)
    result = about(sizes, given.rounds)
    same = equal_tokens(theirs, ours, random_prompt(sizes, 0), sizes.new)
    result["agreement"] = {"greedy tokens that are the same before the first other one": same, "of": sizes.new}
    print(result["agreement"], flush=True)
    result["rows"] = measure(theirs, ours, sizes, given.rounds)
    for row in result["rows"]:
        print(row["part"], row["system"], round(row["figure"]), row["figure_spread"], flush=True)
    write_atomically(given.out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
