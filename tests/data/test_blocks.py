"""Blocks, parts, processes and shards, against a plain loop over the same documents."""

import hashlib
import json
import os
import random
import signal
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from data_helpers import TEXTS, as_jsonl, holds_only, prepare_dataset, stored_documents

from glassgpt.data import json_rows, load_tokenizer, processes, sources, text_cuts
from glassgpt.data.blocks import encode, layout, parts, plan, spans, writing
from glassgpt.data.blocks.choice import first_occurrences
from glassgpt.data.blocks.ngrams import ngram_hashes
from glassgpt.data.documents import text_digest
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.readers import FileSource, ReadOptions
from glassgpt.data.splitting import FixedSplit, HashSplit
from glassgpt.errors import DataError, Interrupted, UsageError

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "it",
    "is",
    "was",
    "for",
    "on",
    "with",
    "as",
    "by",
    "at",
    "from",
    "this",
    "one",
    "had",
    "not",
    "are",
    "but",
    "his",
    "they",
    "she",
    "her",
]


def some_texts(count, seed=0, least=5, most=60):
    choose = random.Random(seed)
    return [f"{i} " + " ".join(choose.choices(WORDS, k=choose.randint(least, most))) for i in range(count)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, in this process, and a short text of the grammar, which would be hundreds of them."""
    monkeypatch.setattr(spans, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(sources, "GRAMMAR_SENTENCES", 500)


@pytest.fixture
def in_processes(small_blocks, monkeypatch):
    """Blocks of a few rows, in processes."""
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 0)


class Notes(PrepareObserver):
    def __init__(self):
        self.texts = []

    def on_note(self, text):
        self.texts.append(text)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plain_shards(texts, tokenizer, rule, shard_tokens):
    """The files of the shards by the definition: documents in order, without copies, each after an end-of-text."""
    seen, tokens = set(), {"train": [], "validation": []}
    for text in texts:
        if not text.strip() or text in seen:
            continue
        seen.add(text)
        for split, part in rule.divide(text_digest(text.encode()), text):
            tokens[split] += [tokenizer.end_of_text, *tokenizer.encode(part)]
    files = {}
    for split, ids in tokens.items():
        for number, start in enumerate(range(0, len(ids), shard_tokens)):
            raw = np.array(ids[start : start + shard_tokens], dtype="<u2").tobytes()
            header = struct.pack(
                "<8sHHIQ32s32s40x", b"GLASSTOK", 1, 2, tokenizer.vocab_size, len(raw) // 2,
                bytes.fromhex(tokenizer.fingerprint), hashlib.sha256(raw).digest(),
            )  # fmt: skip
            files[f"{split}-{number:05d}.bin"] = header + raw
    return files


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_shards_are_those_of_a_plain_loop(tmp_path, small_blocks, tokenizer):
    texts = [*some_texts(300), *some_texts(20), "", "naïve 한국어 <|endoftext|>", "  "]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts[:200]))
    (tmp_path / "b.jsonl").write_bytes(as_jsonl(texts[200:]))
    summary = prepare_dataset(tmp_path / "set", tmp_path, tokenizer=tokenizer, shard_tokens=3000)
    expected = plain_shards(texts, load_tokenizer(tokenizer), HashSplit(0.1, 1337), 3000)
    found = files_of(tmp_path / "set")
    assert {name: content for name, content in found.items() if name.endswith(".bin")} == expected
    assert (summary.duplicates, summary.empty) == (20, 2)
    assert summary.train.shards == tuple(name for name in sorted(expected) if name.startswith("train"))
    assert len(summary.train.shards) > 2
    origins = json.loads(found["validation-documents.json"])
    held_out = [text for text in dict.fromkeys(texts) if text.strip() and HashSplit(0.1, 1337).split_of(text_digest(text.encode())) == "validation"]  # fmt: skip
    places = [texts.index(text) for text in held_out]
    assert origins == [
        f"{tmp_path}/{'a' if at < 200 else 'b'}.jsonl, line {at + 1 if at < 200 else at - 199}" for at in places
    ]


def test_processes_write_the_same_dataset(tmp_path, monkeypatch, small_blocks):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([*some_texts(400), *some_texts(9)]))
    alone = prepare_dataset(tmp_path / "alone", tmp_path / "a.jsonl", shard_tokens=5000)
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 0)
    started = []
    start = processes.Processes._start
    monkeypatch.setattr(processes.Processes, "_start", lambda self: started.append(1) or start(self))
    assert prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", shard_tokens=5000, workers=2) == alone
    assert files_of(tmp_path / "set") == files_of(tmp_path / "alone")
    assert len(started) == 2
    assert holds_only(tmp_path, "a.jsonl", "alone", "set")


def documents_of(source):
    return [(document.text, document.origin) for document in source.documents()]


def in_spans(path, options=None, layout=None):
    """The documents of a file, read in the ranges that it is cut into, with the lines of the file."""
    whole = FileSource(path, "text", "file", options or ReadOptions(), layout)
    found, lines = [], 0
    blocks = list(plan.plan_blocks([(whole, FixedSplit("train"))], path.parent))
    for block in blocks:
        found += [(text, writing._moved(origin, "file", lines)) for text, origin in documents_of(block.source)]
        lines += encode._line_ends(block)
    return found, len(blocks)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("seed", range(4))
def test_ranges_of_a_text_are_its_documents(tmp_path, monkeypatch, mark, seed):
    monkeypatch.setattr(text_cuts, "TEXT_BLOCK_BYTES", 200)
    monkeypatch.setattr(spans, "BLOCK_BYTES", 200)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 200)
    monkeypatch.setattr(spans, "TAIL_BYTES", 40)
    choose = random.Random(seed)
    gaps = ["", " ", "\n", "\n\n", "é", "한", "\n\n\n"]
    path = tmp_path / "a.txt"
    path.write_bytes(mark + "".join(choose.choice(WORDS) + choose.choice(gaps) for _ in range(900)).encode())
    found, count = in_spans(path)
    assert found == documents_of(FileSource(path, "text", "file"))
    assert count > 10
    path.write_bytes(mark + b"x" * 3000)
    assert in_spans(path)[0] == documents_of(FileSource(path, "text", "file"))


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n\n", "aa", "\n---\n"])
@pytest.mark.parametrize("seed", range(3))
def test_ranges_of_a_separated_text_are_its_documents(tmp_path, monkeypatch, separator, seed):
    for module, name in ((text_cuts, "TEXT_BLOCK_BYTES"), (spans, "BLOCK_BYTES"), (plan, "BLOCK_BYTES")):
        monkeypatch.setattr(module, name, 150)
    choose = random.Random(seed)
    pieces = [choose.choice([*WORDS, "\n", "é", separator[:-1], "a"]) for _ in range(1500)]
    for at in sorted(choose.sample(range(1500), 40), reverse=True):  # also documents that must be cut
        pieces.insert(at, separator * choose.choice([1, 1, 2]))
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(pieces).encode())
    options = ReadOptions(separator=separator)
    whole = documents_of(FileSource(path, "text", "file", options))
    found, count = in_spans(path, options)
    assert found == whole
    assert count > 10
    assert max(len(text.encode()) for text, _ in whole) <= 150


def test_text_is_cut_at_separators_wherever_reading_stops(monkeypatch):
    monkeypatch.setattr(text_cuts, "TEXT_BLOCK_BYTES", 50)
    text = b"".join(bytes([97 + i % 26]) * (i % 90) + b"<|>" for i in range(120))
    for step in (7, 50, 64, len(text)):
        blocks = (text[at : at + step] for at in range(0, len(text), step))
        found = list(text_cuts.separated_texts(blocks, b"<|>"))
        assert found == list(text_cuts.separated_texts(iter([text]), b"<|>"))


def test_rows_have_the_lines_of_their_file(tmp_path, small_blocks):
    path = tmp_path / "a.jsonl"
    rows = as_jsonl(some_texts(100)).replace(b"\n", b"\n\n  \n", 30)
    path.write_bytes(rows)
    found, count = in_spans(path)
    assert found == documents_of(FileSource(path, "text", "file"))
    assert count > 5


@pytest.mark.parametrize(
    ("bad", "where"),
    [(b'{"text": 5}\n', "here"), (b"no json\n", "processes"), (b'{"text": "\xff"}\n', "here")],
)
def test_errors_name_the_line_of_the_file(tmp_path, monkeypatch, small_blocks, bad, where):
    rows = as_jsonl(some_texts(200)).splitlines(keepends=True)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join([*rows[:170], bad, *rows[170:190], bad, *rows[190:]]))
    monkeypatch.setattr("glassgpt.data.splitting.SURVEYED_DOCUMENTS", 20)  # else the survey for the split finds it
    if where == "processes":
        monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 0)
    with pytest.raises(DataError, match=r"a\.jsonl, line 171: .*; skip such rows with --skip-bad N") as direct:
        list(FileSource(path, "text", str(path)).documents())
    with pytest.raises(DataError) as found:
        prepare_dataset(tmp_path / "set", path, workers=2)
    assert str(found.value) == str(direct.value)
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 10**9)
    with pytest.raises(DataError, match=r"a\.jsonl, line 192: .*; 1 bad rows were skipped before"):
        prepare_dataset(tmp_path / "set", path, skip_bad=1, workers=2)
    notes = Notes()
    summary = prepare_dataset(tmp_path / "set", path, skip_bad=2, workers=2, observer=notes)
    assert summary.skipped == 2
    assert any("bad rows skipped: 2" in text and "a.jsonl, line 171" in text for text in notes.texts)
    assert summary.train.documents + summary.validation.documents == 200


def test_text_without_line_ends_is_refused_without_reading_it(tmp_path, monkeypatch):
    """A file of 50 GB, of which the disk holds only the first bytes."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(as_jsonl(TEXTS[:5]) + b'{"text": "')
        file.truncate(50_000_000_000)
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100_000)
    monkeypatch.setattr(spans, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(plan, "BLOCK_BYTES", 1000)
    with path.open("rb") as file:
        (span,) = spans.line_spans(file, path.stat().st_size, skips=False)
    assert span[1] < 200_000
    with pytest.raises(DataError, match=r"line 6: the row is longer than .*; cut its text into several rows"):
        prepare_dataset(tmp_path / "set", path, split="tail")
    assert not (tmp_path / "set").exists()


def test_file_of_blank_lines_is_empty_also_in_blocks(tmp_path, in_processes):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(some_texts(50)))
    (tmp_path / "b.jsonl").write_bytes(b"  \n" * 3000)
    with pytest.raises(DataError, match=r"b\.jsonl is empty: it contains no document"):
        prepare_dataset(tmp_path / "set", tmp_path, workers=1)


def test_all_kinds_of_sources_are_read_in_processes(tmp_path, monkeypatch, in_processes):
    pytest.importorskip("rensa")
    import gzip

    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(as_jsonl(some_texts(90))))
    (folder / "b.txt").write_text("\n\n".join(some_texts(90, seed=1)))
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in some_texts(30, seed=2)]))
    several = prepare_dataset(tmp_path / "set", folder, "grammar", workers=2)
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 10**9)
    assert prepare_dataset(tmp_path / "alone", folder, "grammar", workers=1) == several
    assert files_of(tmp_path / "set") == files_of(tmp_path / "alone")
    code = tmp_path / "code"
    code.mkdir()
    for i in range(40):
        (code / f"m{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n\n\n" + "\n".join(some_texts(9, seed=i)))
    options = {"format": "code", "tokenizer": "gpt2"}
    alone = prepare_dataset(tmp_path / "code-alone", code, **options)
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 0)
    assert prepare_dataset(tmp_path / "code-set", code, workers=2, **options) == alone
    assert files_of(tmp_path / "code-set") == files_of(tmp_path / "code-alone")


def hosted(monkeypatch, texts):
    """Let `hf:NAME` be a dataset of these texts."""
    rows = [{"text": text} for text in texts]
    library = SimpleNamespace(load_dataset=lambda *arguments, **options: iter(rows))
    monkeypatch.setitem(sys.modules, "datasets", library)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_no_document_of_a_source_without_a_file_is_lost(tmp_path, monkeypatch, in_processes, n_workers):
    texts = some_texts(300)
    hosted(monkeypatch, texts)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts))
    summary = prepare_dataset(tmp_path / "set", "grammar", "hf:some/texts", workers=n_workers)
    assert summary.duplicates == 0
    expected = prepare_dataset(tmp_path / "expected", "grammar", tmp_path / "a.jsonl", workers=1)
    assert summary.train == expected.train
    for name in ("train-00000.bin", "validation-00000.bin"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_killed_process_is_replaced(tmp_path, in_processes, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(some_texts(400)))
    with monkeypatch.context() as patch:
        patch.setattr(writing, "IN_PROCESS_BYTES", 10**9)
        prepare_dataset(tmp_path / "undisturbed", tmp_path / "a.jsonl", workers=1)
    killed, choose = [], random.Random(5)
    answer = processes._answer

    def killing(process, request):
        if len(killed) < 3 and choose.random() < 0.5:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return answer(process, request)

    monkeypatch.setattr(processes, "_answer", killing)
    monkeypatch.setattr(processes, "TRIES", 6)
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", workers=2)
    assert len(killed) == 3
    assert files_of(tmp_path / "set") == files_of(tmp_path / "undisturbed")


def test_text_that_always_kills_its_process_is_an_error(tmp_path, in_processes, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(some_texts(100)))
    answer = processes._answer

    def killing(process, request):
        os.kill(process.pid, signal.SIGKILL)
        return answer(process, request)

    monkeypatch.setattr(processes, "_answer", killing)
    with pytest.raises(DataError, match="ended 3 times at the same text.*give fewer --workers"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", workers=2)
    assert holds_only(tmp_path, "a.jsonl")


@pytest.fixture
def interrupted(tmp_path, in_processes, monkeypatch):
    """A dataset whose preparation was stopped by SIGTERM after three blocks."""
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(some_texts(300)))
    prepare_dataset(tmp_path / "undisturbed", tmp_path / "a.jsonl", workers=1)
    raise_problem = writing._raise_problem
    count = []

    def stop(*arguments):
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        raise_problem(*arguments)

    notes = Notes()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_raise_problem", stop)
        with pytest.raises(Interrupted):
            prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", workers=1, observer=notes)
    assert "finished parts are kept in" in notes.texts[-1]
    assert holds_only(tmp_path, "a.jsonl", "undisturbed", ".set.parts")
    return tmp_path


def encoded_again(folder, monkeypatch, name="a.jsonl", **options):
    """Prepare again in this process, and return the number of blocks that were encoded."""
    encoded = []
    encode_texts = encode._Documents.encode
    monkeypatch.setattr(encode._Documents, "encode", lambda self, t: encoded.append(1) or encode_texts(self, t))
    prepare_dataset(folder / "set", folder / name, workers=1, **options)
    return len(encoded)


def test_next_try_continues_with_finished_parts(interrupted, monkeypatch):
    kept = len(list((interrupted / ".set.parts").glob("*.json")))
    size = (interrupted / "a.jsonl").stat().st_size
    assert kept >= 3
    (interrupted / ".set.parts" / "killed.tokens.1234").write_bytes(b"")
    again = encoded_again(interrupted, monkeypatch)
    assert files_of(interrupted / "set") == files_of(interrupted / "undisturbed")
    assert holds_only(interrupted, "a.jsonl", "undisturbed", "set")
    with (interrupted / "a.jsonl").open("rb") as file:
        assert again == len(list(spans.line_spans(file, size, skips=False))) - kept


@pytest.mark.parametrize("change", ["text", "tokenizer", "seed", "normalize"])
def test_parts_of_other_text_or_settings_are_not_used(interrupted, monkeypatch, change):
    options = {"tokenizer": {"tokenizer": "gpt2"}, "seed": {"seed": 7}, "normalize": {"normalize": ("lf",)}}.get(
        change, {}
    )
    if change == "text":
        (interrupted / "a.jsonl").write_bytes((interrupted / "a.jsonl").read_bytes().replace(b"the", b"THE"))
    again = encoded_again(interrupted, monkeypatch, **options)
    with (interrupted / "a.jsonl").open("rb") as file:
        assert again == len(list(spans.line_spans(file, os.fstat(file.fileno()).st_size, skips=False)))


def test_two_cannot_prepare_one_dataset_at_once(tmp_path, in_processes):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(some_texts(100)))
    with (
        parts.parts_folder(tmp_path / "set", tmp_path, PrepareObserver(), keeps=True),
        pytest.raises(UsageError, match="another process is preparing"),
    ):
        prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")


def test_choice_takes_little_memory(tmp_path):
    """Below 100 bytes for each document, at the peak."""
    import tracemalloc

    count = 200_000
    rng = np.random.default_rng(0)
    for number in range(4):
        table = np.zeros(count // 4, parts.DOCUMENT)
        table["digest"] = rng.integers(0, count, count // 4)
        table["tokens"][:, 0] = table["characters"][:, 0] = 1
        table.tofile(tmp_path / f"{number}.documents")
    from glassgpt.data.blocks.choice import choose

    found = [parts.Part(tmp_path, str(number)) for number in range(4)]
    choose(found, deduplicate=True, similarity=None)  # imports
    tracemalloc.start()
    choice = choose(found, deduplicate=True, similarity=None)
    form = layout.ShardFormat(257, "00" * 32, np.uint16, 256)
    split = layout.plan_split(choice, "train", 0, tmp_path, form, 100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert split.documents == count - choice.duplicates == int(choice.kept[:, 0].sum())
    assert peak / count < 100


def test_first_occurrences():
    values = np.random.default_rng(1).integers(0, 50, 400).astype(np.uint64)
    seen = set()
    expected = [not (value in seen or seen.add(value)) for value in values.tolist()]
    assert first_occurrences(values).tolist() == expected


def changed(text, every):
    return " ".join(f"w{i}" if i % every == 7 else word for i, word in enumerate(text.split()))


def test_near_duplicates_are_dropped_and_told(tmp_path, in_processes):
    pytest.importorskip("rensa")
    texts = some_texts(60, least=300, most=400)
    copies = [changed(texts[3], 90), changed(texts[8], 12), changed(texts[5], 110), texts[5]]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([*texts, *copies, "short"]))
    notes = Notes()
    summary = prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", near_duplicates=0.8, workers=1, observer=notes)
    assert (summary.near_duplicates, summary.duplicates) == (2, 1)
    stored = {text for split in stored_documents(tmp_path / "set").values() for text in split}
    assert stored == {*texts, copies[1], "short"}
    told = [text for text in notes.texts if "near-duplicate" in text]
    assert [text.replace(f"{tmp_path}/", "") for text in told] == [
        "near-duplicate dropped: a.jsonl, line 61 resembles a.jsonl, line 4",
        "near-duplicate dropped: a.jsonl, line 63 resembles a.jsonl, line 6",
    ]


def test_similarity_is_that_of_the_sets_of_sequences(tmp_path, small_blocks):
    """At each similarity exactly those pairs are found that a comparison of all sketches finds."""
    pytest.importorskip("rensa")
    from glassgpt.data.code.near_duplicates import sketch_of

    choose = random.Random(2)
    texts = some_texts(12, least=250, most=300)
    texts += [changed(text, choose.choice([20, 30, 50, 80, 150])) for text in texts for _ in range(3)]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts))
    sketches = [np.frombuffer(sketch_of(text), "<u4") for text in texts]
    for similarity in (0.55, 0.7, 0.8, 0.9):
        kept = []
        for sketch in sketches:
            if not any(np.mean(sketch == other) >= similarity for other in kept):
                kept.append(sketch)
        found = prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", near_duplicates=similarity, force=True)
        assert found.near_duplicates + found.duplicates == len(texts) - len(kept)
        assert found.near_duplicates > 0


def shares_words(text, other, count=13):
    def sequences(whole):
        words = "".join(letter if letter.isalnum() or letter == "_" else " " for letter in whole.lower()).split()
        return {tuple(words[at : at + count]) for at in range(len(words) - count + 1)}

    return not sequences(text).isdisjoint(sequences(other))


def contaminated_files(folder):
    train, validation = some_texts(50, seed=3, least=20), some_texts(10, seed=4, least=20)
    quoted = validation[4].split()
    train[7] += " " + " ".join(quoted[2:15]).upper() + "!"
    train[31] = " ".join(quoted[:12]) + " " + train[31]  # too short
    train[40] = validation[1] + ", and more"
    (folder / "train.jsonl").write_bytes(as_jsonl(train))
    (folder / "held-out.jsonl").write_bytes(as_jsonl(validation))
    options = {"validation_sources": (str(folder / "held-out.jsonl"),)}
    return train, validation, options


def test_training_text_in_the_validation_text_is_removed(tmp_path, in_processes):
    train, validation, options = contaminated_files(tmp_path)
    expected = [text for text in train if not any(shares_words(text, other) for other in validation)]
    assert len(expected) == 48
    notes = Notes()
    source = tmp_path / "train.jsonl"
    summary = prepare_dataset(tmp_path / "set", source, contamination="remove", workers=2, observer=notes, **options)
    assert stored_documents(tmp_path / "set") == {"train": expected, "validation": validation}
    assert summary.contaminated == 2
    (told,) = [text for text in notes.texts if "13 words" in text]
    assert f"2, such as {source}, line 8; {source}, line 41; they were removed" in told
    notes = Notes()
    summary = prepare_dataset(tmp_path / "warned", source, contamination="warn", workers=1, observer=notes, **options)
    assert (summary.contaminated, summary.train.documents) == (2, 50)
    assert any("--contamination remove" in text for text in notes.texts)
    with pytest.raises(DataError, match="13 words in a row with a validation document: 2, such as"):
        prepare_dataset(tmp_path / "refused", source, contamination="refuse", workers=1, **options)
    assert not (tmp_path / "refused").exists()


def test_hashes_of_words_depend_on_nothing_else():
    text = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert ngram_hashes(text).tolist() == ngram_hashes(text.upper().replace(" ", ", ")).tolist()
    assert len(ngram_hashes(text)) == 2
    assert len(ngram_hashes("too short")) == 0
    other = ngram_hashes(text.replace("fourteen", "Fifteen"))
    assert (ngram_hashes(text) == other).tolist() == [True, False]
    assert int(ngram_hashes(text)[0]) == 11018637777543960178  # on every machine and in every process


def test_summary_without_overlaps_is_readable_by_earlier_versions(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(TEXTS))
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    fields = json.loads((tmp_path / "set" / "dataset.json").read_bytes())
    assert not {"near_duplicates", "contaminated"} & (set(fields) | set(fields["options"]))
    assert "engine" not in fields["options"]


@pytest.mark.parametrize(
    "options",
    [{"near_duplicates": 0.3}, {"near_duplicates": 1.1}, {"contamination": "x"}, {"engine": "x"}, {"ray_address": "a"}],
)
def test_invalid_options_are_named(tmp_path, options):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=next(iter(options))):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt", **options)


def test_missing_ray_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.errors.find_spec", lambda name: None)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(Exception, match=r"needs the package ray.*glassgpt\[ray\]"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt", engine="ray")
    assert holds_only(tmp_path, "a.txt")
