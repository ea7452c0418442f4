"""Helpers shared by the tests of this folder: documents with random media, written as a dataset."""

import numpy as np

from glassgpt.data.tokenizers import train_tokenizer
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.documents import Document, StoredMedium, Turn, with_begin_tokens
from glassgpt.multimodal.media import Geometry, MediaItem
from glassgpt.multimodal.media_store import MediaWriter
from glassgpt.multimodal.writing import WriteOptions, write_dataset

GEOMETRY = Geometry(image_size=8, patch_size=4, rate=8000, hop=80, frames_per_position=3)


def tokenizer():
    return with_begin_tokens(train_tokenizer("bpe:270", ["a red apple and a blue bird, 빨간 사과"] * 50))


def picture(seed=0, size=GEOMETRY.image_size):
    return MediaItem("image", np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def sound(seed=0, samples=1000):
    return MediaItem("audio", np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16))


def document(media, items, text, origin="the test"):
    """Return a document of media and then a text; each medium is stored."""
    stored = [
        StoredMedium(one.modality, media.add(one, f"{origin} {at}"), GEOMETRY.positions(one))
        for at, one in enumerate(items)
    ]
    return Document((Turn((*stored, text)),), origin)


def write(folder, make_documents, shard_bytes=1 << 20, **options):
    """Write the documents that `make_documents(media)` returns, as training and validation split."""
    folder.mkdir()
    media = MediaWriter(folder, shard_bytes)
    train, validation = make_documents(media)
    settings = WriteOptions(GEOMETRY, **{"row_tokens": 64, **options})
    write_dataset(folder, {"train": train, "validation": validation}, media, tokenizer(), settings)
    return MultimodalDataset.open(folder)
