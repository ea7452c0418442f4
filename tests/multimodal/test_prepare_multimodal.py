"""prepare --format multimodal, from files to a dataset."""

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multimodal_helpers import document, picture, sound, tokenizer
from PIL import Image

from glassgpt.adaptation import replay
from glassgpt.compression import distillation
from glassgpt.data import chat
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.observer import PrepareObserver
from glassgpt.errors import DataError, MissingExtraError, UsageError
from glassgpt.multimodal import decoding
from glassgpt.multimodal.dataset import MEDIA, STARTS, SUPERVISED, MultimodalDataset
from glassgpt.multimodal.dividing import divide, drop_duplicates, shared_documents
from glassgpt.multimodal.documents import Document, Turn
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.media_store import MediaWriter
from glassgpt.multimodal.prepare import MultimodalOptions, prepare_multimodal
from glassgpt.multimodal.show import first_documents

soundfile = pytest.importorskip("soundfile")
GEOMETRY = Geometry(image_size=8, patch_size=4, rate=8000, hop=80, frames_per_position=4)
WORDS = "a red apple, a blue bird and a green tree; 빨간 사과"


def save_picture(path, seed=0, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return path


def save_sound(path, seed=0, samples=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, samples), 8000)
    return path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twenty rows with pictures and sounds, and a folder of labelled pictures."""
    folder = tmp_path_factory.mktemp("source")
    rows = []
    for seed in range(20):
        picture_file = save_picture(folder / f"pictures/{seed}.png", seed)
        rows.append({"image": f"pictures/{picture_file.name}", "prompt": "What?", "text": f" {WORDS[seed:]}"})
    for seed in range(10):
        save_sound(folder / f"sounds/{seed}.wav", seed)
        rows.append({"audio": f"sounds/{seed}.wav", "text": WORDS[: seed + 5]})
        save_picture(folder / f"labelled/{'cat' if seed % 2 else 'dog'}/{seed}.png", 100 + seed)
    write_rows(folder / "rows.jsonl", rows)
    return folder


class Notes(PrepareObserver):
    def __init__(self):
        self.texts = []

    def on_note(self, text):
        self.texts.append(text)


def prepare(out, *sources, notes=None, **options):
    names = tuple(map(str, sources))
    given_options = {"tokenizer": "bpe:280", "geometry": GEOMETRY, "row_tokens": 64, **options}
    return prepare_multimodal(MultimodalOptions(names, out, **given_options), notes)


def documents_of(dataset, split="train"):
    """Return (text that is not learned, learned text, media) of each document; of padding nothing."""
    tokens, found = dataset.split(split), []
    for start in range(0, len(tokens), tokens.row_length):
        ids, flags = tokens.read(start, tokens.row_length), tokens.flags(start, tokens.row_length)
        media = tokens.media(start)
        starts = [*np.flatnonzero(flags & STARTS).tolist(), tokens.row_length]
        for first, end in pairwise(starts):
            part, kinds = ids[first:end], flags[first:end] & (SUPERVISED | MEDIA)
            texts = (dataset.tokenizer.decode(part[kinds == kind].tolist()) for kind in (0, SUPERVISED))
            found.append((*texts, [item for at, item in media if first < at < end]))
    return [one for one in found if one[1]]


def test_command_prepares_rows_and_folders(source, tmp_path, run_main):
    out = tmp_path / "data"
    code, printed, notes = run_main(
        "prepare", source / "rows.jsonl", source / "labelled", "--format", "multimodal", "--out", out, "--tokenizer", "bpe:280",
        "--image-size", "8", "--patch-size", "4", "--rate", "8000", "--hop", "80", "--row-tokens", "64",
    )  # fmt: skip
    dataset = MultimodalDataset.open(out)
    dataset.verify()
    assert dataset.geometry == GEOMETRY
    counts = [dataset.multimodal.split(name) for name in ("train", "validation")]
    assert sum(one.documents for one in counts) == 40
    assert all(one.documents and not one.dropped for one in counts)
    assert dataset.vocab_size == dataset.tokenizer.vocab_size == 280
    assert code == 0
    assert "positions of pictures" in printed
    assert "What?⟦" in printed
    assert f"--data {out} --train.sequence-length 64" in notes
    with Image.open(out / "samples.png") as sheet:
        assert sheet.width > 100


def test_documents_are_those_of_the_rows(source, tmp_path):
    dataset = prepare(tmp_path / "data", source / "rows.jsonl")
    found = documents_of(dataset) + documents_of(dataset, "validation")
    assert sorted((context, learned) for context, learned, _ in found) == sorted(
        [("<|endoftext|><|image|>What?", f" {WORDS[seed:]}<|endoftext|>") for seed in range(20)]
        + [("<|endoftext|><|audio|>", f"{WORDS[: seed + 5]}<|endoftext|>") for seed in range(10)]
    )
    by_text = {learned: media for _, learned, media in found}
    [item] = by_text[f" {WORDS[3:]}<|endoftext|>"]
    with Image.open(source / "pictures/3.png") as image:
        assert np.array_equal(item.data, np.asarray(image))
    [item] = by_text[f"{WORDS[:9]}<|endoftext|>"]
    assert np.array_equal(item.data, soundfile.read(source / "sounds/4.wav", dtype="int16")[0])


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_result_does_not_depend_on_the_number_of_threads(source, tmp_path):
    for workers in (1, 5):
        prepare(tmp_path / str(workers), source / "rows.jsonl", workers=workers)
    assert checksums(tmp_path / "1") == checksums(tmp_path / "5")


def test_validation_sources_and_shared_pictures(source, tmp_path):
    again = write_rows(source / "again.jsonl", [{"image": "pictures/1.png", "text": "other"}, {"text": "words"}])
    notes = Notes()
    dataset = prepare(tmp_path / "data", source / "rows.jsonl", validation_sources=(str(again),), notes=notes)
    assert len(documents_of(dataset)) == 30
    assert {learned for _, learned, _ in documents_of(dataset, "validation")} == {
        "other<|endoftext|>",
        "words<|endoftext|>",
    }
    assert len(dataset.store) == 30
    assert any(text.startswith("1 validation documents share a picture or sound") for text in notes.texts)


def conversation(image, answer="A bird."):
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look "}, {"type": "image", "image": image}, {"type": "text", "text": "<|image|>"}]},
            {"role": "assistant", "content": answer},
        ]
    }  # fmt: skip


def test_conversations_are_written_by_the_template(source, tmp_path):
    rows = write_rows(
        source / "chats.jsonl", [conversation(f"pictures/{seed}.png", WORDS[seed:]) for seed in range(12)]
    )
    dataset = prepare(tmp_path / "data", rows, row_tokens=128)
    found = documents_of(dataset) + documents_of(dataset, "validation")
    assert sorted(learned for _, learned, _ in found) == sorted(f" {WORDS[seed:]}<|endoftext|>" for seed in range(12))
    assert {context for context, _, _ in found} == {"User: Look <|image|><|image|>\nAssistant:\n"}
    begin = dataset.multimodal.begin["image"]
    tokens = dataset.split("train")
    assert (tokens.read(0, 128) == begin).sum() == len(tokens.media(0))  # the name that the user spelled out is text
    assert "generation" in (tmp_path / "data/chat_template.jinja").read_text()


def test_template_of_the_run_is_used(source, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    tokenizer().save(run / "tokenizer.json")
    (run / "chat_template.jinja").write_text(PLAIN_TEMPLATE.replace("User: ", "Q: "))
    rows = write_rows(source / "chats.jsonl", [conversation(f"pictures/{seed}.png") for seed in range(12)])
    dataset = prepare(tmp_path / "data", rows, tokenizer=str(run))
    assert all(context.startswith("Q: Look ") for context, _, _ in documents_of(dataset))
    assert dataset.tokenizer_fingerprint == tokenizer().fingerprint


def test_template_must_write_each_picture(source, tmp_path):
    template = tmp_path / "short.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    rows = write_rows(source / "chats.jsonl", [conversation(f"pictures/{seed}.png") for seed in range(12)])
    with pytest.raises(DataError, match="does not write each picture and sound once"):
        prepare(tmp_path / "data", rows, chat_template=template)
    assert not (tmp_path / "data").exists()


def test_bad_files_are_named_and_nothing_is_written(source, tmp_path):
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    good = [{"image": f"pictures/{seed}.png", "text": "a"} for seed in range(12)]
    rows = write_rows(
        source / "bad.jsonl", [*good, {"image": "broken.png", "text": "a"}, {"image": "none.png", "text": "a"}]
    )
    with pytest.raises(
        DataError, match="bad.jsonl, line 13: .*broken.png: .*picture.*; skip such rows with --skip-bad N"
    ):
        prepare(tmp_path / "out" / "data", rows)
    assert not (tmp_path / "out").exists()
    notes = Notes()
    dataset = prepare(tmp_path / "data", rows, skip_bad=2, notes=notes)
    assert dataset.info.skipped == 2
    [note] = [text for text in notes.texts if text.startswith("bad rows and files skipped: 2")]
    assert "line 14" in note
    with pytest.raises(DataError, match="1 bad rows were skipped before"):
        prepare(tmp_path / "again", rows, skip_bad=1)


def test_a_file_that_many_rows_name_is_decoded_once(tmp_path, monkeypatch):
    """The dataset has the same bytes as one whose rows name copies of the files."""
    names = [save_picture(tmp_path / "0.png"), save_picture(tmp_path / "1.png", 1), save_sound(tmp_path / "2.wav")]
    again, copied = [], []
    for copy in range(20):
        for name in names:
            own = name.with_name(f"{copy}-{name.name}")
            own.write_bytes(name.read_bytes())
            key, text = ("audio" if name.suffix == ".wav" else "image"), f"copy {copy}"
            again.append({key: name.name, "text": text})
            copied.append({key: own.name, "text": text})
    decoded = []

    def load(medium, options, load_medium=decoding.load_medium):
        decoded.append(medium.path)
        return load_medium(medium, options)

    monkeypatch.setattr(decoding, "load_medium", load)
    monkeypatch.setattr(decoding, "AHEAD", 1)
    held_out = (str(write_rows(tmp_path / "held-out.jsonl", [{"image": "0.png", "text": "a"}])),)
    for folder, rows in (("once", again), ("copies", copied)):
        decoded.clear()
        prepare(tmp_path / folder, write_rows(tmp_path / f"{folder}.jsonl", rows), validation_sources=held_out)
        assert len(decoded) == (61 if folder == "copies" else 4)
    for file in ("media-00000.bin", "media.index", "train-00000.bin", "train.flags", "train.media"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "copies" / file).read_bytes()


def test_pipes_and_devices_are_not_read(source, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "/dev/zero"):
        rows = write_rows(tmp_path / "rows.jsonl", [{"image": name, "text": "a"}])
        with pytest.raises(DataError, match="it is not a regular file"):
            prepare(tmp_path / "data", rows)


def test_remarks_on_names_and_silence(source, tmp_path):
    soundfile.write(source / "silent.wav", np.zeros(100), 8000)
    save_picture(source / "IMG_0042.png", 1)
    rows = [{"image": "IMG_0042.png", "text": "IMG_0042: a cat"}, {"audio": "silent.wav", "text": "nothing", "id": 1}]
    rows += [{"image": f"pictures/{seed}.png", "text": f"{seed} trees"} for seed in range(12)]
    notes = Notes()
    prepare(tmp_path / "data", write_rows(source / "remarks.jsonl", rows), notes=notes)
    assert sum(text.startswith("1 texts contain the name of their file") for text in notes.texts) == 1
    assert sum(text.startswith("1 sounds are silent; the first one: ") for text in notes.texts) == 1
    assert "keys of rows that are not read: id" in notes.texts


def test_what_does_not_fit_is_cut_or_dropped(source, tmp_path):
    rows = [{"image": f"pictures/{seed}.png", "text": WORDS} for seed in range(11)]
    rows.append({"image": ["pictures/12.png"] * 8, "text": "eight pictures"})
    rows.append({"image": "pictures/13.png", "text": WORDS * 4})
    rows.append({"text": WORDS * 5})
    options = {"row_tokens": 40, "validation_sources": (str(source / "rows.jsonl"),)}
    dataset = prepare(tmp_path / "data", write_rows(source / "long.jsonl", rows), **options)
    assert (dataset.multimodal.train.dropped, dataset.multimodal.train.cut) == (1, 1)
    text = "".join(learned for context, learned, media in documents_of(dataset) if not media)
    assert len(text) > 0.9 * len(WORDS * 5)  # the first token of each part has nothing to be learned from


def test_examples_are_documents_and_not_padding(source, tmp_path):
    rows = [{"image": "pictures/1.png", "text": "a bird"}, {"text": WORDS * 9}, {"audio": "sounds/1.wav", "text": "b"}]
    options = {"validation_sources": (str(source / "rows.jsonl"),), "row_tokens": 512}
    texts = first_documents(prepare(tmp_path / "data", write_rows(source / "three.jsonl", rows), **options))
    assert sorted(texts)[:2] == [
        "<|endoftext|><|audio|>(4)⟦b<|endoftext|>⟧",
        "<|endoftext|><|image|>(4)⟦a bird<|endoftext|>⟧",
    ]
    assert sorted(texts)[2].startswith("<|endoftext|>⟦a red apple, a blue bird")
    assert texts[[len(text) for text in texts].index(max(map(len, texts)))].endswith("…⟧")


def test_folder_of_pictures_as_text_is_pointed_to_the_format(source, tmp_path, run_main):
    code, _, error = run_main("prepare", source / "labelled", "--out", tmp_path / "data")
    assert code == 2
    assert "for pictures and sound add --format multimodal" in error


def test_text_files_are_documents(source, tmp_path):
    (tmp_path / "book.txt").write_text("Once upon a time. " * 50)
    dataset = prepare(tmp_path / "data", source / "rows.jsonl", tmp_path / "book.txt", row_tokens=0)
    assert dataset.multimodal.row_length == 257  # as for the rows alone: the book is cut
    assert any(
        "upon a time" in learned for _, learned, _ in documents_of(dataset) + documents_of(dataset, "validation")
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"geometry": Geometry(image_size=30, patch_size=8)},
            "patch_size is 8; it must be a divisor of image_size, 30",
        ),
        ({"tokenizer": "bytes"}, "the tokenizer bytes cannot have the special tokens of pictures and sound"),
        ({"tokenizer": "bpe:258"}, "its SIZE must be at least 259"),
        ({"tokenizer": "unigram:300"}, "the tokenizer unigram:300 cannot"),
        ({"max_pixels": 10**9}, "max_pixels is 1000000000; it must be from 1 to"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"row_tokens": 1}, "row_tokens is 1; it must be from 2"),
        ({"fit": "squash"}, "fit is 'squash'; it must be one of pad, stretch, crop"),
        ({"skip_bad": -1}, "skip_bad is -1"),
    ],
)
def test_invalid_options_are_reported(source, tmp_path, options, problem):
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path / "data", source / "rows.jsonl", **options)
    assert problem in str(caught.value)


def test_missing_extra_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.errors.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'glassgpt\[multimodal\]'"):
        prepare(tmp_path / "data", source / "rows.jsonl")


def test_sources_that_do_not_exist_or_are_of_another_kind(source, tmp_path):
    with pytest.raises(UsageError, match="source 'none.jsonl' not found"):
        prepare(tmp_path / "data", source / "rows.jsonl", "none.jsonl")
    with pytest.raises(UsageError, match="1.png is no source of documents"):
        prepare(tmp_path / "data", source / "pictures/1.png")


def test_commands_on_text_refuse_documents_with_media(source, tmp_path):
    folder = prepare(tmp_path / "data", source / "rows.jsonl").folder
    with pytest.raises(
        UsageError, match="holds documents with pictures and sound, which cannot be continued as a text"
    ):
        chat.dataset.require_text(folder)
    with pytest.raises(
        UsageError, match="holds documents with pictures and sound, but a smaller model learns from text"
    ):
        distillation.require_text(folder)
    with pytest.raises(UsageError, match="which holds documents with pictures and sound; name a dataset of text"):
        replay.open_old_text(folder, "", tmp_path)


# The split.


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 12), min_size=1, max_size=2), st.integers(0, 2)), min_size=2, max_size=40)
)
@settings(max_examples=60, deadline=None)
def test_no_medium_is_on_both_sides(given_documents):
    media = MediaWriter(Path("."), shard_bytes=1 << 40)
    media._next_shard = lambda: setattr(media, "_file", open("/dev/null", "wb"))  # noqa: SIM115
    made = [
        document(media, [picture(seed) for seed in sorted(seeds)], f"text {text}") for seeds, text in given_documents
    ]
    try:
        splits = divide(made, media, 0.2, seed=1).splits
    except DataError:
        connected = [set(seeds) for seeds, _ in given_documents]
        for _ in connected:
            connected = [set.union(*(other for other in connected if other & one)) for one in connected]
        assert len({frozenset(one) for one in connected}) == 1
        return
    finally:
        media._file.close()
    assert splits["train"]
    assert splits["validation"]
    assert len(splits["train"]) + len(splits["validation"]) == len(made)
    assert shared_documents(splits) == 0


@pytest.mark.parametrize("fraction", [0.01, 0.9])
def test_neither_split_of_two_documents_is_empty(tmp_path, fraction):
    media = MediaWriter(tmp_path)
    made = [document(media, [picture(seed)], "text") for seed in range(2)]
    splits = divide(made, media, fraction, seed=1).splits
    assert [len(splits["train"]), len(splits["validation"])] == [1, 1]
    media.abort()


def test_copies_are_dropped(tmp_path):
    media = MediaWriter(tmp_path)
    first, second = document(media, [picture(1)], "a"), document(media, [picture(1)], "b")
    again, other = document(media, [picture(1)], "a", origin="elsewhere"), document(media, [sound(1)], "a")
    assert drop_duplicates([first, second, again, other]) == [first, second, other]
    media.abort()


def test_documents_without_media_are_divided_by_text(tmp_path):
    media = MediaWriter(tmp_path)
    splits = divide([Document((Turn((f"text {at}",)),), "x") for at in range(200)], media, 0.25, 3).splits
    assert 30 <= len(splits["validation"]) <= 70
