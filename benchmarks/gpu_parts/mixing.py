"""Kinds of attention side by side, for `gpu_attention.py`: exactness, time of the kernel and of a step, loss."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glassgpt.api.training_speed import bench_train
from glassgpt.config import load_config
from glassgpt.model import gated_deltanet
from glassgpt.model.attention import attend, attend_readable
from glassgpt.model.build import build_model
from glassgpt.model.delta_rule import delta_rule, delta_rule_by_chunk, delta_rule_by_token
from glassgpt.training.hardware import Hardware
from gpu_parts import runs
from gpu_parts.moments import milliseconds, seconds_of
from gpu_parts.windows import (
    FLEX_TRIALS,
    KERNELS,
    attend_by_cudnn,
    flash_windows,
    flex_function,
    flex_windows,
    has_cudnn_windows,
    use_kernel,
)

Row = dict[str, Any]
Function = Callable[[Tensor, Tensor, Tensor], Tensor]
YARDSTICK = "full, PyTorch's kernel"
WINDOW = 512
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
PRESET = "textbooks-124m-fast"
STEP_TOKENS = 65_536
LOSS_STEPS = 300


def windows(pattern: str, size: int = WINDOW) -> dict[str, str]:
    """Return the settings of a windowed model."""
    return {"model.window": str(size), "model.window_pattern": pattern}


# Convolutions and rates are new vectors; a tenth of the matrices' rate is AdamW's usual one.
LINEAR = {"model.arch": "gated_deltanet", "optimizer.vector_rate_ratio": "0.1"}
VARIANTS: dict[str, dict[str, str]] = {
    "full": {},
    "windows SSSL": windows("SSSL"),
    "windows S": windows("S"),
    **{f"windows SSSL, {kernel}": windows("SSSL") for kernel in KERNELS},
    "gated deltanet": LINEAR,
    "gated deltanet, compiled as a whole": LINEAR,
}
"""Settings by name of the variant."""


@contextlib.contextmanager
def best_kernels(device: torch.device) -> Generator[None]:
    """Let PyTorch's attention try cuDNN first, as training does."""
    with Hardware(device, "bf16", compile=True).kernels():
        yield


@dataclass(frozen=True)
class Case:
    """Attention alone, of one shape.

    Attributes:
        name: of the implementation.
        function: takes q, k and v; compiled before it is used.
        n_tokens: T.
        n_head: H.
        head_width: D.
        window: 0 means all.
        sinks: first positions that are always seen.
        dtype: of q, k and v.
        batch: B.
    """

    name: str
    function: Function
    n_tokens: int
    n_head: int
    head_width: int
    window: int = 0
    sinks: int = 0
    dtype: torch.dtype = torch.bfloat16
    batch: int = 1

    def describe(self) -> Row:
        """Return the shape as JSON."""
        row = {name: value for name, value in asdict(self).items() if name not in ("function", "dtype")}
        return {**row, "dtype": str(self.dtype).removeprefix("torch.")}

    def _inputs(self) -> list[Tensor]:
        generator = torch.Generator(DEVICE).manual_seed(0)
        shape = (self.batch, self.n_head, self.n_tokens, self.head_width)
        return [torch.randn(shape, device=DEVICE, generator=generator, dtype=torch.float32) for _ in range(4)]

    def compare(self) -> Row:
        """Return the relative errors of the result and its three gradients, and the largest single one."""
        *given, gradient = (x.to(self.dtype) for x in self._inputs())
        exact = [x.double().requires_grad_() for x in given]
        expected = attend_readable(exact[0], exact[1], exact[2], None, 0.0, self.window, self.sinks)
        wanted = [expected, *torch.autograd.grad(expected, exact, gradient.double())]
        inputs = [x.requires_grad_() for x in given]
        torch.compiler.reset()  # or the functions of all cases, which share their code, exceed the limit of recompilations
        with best_kernels(DEVICE):
            mixed = torch.compile(self.function, dynamic=False)(*inputs)
            found = [mixed, *torch.autograd.grad(mixed, inputs, gradient)]
        pairs = zip(("output", "dq", "dk", "dv"), found, wanted, strict=True)
        return {"errors": {name: ((one.double() - other).norm() / other.norm()).item() for name, one, other in pairs}}

    def time(self) -> Row:
        """Return the median milliseconds of a pass, and of a pass and its gradients."""
        *given, gradient = (x.to(self.dtype) for x in self._inputs())
        inputs = [x.requires_grad_() for x in given]
        torch.compiler.reset()
        function = torch.compile(self.function, dynamic=False)
        with best_kernels(DEVICE):
            forward = milliseconds(lambda: function(*inputs))
            both = milliseconds(lambda: torch.autograd.grad(function(*inputs), inputs, gradient))
        return {"forward_ms": forward, "forward_backward_ms": both}


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend(q, k, v, None, 0.0)


def agreement_cases(small: bool) -> Iterator[Case]:
    """Yield every implementation in both precisions, with windows that are and are not multiples of a block."""
    n_tokens, dtypes = (256, [torch.float32]) if small else (2048, [torch.bfloat16, torch.float32])
    for dtype in dtypes:
        for heads, width in ((2, 128), (4, 64)):
            shape: Row = {"n_tokens": n_tokens, "n_head": heads, "head_width": width, "dtype": dtype, "batch": 2}
            yield Case(YARDSTICK, _full, **shape)
            for window, sinks in ((n_tokens // 4, 0), (n_tokens // 4 - 39, 0), (n_tokens // 8, 4)):
                seen: Row = {**shape, "window": window, "sinks": sinks}
                if not small:  # FlexAttention has no backward pass on a CPU
                    yield Case("FlexAttention", lambda q, k, v, w=window, s=sinks: flex_windows(q, k, v, w, s), **seen)
                    if not sinks and dtype == torch.bfloat16:
                        yield Case("FlashAttention-2", lambda q, k, v, w=window: flash_windows(q, k, v, w), **seen)
                        if has_cudnn_windows():
                            yield Case("cuDNN", lambda q, k, v, w=window: attend_by_cudnn(q, k, v, w), **seen)
                yield Case("in chunks", lambda q, k, v, w=window, s=sinks: attend(q, k, v, None, 0.0, w, s), **seen)


def delta_rule_cases(small: bool) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the forms of the gated delta rule, compared with the one by token in double precision."""
    widths = (16,) if small else (64, 128)
    for width in widths:
        for dtype in (torch.float32, torch.bfloat16):
            for name, form in DELTA_RULES.items():
                row = {"name": name, "head_width": width, "dtype": str(dtype).removeprefix("torch.")}
                n_tokens = 150 if small else 1000
                yield row, lambda f=form, w=width, d=dtype, n=n_tokens: _compare_delta_rule(f, w, d, n)


def _compare_delta_rule(form: Callable[..., Any], width: int, dtype: torch.dtype, n_tokens: int) -> Row:
    generator = torch.Generator(DEVICE).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, generator=generator)

    q, v = drawn(2, n_tokens, 4, width).to(dtype), drawn(2, n_tokens, 4, width).to(dtype)
    k = torch.nn.functional.normalize(drawn(2, n_tokens, 4, width), dim=-1).to(dtype)
    decay = -torch.nn.functional.softplus(drawn(2, n_tokens, 4) - 3)
    beta, state = drawn(2, n_tokens, 4).sigmoid().to(dtype), drawn(2, 4, width, width)
    gradients = drawn(2, n_tokens, 4, width).to(dtype), drawn(2, 4, width, width)
    results: list[list[Tensor]] = []
    for function, kind in ((_delta_rule_in_double, torch.float64), (form, None)):
        inputs = [(x if kind is None else x.to(kind)).detach().requires_grad_() for x in (q, k, v, decay, beta, state)]
        outputs = function(*inputs)
        wanted = [gradient.to(output.dtype) for gradient, output in zip(gradients, outputs, strict=True)]
        results.append([*outputs, *torch.autograd.grad(outputs, inputs, wanted)])
    names = ("output", "state", "dq", "dk", "dv", "ddecay", "dbeta", "dstate")
    pairs = zip(names, *results, strict=True)
    return {"errors": {name: ((one - exact).norm() / exact.norm()).item() for name, exact, one in pairs}}


def _delta_rule_in_double(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    outputs: list[Tensor] = []
    for t in range(q.size(1)):
        query, key, value = (x[:, t].unsqueeze(-2) for x in (q, k, v))
        state = decay[:, t].exp()[..., None, None] * state
        state = state + key.mT @ (beta[:, t][..., None, None] * (value - key @ state))
        outputs.append((query @ state).squeeze(-2) / q.size(-1) ** 0.5)
    return torch.stack(outputs, dim=1), state


DELTA_RULES: dict[str, Callable[..., Any]] = {
    "by token": delta_rule_by_token,
    "by chunk": delta_rule_by_chunk,
    "flash-linear-attention": delta_rule,
}


def trust_kernels() -> None:
    """Let training use flash-linear-attention's backward pass with every version of Triton."""
    import fla.ops.common.chunk_o as kernels  # pyright: ignore[reportMissingImports]

    kernels.TRITON_ABOVE_3_7_1 = True
    gated_deltanet.triton_without_gradients = lambda: ""


def decode_cases(only: Sequence[str], contexts: Sequence[int], small: bool) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield a row and its measurement for each context and variant: memory of the cache, tokens per second."""
    for context in contexts:
        for name in only:
            overrides = {**sizes_at(context, small), **settings_of(name, small), "model.vocab_size": "50304"}
            yield {"variant": name, "context": context}, lambda o=overrides: _decode(o, small)


@torch.inference_mode()
def _decode(overrides: dict[str, str], small: bool) -> Row:
    """Read a prompt that fills all but a few positions of the context, then decode 8 sequences token by token."""
    config = load_config(PRESET, overrides).model
    slots, steps = 8, 4 if small else 32
    model = build_model(config).to(DEVICE, torch.float32 if small else torch.bfloat16).eval()
    before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
    cache = model.new_cache(slots, config.context_length)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    prompt = torch.randint(50_000, (slots, config.context_length - 2 * steps - 8), device=DEVICE)
    for chunk in prompt.split(512, dim=1):
        model.features(chunk, cache)
    row: Row = {"cache_bytes": cache.n_bytes, "slots": slots}
    if DEVICE.type == "cuda":
        row["peak_bytes_beyond_weights"] = torch.cuda.max_memory_allocated() - before
    token = torch.zeros(slots, 1, dtype=torch.long, device=DEVICE)
    for _ in range(8):
        model(token, cache)
    times = [1e3 * seconds_of(lambda: model(token, cache)) for _ in range(steps)]
    row["step_ms"] = round(statistics.median(times), 4)
    return {**row, "tokens_per_second": round(1e3 * slots / statistics.median(times), 1)}


def kernel_cases(contexts: Sequence[int], small: bool) -> Iterator[Case]:
    """Yield full attention and windows of 512 with 65,536 tokens in all, for two widths of heads."""
    for heads, width in ((6, 128), (12, 64)):
        for context in [256] if small else contexts:
            batch = 1 if small else max(1, STEP_TOKENS // context)
            shape: Row = {"n_tokens": context, "n_head": heads, "head_width": width, "batch": batch}
            if small:
                shape["dtype"] = torch.float32
            window = context // 4 if small else WINDOW
            yield Case("full", _full, **shape)
            if not small:
                yield Case("FlexAttention", lambda q, k, v: flex_windows(q, k, v, WINDOW), **shape, window=window)
                for name, kernel in KERNELS.items():
                    if name != "cuDNN" or has_cudnn_windows():
                        yield Case(name, lambda q, k, v, f=kernel: f(q, k, v, WINDOW), **shape, window=window)
                for options in FLEX_TRIALS if width == 128 else ():
                    name = f"FlexAttention {json.dumps(options)}"
                    yield Case(name, flex_function(options, WINDOW), **shape, window=window)
            if context <= 4096:
                yield Case("in chunks", lambda q, k, v, w=window: attend(q, k, v, None, 0.0, w), **shape, window=window)


def step_cases(only: Sequence[str], contexts: Sequence[int], small: bool) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield a row and its measurement for each context and variant: a step of 65,536 tokens."""
    for context in contexts:
        for name in only:
            overrides = {**sizes_at(context, small), **settings_of(name, small)}
            yield {"variant": name, "context": context}, lambda n=name, o=overrides: _step(n, o, small)


def _step(name: str, overrides: dict[str, str], small: bool) -> Row:
    torch.compiler.reset()
    with use_kernel(name):
        speed = bench_train(load_config(PRESET, overrides), steps=2 if small else 12)
    found = speed.to_json()
    kept = ("step_ms", "step_ms_spread", "tokens_per_second", "peak_memory_bytes", "first_step_seconds", "attention")
    return {key: found[key] for key in kept}


def loss_cases(
    only: Sequence[str], data: Path, seeds: Sequence[int], small: bool
) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield a row and its measurement for each seed and variant: training at a context of 4,096 on equal tokens."""
    for seed in seeds:
        for name in only:
            overrides = {**sizes_at(4096, small), **settings_of(name, small), "data": str(data), "seed": str(seed)}
            overrides |= {"train.max_steps": "6" if small else str(LOSS_STEPS), "checkpoint.keep_best": "false"}
            yield {"variant": name, "seed": seed}, lambda n=name, o=overrides: _loss(n, o)


def _loss(name: str, overrides: dict[str, str]) -> Row:
    torch.compiler.reset()
    with use_kernel(name):  # validated on the GPU; a run that is loaded later would be evaluated on the CPU
        clock, _ = runs.train_once(PRESET, {"train.eval_tokens": "0", "train.eval_every_steps": "0", **overrides})
    last = clock.points[-1]
    return {"nats_per_token": round(last.loss, 4), "steps": last.step, "step_ms": round(clock.step_ms, 2)}


def settings_of(name: str, small: bool) -> dict[str, str]:
    """Return the settings of a variant."""
    window = {"model.window": "16"} if small and "model.window" in VARIANTS[name] else {}
    return {**VARIANTS[name], **window}


def sizes_at(context: int, small: bool) -> dict[str, str]:
    """Settings of a step at a context; several sequences per pass where they fit into memory for certain."""
    sizes = {"model.context_length": str(context), "train.batch_tokens": str(STEP_TOKENS)}
    sizes["train.micro_batch_size"] = str(max(1, 32_768 // context))
    if small:
        sizes |= {"model.n_layer": "4", "model.n_embd": "32", "model.n_head": "2", "model.context_length": "64"}
        sizes |= {"train.batch_tokens": "128", "train.micro_batch_size": "1"}
    return sizes
