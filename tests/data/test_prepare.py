import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from data_helpers import TEXTS, all_documents, as_jsonl, holds_only, prepare_dataset, stored_documents

from glassgpt.data import PrepareOptions, TokenDataset, load_tokenizer, pipeline, prepare, show_summary, splitting
from glassgpt.data.documents import DuplicateFilter, text_digest
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.show import ConsoleObserver
from glassgpt.data.tokenizers.bpe import PATTERNS
from glassgpt.errors import DataError, Interrupted, UsageError


def test_duplicates_are_dropped_and_counted(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl([*TEXTS, "", *TEXTS[:7], ""]))
    summary = prepare_dataset(tmp_path / "set", source)
    assert (summary.duplicates, summary.empty) == (7, 2)
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    kept = prepare_dataset(tmp_path / "all", source, deduplicate=False)
    assert kept.duplicates == 0
    assert all_documents(tmp_path / "all") == sorted([*TEXTS, *TEXTS[:7]])


def test_duplicate_filter_remembers_flushed_digests():
    digests = DuplicateFilter(buffered=4)
    values = [hash((i, "x")) % 2**64 for i in range(100)]
    assert all(digests.add(value) for value in values)
    assert not any(digests.add(value) for value in values)
    assert text_digest(b"a") != text_digest(b"b")


def test_split_depends_on_seed_and_text_only(tmp_path):
    forwards, backwards = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    forwards.write_bytes(as_jsonl(TEXTS))
    backwards.write_bytes(as_jsonl(TEXTS[::-1]))
    prepare_dataset(tmp_path / "a", forwards, validation_fraction=0.3)
    prepare_dataset(tmp_path / "b", backwards, validation_fraction=0.3)
    prepare_dataset(tmp_path / "c", forwards, validation_fraction=0.3, seed=7)
    a, b, c = (set(stored_documents(tmp_path / name)["validation"]) for name in "abc")
    assert a == b
    assert a != c
    assert 8 < len(a) < 30


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300"])
def test_result_does_not_depend_on_workers(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(pipeline, "BATCH_CHARACTERS", 300)
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl(TEXTS))
    for workers in (1, 2, 5):
        prepare_dataset(tmp_path / str(workers), source, tokenizer=tokenizer, workers=workers)
    first, *others = ({path.name: path.read_bytes() for path in (tmp_path / str(n)).iterdir()} for n in (1, 2, 5))
    assert all(other == first for other in others)
    assert len(first) == 5


@pytest.mark.parametrize("seed", range(6))
def test_ten_documents_fill_both_splits(tmp_path, seed):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl([f"text {i}" for i in range(10)]))
    for fraction in (0.01, 0.99):
        prepare_dataset(tmp_path / "set", source, seed=seed, validation_fraction=fraction, force=True)
        assert sum(len(texts) for texts in stored_documents(tmp_path / "set").values()) == 10
        assert all(stored_documents(tmp_path / "set").values())


@pytest.mark.parametrize("seed", range(6))
def test_few_documents_are_each_split_at_their_tail(tmp_path, seed):
    """Assigned whole, the book could become the validation text and leave only the note for training."""
    (tmp_path / "book.txt").write_text("b" * 1000)
    (tmp_path / "note.txt").write_text("n" * 10)
    summary = prepare_dataset(tmp_path / "set", tmp_path, seed=seed)
    assert stored_documents(tmp_path / "set") == {"train": ["b" * 900, "n" * 9], "validation": ["b" * 100, "n"]}
    assert "only 2 documents" in summary.split_rule


def test_document_with_lowest_score_fills_an_empty_validation_split():
    rule = splitting.choose_rule([(digest, 5) for digest in range(10)], 1e-12, seed=1)
    lowest = min(range(10), key=rule.score)
    assert [rule.split_of(digest) == "validation" for digest in range(10)] == [digest == lowest for digest in range(10)]


def test_choose_rule_reads_no_more_than_its_survey(monkeypatch):
    for limit in ("SURVEYED_DOCUMENTS", "SURVEYED_CHARACTERS"):
        read = []
        with monkeypatch.context() as patch:
            patch.setattr(splitting, limit, 20)
            splitting.choose_rule((read.append(n) or (n, 1) for n in range(1000)), 0.5, seed=1)
        assert 20 <= len(read) <= 23


@pytest.mark.parametrize("seed", range(12))
def test_validation_text_has_the_wanted_share_of_the_text(tmp_path, seed):
    """By their hashes alone, these documents give between 0.1 % and 44 %."""
    sizes = [40_000, 9_000, 7_000, *(1000 + 10 * i for i in range(30)), *(20 + i for i in range(30))]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([f"{i} " + "word " * (size // 5) for i, size in enumerate(sizes)]))
    summary = prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", seed=seed)
    share = summary.validation.characters / (summary.train.characters + summary.validation.characters)
    assert 0.067 < share < 0.15


def test_equal_documents_are_split_by_their_hash_alone():
    documents = [(text_digest(str(n).encode()), 100) for n in range(500)]
    rule = splitting.choose_rule(documents, 0.1, seed=3)
    assert rule == splitting.HashSplit(0.1, 3)


def test_share_that_documents_cannot_give_is_told(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([str(i) * 1000 for i in range(10, 20)]))
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", validation_fraction=0.001, observer=ConsoleObserver())
    assert "10.00% of the text is for validation instead of 0.10%" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x", "한"])
def test_text_too_short_to_split_is_an_error(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match="there is no train text: 1 characters are too few"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt")
    assert holds_only(tmp_path, "a.txt")


def test_split_tail_cuts_each_document(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl(["0123456789", "abcdefghij"]))
    summary = prepare_dataset(tmp_path / "set", source, split="tail", validation_fraction=0.2)
    assert stored_documents(tmp_path / "set") == {"train": ["01234567", "abcdefgh"], "validation": ["89", "ij"]}
    assert "as requested" in summary.split_rule


def test_tokenizer_is_trained_on_training_text_only(tmp_path):
    source = tmp_path / "book.txt"
    source.write_text("ab" * 900 + "zq" * 100)
    summary = prepare_dataset(tmp_path / "set", source, tokenizer="bpe:258")
    assert load_tokenizer(tmp_path / "set").token_bytes(256) == b"ab"
    assert summary.vocab_size == 258


def test_small_vocabulary_is_reported(tmp_path, capsys):
    source = tmp_path / "book.txt"
    source.write_text("ab " * 900)
    summary = prepare_dataset(tmp_path / "set", source, tokenizer="bpe:4096", observer=ConsoleObserver())
    assert summary.vocab_size < 300
    assert f"the text only yields {summary.vocab_size} tokens" in capsys.readouterr().err


def test_prepare_prints_nothing_and_reports_every_byte_to_its_observer(tmp_path, capfd):
    class Recorder(PrepareObserver):
        def __init__(self):
            self.tasks, self.prepared = [], []

        @contextmanager
        def progress(self, task, total_bytes):
            reported = []
            yield reported.append
            self.tasks.append((task, total_bytes, sum(reported)))

        def on_prepared(self, summary, tokenizer):
            self.prepared.append((summary, tokenizer.name))

    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl(TEXTS))
    recorder = Recorder()
    summary = prepare_dataset(tmp_path / "set", source, observer=recorder)
    stored = 2 * (summary.train.tokens + summary.validation.tokens)
    size = source.stat().st_size
    assert recorder.tasks == [("preparing", size, size), ("writing shards", stored, stored)]
    assert recorder.prepared == [(summary, "bytes")]
    assert tuple(capfd.readouterr()) == ("", "")


def test_summary_counts_and_its_output(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("eeeee ttt a")
    summary = prepare_dataset(tmp_path / "set", tmp_path / "a.txt")
    assert summary.frequent_tokens[:3] == ((ord("e"), 5), (ord("t"), 3), (ord(" "), 2))
    assert summary.vocabulary_used == 5
    assert summary == TokenDataset.open(tmp_path / "set").info
    show_summary(summary, load_tokenizer("bytes"))
    printed = capsys.readouterr().out
    for part in ("characters per token", "5 of 257", "'e' 5", "duplicates dropped: 0", "only one document"):
        assert part in printed
    assert "near-duplicates" not in printed
    show_summary(dataclasses.replace(summary, options={"near_duplicates": 0.8}), load_tokenizer("bytes"))
    assert "near-duplicates dropped: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0},
        {"validation_fraction": 1},
        {"workers": -1},
        {"split": "x"},
        {"shard_tokens": 0},
    ],
)
def test_invalid_options_are_named(tmp_path, options):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=next(iter(options))):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt", **options)


def test_missing_sources_raise(tmp_path):
    with pytest.raises(UsageError, match="no source"):
        prepare_dataset(tmp_path / "set")


def test_existing_dataset_is_replaced_only_with_force(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("first text")
    prepare_dataset(tmp_path / "set", source)
    source.write_text("second text")
    with pytest.raises(UsageError, match="--force"):
        prepare_dataset(tmp_path / "set", source)
    assert all_documents(tmp_path / "set") == ["first tex", "t"]
    prepare_dataset(tmp_path / "set", source, force=True)
    assert "second te" in all_documents(tmp_path / "set")
    assert holds_only(tmp_path, "a.txt", "set")


def test_other_folders_are_never_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"jpg")
    with pytest.raises(UsageError, match="not a dataset"):
        prepare_dataset(tmp_path / "photos", tmp_path / "a.txt", force=True)
    assert holds_only(tmp_path / "photos", "one.jpg")


def test_failed_replacement_keeps_the_old_dataset(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("first text")
    prepare_dataset(tmp_path / "set", source)
    before = stored_documents(tmp_path / "set")
    source.write_bytes(b"\xff")
    with pytest.raises(DataError):
        prepare_dataset(tmp_path / "set", source, force=True)
    assert stored_documents(tmp_path / "set") == before


def test_file_size_limit_is_reported_as_full_disk(tmp_path):
    """Sets a real file-size limit in a separate process, so that the kernel rejects the write."""
    source = tmp_path / "a.txt"
    source.write_text("x" * 3_000_000)
    code = (
        "import resource, signal, sys; from pathlib import Path;"
        "from glassgpt.data import prepare, PrepareOptions; from glassgpt.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "try: prepare(PrepareOptions((sys.argv[1],), Path(sys.argv[2]), tokenizer='bytes'))\n"
        "except DataError as error: print(error); sys.exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "set"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "disk is full" in done.stdout) == (1, True), done.stdout + done.stderr
    assert holds_only(tmp_path, "a.txt")


def test_no_space_left_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def no_space(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glassgpt.data.shard_writer.ShardFile.append", no_space)
    with pytest.raises(DataError, match=r"the disk is full.*nothing was written"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt")
    assert holds_only(tmp_path, "a.txt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_nothing(tmp_path, number):
    """Signals a real process while it reads an endless source, a pipe that stays open."""
    code = (
        "import sys; from pathlib import Path; from glassgpt.data import prepare, PrepareOptions\n"
        "from glassgpt.errors import Interrupted\n"
        "try: prepare(PrepareOptions(('-',), Path(sys.argv[1]), tokenizer='bytes'))\n"
        "except Interrupted as stop: print(stop); sys.exit(stop.exit_code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "set"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("text\n" * 100_000)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".set.*/scratch/sources/0/standard-input.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    printed = process.communicate(timeout=20)[0]
    assert process.returncode == 128 + number
    assert "nothing was written" in printed
    assert holds_only(tmp_path)


def test_signal_while_encoding_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(TEXTS))
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("glassgpt.data.shard_writer.ShardFile.append", lambda *a: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    assert stopped.value.exit_code == 143
    assert holds_only(tmp_path, "a.jsonl")
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """30 MB more text must raise the peak memory by at most 12 MB."""
    code = (
        "import resource, sys; from pathlib import Path; from glassgpt.data import prepare, PrepareOptions\n"
        "prepare(PrepareOptions((sys.argv[1],), Path(sys.argv[2]), tokenizer='bytes'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for megabytes in (10, 40):
        source = tmp_path / f"{megabytes}.jsonl"
        with source.open("wb") as file:
            for i in range(megabytes):
                file.write(as_jsonl([f"{i} {j} " + "words and words " * 62 for j in range(1000)]))
        command = [sys.executable, "-c", code, source, tmp_path / f"set{megabytes}"]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 12_000, f"kilobytes at the peak: {peaks}"


def test_validation_sources_are_the_validation_text(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "same.txt").write_text("learn this\n")
    (tmp_path / "b" / "same.txt").write_text("and be tested on that\n")
    out = tmp_path / "data"
    names = [str(tmp_path / folder / "same.txt") for folder in "ab"]
    options = PrepareOptions(sources=(names[0],), validation_sources=(names[1],), out=out, tokenizer="bytes")
    summary = prepare(options)
    dataset = TokenDataset.open(out)
    read = {split: dataset.split(split).read(1, len(dataset.split(split)) - 1) for split in ("train", "validation")}
    assert {split: bytes(tokens.tolist()).decode() for split, tokens in read.items()} == {
        "train": "learn this\n",
        "validation": "and be tested on that\n",
    }
    assert "validation text from its own sources" in summary.split_rule
    twice = dataclasses.replace(options, validation_sources=(names[0],), force=True)
    with pytest.raises(DataError, match="there is no validation text"):  # an exact copy of the training text
        prepare(twice)
    assert TokenDataset.open(out).info == summary
    with pytest.raises(UsageError, match="cannot be combined with validation sources"):
        prepare(dataclasses.replace(options, split="tail", force=True))


def test_pattern_is_stored_in_the_tokenizer_and_the_summary(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(TEXTS))
    usual, other = (
        prepare_dataset(tmp_path / pattern, tmp_path / "a.jsonl", tokenizer="bpe:300", pattern=pattern)
        for pattern in ("glassgpt", "llama")
    )
    assert "pattern" not in usual.options  # datasets that were prepared before the option stay as they are
    assert other.options["pattern"] == "llama"
    tokenizer = TokenDataset.open(tmp_path / "llama").tokenizer
    assert tokenizer.payload["pattern"] == PATTERNS["llama"]
    assert tokenizer.fingerprint == other.tokenizer_fingerprint != usual.tokenizer_fingerprint
