"""The products of Muon's iterations by PyTorch and by the kernel of `HopperMuon`: errors, times, and what a step gains."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from glassgpt.config import load_config
from glassgpt.model.build import build_model
from glassgpt.training.hopper_muon import Tile, reference, symmetric_product
from glassgpt.training.muon import POLAR_EXPRESS, SAFETY, orthogonalize
from gpu_parts.moments import HAS_GPU, Moment, wait

STEP_MS = {"textbooks-124m": 126.0, "textbooks-124m-fast": 67.0, "textbooks-fast": 22.2}
"""Milliseconds of a whole step on an H200 (docs/log.md); the first by its 7.6 ms and 1.81 µs per token."""
REPEATS = 10 if HAS_GPU else 1
"""Times that a CUDA graph runs what is timed."""
TILES = (Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 4), Tile(128, 128, 8, 2), Tile(64, 128, 4, 3))
SMALL_TILES = (Tile(16, 16, 4, 1), Tile(16, 32, 4, 1))
TRIED = TILES if HAS_GPU else SMALL_TILES
DEVICE, DTYPE = ("cuda", torch.bfloat16) if HAS_GPU else ("cpu", torch.float16)  # Triton's interpreter lacks bfloat16
Row = dict[str, Any]


class Product(Protocol):
    """Returns alpha · X Xᵀ + beta · added; see `hopper_muon.reference`."""

    def __call__(self, x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 0.0, /) -> Tensor: ...


class Stack(NamedTuple):
    """The size of matrices that Muon orthogonalizes together."""

    matrices: int
    rows: int
    columns: int


def compare_products(rounds: int) -> Row:
    """Compare the products for each stack of matrices of the presets; return a row of each and the gain of each preset."""
    stacks = {preset: stacks_of(preset) for preset in STEP_MS}
    rows: dict[Stack, Row] = {}
    for stack in dict.fromkeys(stack for each in stacks.values() for stack in each):
        rows[stack] = compare_stack(stack, rounds)
        print(json.dumps(rows[stack]), flush=True)
    gains = {preset: gain([rows[stack] for stack in each], STEP_MS[preset]) for preset, each in stacks.items()}
    print(json.dumps(gains, indent=1), flush=True)
    return {"rows": list(rows.values()), "gains": gains}


def stacks_of(preset: str) -> list[Stack]:
    """Return the stacks of a preset's matrices; without a GPU at most two matrices of a 24th of their size."""
    with torch.device("meta"):
        model = build_model(load_config(preset, {}).model)
    kinds = model.parameter_kinds()
    counts = Counter(tuple(each.shape) for name, each in model.named_parameters() if kinds[name] == "matrix")
    if not HAS_GPU:  # whole tiles of SMALL_TILES
        return [Stack(min(count, 2), rows // 24, columns // 24) for (rows, columns), count in counts.items()]
    return [Stack(count, rows, columns) for (rows, columns), count in counts.items()]


def compare_stack(stack: Stack, rounds: int) -> Row:
    """Compare each product alone, with all tiles, then the orthogonalization with the fastest tile of each product."""
    matrices = torch.randn(stack, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0)).to(DTYPE)
    x = normalized(matrices)
    a, b, c = POLAR_EXPRESS[0]
    gram = reference(x)
    gram_row = compare_product(x, None, 1.0, 0.0, rounds)
    square_row = compare_product(gram, gram, c, b, rounds)
    update = time_in_turns({"torch": partial(torch.baddbmm, x, gram, x, beta=a)}, rounds)["torch"]
    gram_tile, square_tile = (min(TRIED, key=lambda tile: row[_name(tile)]["ms"]) for row in (gram_row, square_row))
    by_kernel = partial(symmetric_product, tile=gram_tile), partial(symmetric_product, tile=square_tile)
    ways: dict[str, Callable[[], Tensor]] = {
        "compiled": partial(torch.compile(orthogonalize, dynamic=False) if HAS_GPU else orthogonalize, matrices),
        "baddbmm": partial(orthogonalize_by, reference, reference, matrices),
        "symmetric": partial(orthogonalize_by, *by_kernel, matrices),
    }
    exact = orthogonalize_by(reference, reference, matrices.double())
    whole = compare_ways(ways, exact, rounds)
    return {"stack": stack, "gram": gram_row, "square": square_row, "update": update, "orthogonalize": whole}


def compare_product(x: Tensor, added: Tensor | None, alpha: float, beta: float, rounds: int) -> Row:
    """Compare a product by PyTorch and by the kernel with each tile; TFLOP/s are those of the whole product."""
    ways: dict[str, Callable[[], Tensor]] = {"torch": partial(reference, x, added, alpha, beta)}
    ways |= {_name(tile): partial(symmetric_product, x, added, alpha, beta, tile=tile) for tile in TRIED}
    exact = reference(x.double(), None if added is None else added.double(), alpha, beta)
    row = compare_ways(ways, exact, rounds)
    for name, work in ways.items():
        row[name]["tflops"] = round(2e-9 * x.size(1) * x.numel() / row[name]["ms"], 1)
        row[name]["symmetric"] = torch.equal(found := work(), found.mT)
    return row


def compare_ways(ways: Mapping[str, Callable[[], Tensor]], exact: Tensor, rounds: int) -> dict[str, Row]:
    """Return the times of each way, and the norm of its error over that of the exact result."""
    errors = {name: ((work().double() - exact).norm() / exact.norm()).item() for name, work in ways.items()}
    return {name: {**times, "error": errors[name]} for name, times in time_in_turns(ways, rounds).items()}


def normalized(matrices: Tensor) -> Tensor:
    """Return X of the first iteration, with the strides that it has in `orthogonalize`."""
    x = matrices.mT if matrices.size(1) > matrices.size(2) else matrices
    return x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)


def orthogonalize_by(gram_product: Product, square_product: Product, matrices: Tensor) -> Tensor:
    """Do what `orthogonalize` does with other products, in the precision of the matrices (N, rows, columns)."""
    x = normalized(matrices)
    for a, b, c in POLAR_EXPRESS:
        gram = gram_product(x)
        x = torch.baddbmm(x, square_product(gram, gram, c, b), x, beta=a)
    return x if x.shape == matrices.shape else x.mT


def time_in_turns(ways: Mapping[str, Callable[[], Tensor]], rounds: int) -> dict[str, Row]:
    """Return the median, least and most milliseconds of each way; in each round they run one after the other."""
    replays = {name: _replayable(work) for name, work in ways.items()}
    taken: dict[str, list[tuple[Moment, Moment]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, replay in replays.items():
            replay()  # afterwards the cache holds what this way leaves in it
            began = Moment()
            replay()
            taken[name].append((began, Moment()))
    wait()
    times = {name: [1e3 * began.until(ended) / REPEATS for began, ended in each] for name, each in taken.items()}
    return {name: _summary(each) for name, each in times.items()}


def _summary(ms: Sequence[float]) -> Row:
    return {"ms": round(statistics.median(ms), 4), "least_most": [round(min(ms), 4), round(max(ms), 4)]}


def _replayable(work: Callable[[], Tensor]) -> Callable[[], object]:
    """Return a function that does the work `REPEATS` times, on a GPU by a CUDA graph: the host's time does not count."""
    work()  # compiles
    wait()
    if not HAS_GPU:
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            work()
    return graph.replay


def gain(rows: Sequence[Row], step_ms: float) -> Row:
    """Return the milliseconds of a step's orthogonalizations, and what a step gains over the compiled ones."""
    ways = ("compiled", "baddbmm", "symmetric")
    taken = {way: sum(row["orthogonalize"][way]["ms"] for row in rows) for way in ways}
    saved = {way: taken["compiled"] - taken[way] for way in ways[1:]}
    return {
        "ms": {way: round(ms, 3) for way, ms in taken.items()},
        "saved_ms": {way: round(ms, 3) for way, ms in saved.items()},
        "saved_percent_of_step": {way: round(100 * ms / step_ms, 2) for way, ms in saved.items()},
        "step_ms": step_ms,
    }


def _name(tile: Tile) -> str:
    return "x".join(map(str, tile))
