"""Rows with pictures on a GPU, for `gpu_multimodal.py`: exactness of attention to packed rows, and models in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config
from glassgpt.data.shards import TokenArray
from glassgpt.model.attention import attend, attend_readable
from glassgpt.model.build import build_model
from glassgpt.model.flex_attention import FlexAttention
from glassgpt.model.packed import PackedLimits, PackedRows
from glassgpt.multimodal.batches import EncodedTokens, Payloads
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.dataset import MEDIA, PLACE, STARTS, SUPERVISED, MultimodalTokens
from glassgpt.multimodal.media import Geometry, MediaItem
from glassgpt.multimodal.weights import with_encoders
from glassgpt.training.bench import random_tokens
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware, resolve_hardware
from glassgpt.training.step import TrainStep

Row = dict[str, Any]
PRESET = "multimodal-124m"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
YARDSTICK = "PyTorch's kernel with a dense mask"
CAPTION = (4, 24)
"""Fewest and most tokens of a caption, drawn evenly."""
N_PICTURES = 20_000
STEP_POSITIONS, PASS_POSITIONS = 65_536, 32_768


@dataclass(frozen=True)
class Case:
    """Attention to packed rows, of one shape.

    Attributes:
        dtype: of q, k and v.
        heads: H.
        kv_heads: K.
        width: D.
        window: see `AttentionFunction`.
        sinks: see `AttentionFunction`.
        bidirectional: whether positions of pictures see all of their picture.
        n_tokens: T.
    """

    dtype: torch.dtype
    heads: int
    kv_heads: int
    width: int
    window: int
    sinks: int
    bidirectional: bool
    n_tokens: int

    def describe(self) -> Row:
        """Return the shape as JSON."""
        return {**vars(self), "dtype": str(self.dtype).removeprefix("torch.")}

    def compare(self) -> Row:
        """Return the relative errors of both implementations, and of their gradients, against double precision."""
        generator = torch.Generator(DEVICE).manual_seed(0)

        def drawn(heads: int) -> Tensor:
            return torch.randn(2, heads, self.n_tokens, self.width, device=DEVICE, generator=generator).to(self.dtype)

        given, gradient = [drawn(heads) for heads in (self.heads, self.kv_heads, self.kv_heads)], drawn(self.heads)
        starts, media = (part.to(DEVICE) for part in random_rows(2, self.n_tokens))
        reach, kinds = (self.window, self.sinks), (starts, media if self.bidirectional else None)
        exact = [x.double().requires_grad_() for x in given]
        expected = attend_readable(exact[0], exact[1], exact[2], PackedRows(*kinds).mask(*reach), 0.0)
        wanted = [expected, *torch.autograd.grad(expected, exact, gradient.double())]
        flex = FlexAttention(attend)

        def by_flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return flex(q, k, v, PackedLimits(*kinds).mask(*reach), 0.0, *reach)

        def by_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, k, v, PackedRows(*kinds).mask(*reach), 0.0)

        functions: dict[str, Callable[..., Tensor]] = {YARDSTICK: by_mask}
        if DEVICE.type == "cuda":  # FlexAttention has no backward pass on a CPU
            torch.compiler.reset()
            functions["FlexAttention"] = torch.compile(by_flex, dynamic=False)
        errors: Row = {}
        for name, function in functions.items():
            inputs = [x.detach().clone().requires_grad_() for x in given]
            mixed = function(*inputs)
            found = [mixed, *torch.autograd.grad(mixed, inputs, gradient)]
            pairs = zip(("output", "dq", "dk", "dv"), found, wanted, strict=True)
            errors[name] = {key: ((one.double() - other).norm() / other.norm()).item() for key, one, other in pairs}
        return {"errors": errors}


def agreement_cases(small: bool) -> Iterator[Case]:
    """Yield shapes with and without shared keys, windows, sinks, and pictures that see all of themselves."""
    for dtype in (torch.float32,) if small else (torch.bfloat16, torch.float32):
        for heads, kv_heads, width in ((6, 6, 128), (4, 2, 64)):
            for window, sinks, bidirectional in ((0, 0, False), (0, 0, True), (50, 0, True), (50, 4, False)):
                yield Case(dtype, heads, kv_heads, width, window, sinks, bidirectional, 256 if small else 1024)


def random_rows(rows: int, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return where documents start and where pictures are, (B, T) bool each; a row begins with a document."""
    random = np.random.default_rng(0)
    starts, media = np.zeros((2, rows, n_tokens), dtype=bool)
    for row in range(rows):
        at = 0
        while at < n_tokens:
            picture, text = random.integers(1, n_tokens // 3, 2).tolist()
            starts[row, at], media[row, at + 2 : at + 2 + picture] = True, True
            at += 2 + picture + text
    return torch.from_numpy(starts), torch.from_numpy(media)


class _Pictures:
    """Random pictures in memory, in the place of a `MediaStore`."""

    def __init__(self, count: int, size: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    def read(self, number: int) -> MediaItem:
        return MediaItem("image", self._pixels[number])


def captioned_pictures(
    geometry: Geometry, row_length: int, vocabulary: int, n_rows: int, n_pictures: int
) -> MultimodalTokens:
    """Return packed rows of documents of a random picture and a caption of random tokens."""
    random = np.random.default_rng(0)
    ids = random.integers(vocabulary, size=(n_rows, row_length), dtype=np.uint16)
    flags = np.zeros((n_rows, row_length), dtype=np.uint8)
    places: list[tuple[int, int]] = []
    positions = geometry.image_positions
    for row in range(n_rows):
        at = 0
        while at + 2 + positions + CAPTION[0] + 1 <= row_length:
            flags[row, at] = STARTS
            places.append((row * row_length + at + 1, len(places) % n_pictures))
            begin, end = at + 2, at + 2 + positions
            flags[row, begin:end] = MEDIA
            at = min(row_length, end + int(random.integers(*CAPTION, endpoint=True)) + 1)
            flags[row, end:at] = SUPERVISED
        flags[row, at : at + 1] = STARTS  # of the padding
    store: Any = _Pictures(n_pictures, geometry.image_size)
    share = float((flags & SUPERVISED > 0).sum()) / (n_rows * (row_length - 1))
    return MultimodalTokens(
        TokenArray([ids.ravel()]), flags.ravel(), np.array(places, dtype=PLACE), store, row_length, share
    )


PICTURES: dict[str, str] = {"multimodal.attention": "causal"}
VARIANTS: dict[str, dict[str, str]] = {
    "text": {},
    "pictures": PICTURES,
    "pictures, bidirectional": {"multimodal.attention": "bidirectional"},
    "pictures, dense masks": PICTURES,
    "pictures, not augmented": {**PICTURES, "multimodal.augment_image": "0", "multimodal.restyle_image": "0"},
    "pictures of 64 pixels": PICTURES,
}
"""Settings by name; pictures of 32 pixels in patches of 4 unless the name says otherwise."""
GEOMETRY = {"image_size": 32, "patch_size": 4}


@dataclass
class Training:
    """A model in training.

    Attributes:
        name: of the variant.
        config: its settings.
        step: trains it.
        first_seconds: of the first step, which compiles.
        times: milliseconds of a step, one per round.
        supervised_share: share of the positions whose next token is learned.
    """

    name: str
    config: RunConfig
    step: TrainStep
    supervised_share: float = 1.0
    first_seconds: float = 0.0
    times: list[float] = field(default_factory=list)


def build(name: str, context: int, small: bool) -> Training:
    """Return a variant of the preset in training, on random data."""
    config = load_config(PRESET, {**_sizes(context, small), **VARIANTS[name], "train.deterministic": "off"})
    length = config.model.context_length
    tokens, share = random_tokens(config.model.vocab_size, 2 * config.train.batch_tokens + length + 1), 1.0
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    if name != "text":
        geometry = Geometry(**({} if "64" in name else GEOMETRY))
        media: MultimodalConfig = config.multimodal.fitted(("image",), geometry)
        model = with_encoders(model, media)
        counts = (8, 40) if small else (640, N_PICTURES)
        rows = captioned_pictures(geometry, length + 1, config.model.vocab_size, *counts)
        tokens, share = EncodedTokens(rows, Payloads(media)), rows.supervised_share
    hardware = resolve_hardware(config.train)
    with _without_flex() if "dense" in name else nullcontext():
        step = TrainStep(model, tokens, trainer_config(config), hardware, DistributedContext())
    step.model.train()
    return Training(name, config, step, share)


def _without_flex() -> AbstractContextManager[object]:
    """Context manager in which attention to packed rows is by dense masks, as it was before."""
    original = Hardware.attention
    return mock.patch.object(Hardware, "attention", lambda self, model, *, packed=False: original(self, model))


def _sizes(context: int, small: bool) -> dict[str, str]:
    if small:
        return {"model.n_layer": "1", "model.n_embd": "32", "model.n_head": "2", "model.context_length": "256", "model.vocab_size": "512",
                "train.batch_tokens": "512", "train.micro_batch_size": "1", "train.sequence_length": "256"}  # fmt: skip
    return {"model.context_length": str(context), "train.batch_tokens": str(STEP_POSITIONS),
            "train.micro_batch_size": str(max(1, PASS_POSITIONS // context))}  # fmt: skip
