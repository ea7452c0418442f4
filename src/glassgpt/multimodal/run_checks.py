"""Checks of a model with encoders, on the data that it was trained on: does it use what it sees and hears, and equally?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.diagnosis.doctor import diagnose_dataset
from glassgpt.diagnosis.findings import CheckResult, Finding, Value
from glassgpt.multimodal.audio import AudioEncoder, encode_audio_readable
from glassgpt.multimodal.batches import EncodedDataset, EncodedTokens
from glassgpt.multimodal.data_checks import NAMES, diagnose_media
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.image import ImageEncoder, encode_image_readable
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.media import MediaItem, Modality
from glassgpt.multimodal.model import MultimodalModel, medium_id
from glassgpt.training.conversations import ConversationLoss

USES: dict[Modality, str] = {"image": "use of pictures", "audio": "use of sounds"}
MAX_POSITIONS = 16_384
"""Positions of the rows that a model reads with and without their own media."""
MIN_ROWS = 8
MIN_GAIN, MIN_SIGMAS = 0.01, 3.0
"""Share of the loss that its own medium must save, and that in standard errors over the rows."""
MAX_RATIO = 10.0
"""Most that the vectors of a modality may be longer or shorter than those of the text."""
MAX_DIFFERENCE = 1e-3
"""Relative to the largest value, how much an encoder may differ from its readable reference in float32."""


@diagnose_dataset.register
def _(dataset: MultimodalDataset) -> Iterator[CheckResult]:
    yield from diagnose_media(dataset)


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset.

    Attributes:
        inputs: (B, T, 1 + W) int64; see `batches.py`.
        targets: (B, T) int64.
    """

    inputs: Tensor
    targets: Tensor


def diagnose_encoders(model: MultimodalModel, dataset: EncodedDataset) -> Iterator[CheckResult]:
    """Yield what can be said of a trained model and its media.

    Args:
        model: in evaluation mode.
        dataset: what it was trained on.
    """
    rows = read_rows(dataset.split("validation"))
    present: list[Modality] = [
        name for name in model.multimodal.names if (rows.inputs[..., 0] == medium_id(name)).any()
    ]
    for modality in present:
        yield check_encoder(model, dataset, modality)
        yield check_use(model, rows, modality)
    if present:
        yield check_vector_lengths(model, rows)


def read_rows(tokens: EncodedTokens, most: int = MAX_POSITIONS) -> Rows:
    """Return evenly spaced rows of a split, of at most this many positions in all."""
    n_rows = len(tokens) // tokens.row_length
    chosen = np.unique(np.linspace(0, n_rows - 1, min(n_rows, max(1, most // tokens.row_length))).astype(np.int64))
    return Rows(*tokens.reader.read(chosen * tokens.row_length))


def check_encoder(model: MultimodalModel, dataset: EncodedDataset, modality: Modality) -> CheckResult:
    """Check that the vectors of a medium in a row are those of the readable reference: each patch in its place."""
    item = _first_item(dataset, modality)
    payload = payload_of(item, model.multimodal)
    ids = np.zeros(len(payload) + 2, dtype=np.int64)  # a begin token, the medium, and a token
    inputs = torch.from_numpy(assemble(ids, [(1, item, payload)], payload_words(model.multimodal)))
    with torch.no_grad():
        vectors = model.vectors(inputs[None].to(_device(model)))[0, 1:-1].float().cpu()
        reference = _reference(model, item)
    difference = float((vectors - reference).abs().max() / reference.abs().max().clamp(min=1e-12))
    findings: tuple[Finding, ...] = ()
    if not difference <= MAX_DIFFERENCE:  # NaN too
        findings = (
            Finding("GG-MED-010", "fatal", {"what": NAMES[modality], "difference": float(f"{difference:.2g}")}),
        )
    return CheckResult("encoder", modality, {"difference": difference, "positions": len(payload)}, findings)


def _first_item(dataset: EncodedDataset, modality: Modality) -> MediaItem:
    store = dataset.store
    return store.read(int(store.numbers(modality)[0]))


def _reference(model: MultimodalModel, item: MediaItem) -> Tensor:
    encoder = model.encoder(item.modality)
    device = _device(model)
    try:
        own = encoder.cpu()
        if isinstance(own, ImageEncoder):
            return encode_image_readable(own, np.array(item.data)).float()
        assert isinstance(own, AudioEncoder)
        return encode_audio_readable(own, np.array(item.data)).float()
    finally:
        encoder.to(device)


def check_use(model: MultimodalModel, rows: Rows, modality: Modality) -> CheckResult:
    """Measure what its own medium tells a model of each text, in comparison with the medium of another document."""
    has_any = (rows.inputs[..., 0] == medium_id(modality)).any(dim=1)
    own = Rows(rows.inputs[has_any], rows.targets[has_any])
    learned = int((own.targets >= 0).sum())
    count = len(own.targets)
    if count < MIN_ROWS or not learned:
        return CheckResult(USES[modality], "too few", {"count": count, "least": MIN_ROWS})
    exchanged = Rows(exchange_media(own.inputs, modality), own.targets)
    nats = _nats(model, own)
    gains = _nats(model, exchanged) - nats  # per row
    gain, loss = float(gains.sum()) / learned, float(nats.sum()) / learned
    error = float(gains.std(ddof=1)) * math.sqrt(count) / learned
    findings: tuple[Finding, ...] = ()
    if not (gain >= MIN_GAIN * loss and gain >= MIN_SIGMAS * error):
        values: dict[str, Value] = {"what": NAMES[modality], "gain": round(gain, 4), "loss": round(loss, 3)}
        findings = (Finding("GG-MED-008", "warning", values, 0.9),)
    return CheckResult(USES[modality], "gain", {"gain": gain, "error": error, "loss": loss}, findings)


def exchange_media(inputs: Tensor, modality: Modality) -> Tensor:
    """Return inputs (B, T, 1 + W) in which each medium of a modality is another one of them, cut or repeated to its length."""
    changed = inputs.clone()
    where = (inputs[..., 0] == medium_id(modality)).numpy()
    media = [(row, begin, end) for row in range(len(where)) for begin, end in _runs(where[row])]
    order = np.roll(np.random.default_rng(0).permutation(len(media)), 1)
    source = dict(zip(np.roll(order, 1).tolist(), order.tolist(), strict=True))  # a cycle: none stays where it is
    for number, (row, begin, end) in enumerate(media):
        from_row, first, last = media[source[number]]
        index = first + torch.arange(end - begin) % (last - first)
        changed[row, begin:end, 1:] = inputs[from_row, index, 1:]
    return changed


def _runs(where: NDArray[Any]) -> list[tuple[int, int]]:
    changes = np.flatnonzero(np.diff(np.pad(where.astype(np.int8), 1)))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def _nats(model: MultimodalModel, rows: Rows) -> NDArray[Any]:
    """Return the loss of each row in nats, summed over its learned tokens."""
    loss, device = ConversationLoss(model), _device(model)
    with torch.no_grad():
        pairs = zip(rows.inputs.split(1), rows.targets.split(1), strict=True)
        return np.array([loss(one.to(device), own.to(device)).item() * own.numel() for one, own in pairs])


def check_vector_lengths(model: MultimodalModel, rows: Rows) -> CheckResult:
    """Compare the norms of the vectors of media and text: those with much larger norms dominate the others.

    The gradients of the encoders do not show it, because each layer normalizes its input.
    """
    inputs = rows.inputs[:MIN_ROWS].to(_device(model))
    with torch.no_grad():
        squares = model.vectors(inputs).float().square().mean(dim=-1)  # (B, T)
    ids = inputs[..., 0]
    rms: dict[Modality, float] = {
        name: float(squares[ids == medium_id(name)].mean().sqrt()) for name in model.multimodal.names
    }
    text = float(squares[ids >= 0].mean().sqrt())
    ratios: dict[Modality, float] = {name: found / text for name, found in rms.items() if not math.isnan(found)}
    findings = tuple(
        Finding("GG-MED-009", "warning", {"what": NAMES[name], "ratio": float(f"{ratio:.3g}")}, 0.8)
        for name, ratio in ratios.items()
        if not 1 / MAX_RATIO <= ratio <= MAX_RATIO
    )
    values: dict[str, Value] = {"image": ratios.get("image", 0.0), "audio": ratios.get("audio", 0.0)}
    return CheckResult("lengths of vectors", "ratios", values, findings)


def _device(model: MultimodalModel) -> torch.device:
    return next(model.parameters()).device
