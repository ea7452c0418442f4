"""Faults of datasets with media: each is a function that writes a dataset in a folder. Shared by tests and the fault suite."""

import dataclasses
from hashlib import sha256
from pathlib import Path

import numpy as np
from multimodal_helpers import GEOMETRY, document, picture, sound, write
from named_media import NAMES, named_documents, noisy

from glassgpt.multimodal.dataset import MULTIMODAL_FILE, PLACE, MultimodalDataset, places_file
from glassgpt.multimodal.documents import Document, StoredMedium, Turn
from glassgpt.multimodal.media import MediaItem


def healthy(folder: Path) -> Path:
    write(folder, named_documents)
    return folder


def positions_off_by_one(folder: Path) -> Path:
    """Move every medium of the training split to the position before its own, and its checksum with it."""
    write(folder, named_documents)
    path = folder / places_file("train")
    places = np.fromfile(path, PLACE)
    places["begin"] -= 1
    path.write_bytes(places.tobytes())
    summary = MultimodalDataset.open(folder).multimodal
    files = {**summary.files, path.name: sha256(path.read_bytes()).hexdigest()}
    (folder / MULTIMODAL_FILE).write_text(dataclasses.replace(summary, files=files).to_json())
    return folder


def _with(text=None, item=None, prompt=None):
    """Return a function that makes documents; each argument is a function of the document's number and its usual value."""

    def documents(media):
        made = []
        for seed in range(100):
            kind = seed % 2
            usual = noisy(picture(kind), seed, 9) if seed % 4 < 2 else noisy(sound(kind, 700 + seed), seed, 300)
            medium = item(seed, usual) if item else usual
            own = text(seed, NAMES[kind]) if text else NAMES[kind]
            stored = StoredMedium(medium.modality, media.add(medium, f"{seed}"), GEOMETRY.positions(medium))
            question = prompt(seed, own) if prompt else "what is this?"
            made.append(Document((Turn((stored, question), learned=False), Turn((own,))), f"{seed}"))
        return made[:80], made[80:]

    return documents


def _writer(**changes):
    def make(folder: Path) -> Path:
        write(folder, _with(**changes))
        return folder

    return make


def _low_rate(seed: int, usual: MediaItem) -> MediaItem:
    """Return sounds as if they had been recorded at half the rate."""
    from glassgpt.multimodal.audio_files import resample

    if usual.modality == "image":
        return usual
    samples = resample(usual.data[::2].astype(np.float64), GEOMETRY.rate // 2, GEOMETRY.rate)
    return usual._replace(data=np.round(samples).clip(-32768, 32767).astype(np.int16))


def shared_media(folder: Path) -> Path:
    def documents(media):
        train, _ = named_documents(media)
        return train, train[:20]

    write(folder, documents)
    return folder


prompted = _writer()
equal_texts = _writer(text=lambda seed, usual: "a picture")
leaked = _writer(prompt=lambda seed, own: f"{own.replace(' ', '_')}.png shows {own}; what is this?")
choices = _writer(prompt=lambda seed, own: " or ".join(NAMES) + "?")
blank = _writer(item=lambda seed, usual: usual._replace(data=np.full_like(usual.data, 7)) if seed % 5 else usual)
placeholder = _writer(item=lambda seed, usual: picture(99) if seed % 2 else usual)
low_rate = _writer(item=_low_rate)


def _many(is_mixed_up: bool):
    """Return a function that writes more documents than `healthy` does; mixed up, the name of a picture is any of the names."""

    def documents(media):
        chance = np.random.default_rng(5)
        made = []
        for seed in range(160):
            for usual in (noisy(picture(seed % 2), seed, 9), noisy(sound(seed % 2, 700 + seed), seed, 300)):
                is_any = is_mixed_up and usual.modality == "image"
                name = NAMES[chance.integers(2) if is_any else seed % 2]
                made.append(document(media, [usual], name, f"{usual.modality} {seed}"))
        return made[:220], made[220:]

    def make(folder: Path) -> Path:
        write(folder, documents)
        return folder

    return make


many, mixed_up = _many(False), _many(True)
