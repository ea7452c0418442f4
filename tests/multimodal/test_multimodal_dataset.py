"""Multimodal datasets: what was written is read, and damage to any part is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multimodal_helpers import GEOMETRY, document, picture, sound, write

from glassgpt.data.tokenizers import load_tokenizer, tokenizer_from_json
from glassgpt.data.tokenizers.library import LibraryTokenizer
from glassgpt.data.verification import verify_once
from glassgpt.errors import DataError, WrongTokenizerError
from glassgpt.multimodal.dataset import MEDIA, NO_TOKEN, STARTS, SUPERVISED, MultimodalDataset
from glassgpt.multimodal.documents import with_begin_tokens
from glassgpt.multimodal.media import Geometry, MediaItem
from glassgpt.multimodal.packing import Encoded, Place, choose_row_length, fit


def three_documents(media):
    """Return training and validation documents: two with media, one of text; one with the same picture."""
    first = document(media, [picture(1)], " red apple")
    second = document(media, [sound(2), picture(3)], " blue bird")
    return [first, second, document(media, [], "only text")], [document(media, [picture(1)], " 사과")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write(tmp_path_factory.mktemp("multimodal") / "data", three_documents, shard_bytes=100)


def read_documents(tokens):
    """Return each document of a split as a list of texts and media, read position by position."""
    found = []
    for start in range(0, len(tokens), tokens.row_length):
        ids, flags = tokens.read(start, tokens.row_length), tokens.flags(start, tokens.row_length)
        media = dict(tokens.media(start))
        for at, flag in enumerate(flags):
            if flag & STARTS:
                found.append([])
            if at in media:
                found[-1].append(media[at])
                n = GEOMETRY.positions(media[at])
                assert (ids[at : at + n] == NO_TOKEN).all()
                assert (flags[at : at + n] == MEDIA).all()
            elif ids[at] != NO_TOKEN:
                found[-1].append((int(ids[at]), bool(flag & SUPERVISED)))
    return found


def test_documents_are_read_as_they_were_written(dataset):
    dataset.verify()
    tokenizer = dataset.tokenizer
    end, image, audio = tokenizer.end_of_text, *dataset.multimodal.begin.values()
    assert [tokenizer.token_bytes(token) for token in (image, audio)] == [b"<|image|>", b"<|audio|>"]
    train = [
        part
        for part in read_documents(dataset.split("train"))
        if any(learned for _, learned in (one for one in part if not isinstance(one, MediaItem)))
    ]
    assert len(train) == 3

    def learned(text):
        return [(token, True) for token in tokenizer.encode(text)] + [(end, True)]

    def same(part, expected):
        return [
            one if isinstance(one, tuple) and not isinstance(one, MediaItem) else one.data.tobytes() for one in part
        ][: len(expected)] == [one.data.tobytes() if isinstance(one, MediaItem) else one for one in expected]

    expected = (
        [(end, False), (image, False), picture(1), *learned(" red apple")],
        [(end, False), (audio, False), sound(2), (image, False), picture(3), *learned(" blue bird")],
        [(end, False), *learned("only text")],
    )
    for one in expected:
        assert sum(same(part, one) for part in train) == 1
    counts = dataset.multimodal.train
    assert (counts.documents, counts.media, counts.dropped) == (3, {"image": 2, "audio": 1}, 0)
    assert counts.positions == {"image": 8, "audio": 5}
    assert counts.supervised == sum(len(learned(text)) for text in (" red apple", " blue bird", "only text"))


def test_equal_media_are_stored_once(dataset):
    assert len(dataset.store) == 3
    assert dataset.store.origins() == ["the test 0", "the test 0", "the test 1"]
    [number] = dataset.split("validation").media_numbers(0)
    assert np.array_equal(dataset.store.read(number).data, picture(1).data)


def test_media_cannot_be_written(dataset):
    [(_, item)] = dataset.split("validation").media(0)
    with pytest.raises(ValueError, match="read-only"):
        item.data[0] = 0


def is_intact(folder):
    try:
        MultimodalDataset.open(folder).verify()
    except DataError:
        return False
    return True


def test_begin_tokens_are_added_to_an_imported_tokenizer():
    library = pytest.importorskip("tokenizers")
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["a red apple and a blue bird"] * 9, trainer)
    size = backend.get_vocab_size()
    imported = LibraryTokenizer("imported", backend.to_str(), {"<|endoftext|>": size}, "<|endoftext|>")
    extended = with_begin_tokens(imported)
    assert extended.special_tokens == {"<|endoftext|>": size, "<|image|>": size + 1, "<|audio|>": size + 2}
    assert extended.encode("a red <|image|>") == imported.encode("a red <|image|>")  # spelled out it is text
    assert extended.encode_with_special_tokens("a <|image|>")[-1] == size + 1
    assert tokenizer_from_json(extended.to_json()).fingerprint == extended.fingerprint
    assert with_begin_tokens(extended) is extended
    with pytest.raises(WrongTokenizerError, match="special tokens cannot be added to the tokenizer bytes"):
        with_begin_tokens(load_tokenizer("bytes"))


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


def test_damage_to_any_byte_of_any_file_is_found(tmp_path):
    folder = tmp_path / "data"
    write(folder, three_documents)
    names = set(files_of(folder)) - {"tokenizer.json"}  # which is checked when it is loaded
    assert {"media-00000.bin", "media.index", "media-origins.jsonl", "train.flags", "train.media"} <= names
    for name in sorted(names):
        path = folder / name
        whole = path.read_bytes()
        for at in sorted({0, len(whole) // 3, len(whole) // 2, len(whole) - 2}):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            assert not is_intact(folder), f"{name}, byte {at}"
        path.write_bytes(whole)
    assert is_intact(folder)


def test_training_finds_damaged_media(tmp_path):
    dataset = write(tmp_path / "data", three_documents)
    path = tmp_path / "data" / "media-00000.bin"
    verify_once(dataset)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match=r"media-00000.bin is damaged"):
        verify_once(dataset)


def test_missing_and_truncated_files_are_found_when_opened(tmp_path):
    folder = tmp_path / "data"
    write(folder, three_documents)
    for name in files_of(folder):
        path, whole = folder / name, (folder / name).read_bytes()
        if name in ("media-origins.jsonl", "tokenizer.json"):  # read when they are needed
            continue
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError):
            MultimodalDataset.open(folder)
        path.unlink()
        with pytest.raises(DataError):
            MultimodalDataset.open(folder)
        path.write_bytes(whole)


def test_table_that_leads_out_of_the_media_is_refused(tmp_path):
    folder = tmp_path / "data"
    write(folder, three_documents)
    path = folder / "train.media"
    path.write_bytes(path.read_bytes()[:8] + b"\xff\0\0\0" + path.read_bytes()[12:])
    with pytest.raises(DataError, match=r"train.media is damaged"):
        MultimodalDataset.open(folder)


def test_summary_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("glassgpt.multimodal.dataset.FORMAT_VERSION", 2)
        write(tmp_path / "data", three_documents)
    with pytest.raises(DataError, match="its format is not glassgpt-multimodal 1"):
        MultimodalDataset.open(tmp_path / "data")


@st.composite
def encoded(draw):
    tokens = draw(st.integers(1, 30))
    begins = sorted(draw(st.sets(st.integers(0, tokens - 1), max_size=3)))
    places = tuple(Place(at, 0, draw(st.integers(1, 12)), "image") for at in begins)
    supervised = np.array(draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens)))
    return Encoded(np.arange(tokens, dtype=np.uint32), supervised, places)


@given(encoded(), st.integers(2, 40))
@settings(max_examples=200, deadline=None)
def test_what_fits_is_the_longest_beginning_with_whole_media(one, row_length):
    parts = fit(one, row_length)
    assert all(part.length <= row_length for part in parts)
    if one.length <= row_length:
        assert parts == [one]
    elif not one.media and one.supervised[1:].all():
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), one.tokens)
    else:
        fitting = [n for n in range(len(one.tokens) + 1) if one.part(0, n).length <= row_length]
        longest = one.part(0, max(fitting))
        expected = [longest.tokens.tolist()] if longest.supervised[1:].any() else []
        assert [part.tokens.tolist() for part in parts] == expected


def test_row_length_holds_the_longest_document():
    assert [choose_row_length([n]) for n in (257, 258, 5000)] == [257, 513, 2049]


def test_row_length_leaves_little_padding():
    assert choose_row_length([71] * 999) == 513  # 7 of them leave 3 %, in a row of 257 3 of them leave 17 %
    assert choose_row_length([10] * 1000) == 257


def test_positions_follow_from_the_geometry():
    assert GEOMETRY.positions(picture()) == 4
    assert [GEOMETRY.audio_positions(n) for n in (1, 80, 240, 241)] == [1, 1, 1, 2]
    assert Geometry(image_size=32, patch_size=5).problems() == [
        "patch_size is 5; it must be a divisor of image_size, 32"
    ]
