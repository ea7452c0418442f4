import random
import signal
import subprocess
import time

import pytest
from data_helpers import as_jsonl, prepare_dataset, stored_documents
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glassgpt.data.tokenizers import bpe, load_tokenizer, long_runs, train_tokenizer, unigram, worker
from glassgpt.errors import TokenizerError

WORDS = ["a", "한국", " ", "   ", "\n", "x1", "1234", "?!", "e\u0301", "word ", "\x1c", "'s"]
mixed = st.lists(st.tuples(st.sampled_from(WORDS), st.integers(1, 60))).map(
    lambda parts: "".join(word * count for word, count in parts)
)


def longest_run(text):
    return max((len(run[0]) for run in long_runs.RUN.finditer(text)), default=0)


@given(mixed, st.integers(2, 90))
@example(" \x1c", 4)  # a separator for Python's isspace, not for the patterns of tokenizers
@settings(max_examples=200, deadline=None)
def test_runs_are_found_and_cut(text, limit):
    if longest_run(text) > limit:
        assert long_runs.has_long_run(text, limit)
    if longest_run(text) < limit // 2:
        assert not long_runs.has_long_run(text, limit)
    parts = long_runs.split_unbroken_runs(text, limit)
    assert "".join(parts) == text
    unbroken = [len(run[0]) for part in parts for run in long_runs.UNBROKEN.finditer(part)]
    assert max(unbroken, default=0) <= limit


@given(mixed)
@settings(max_examples=100, deadline=None)
def test_training_text_is_cut_within_runs_only(text):
    parts = list(long_runs.training_parts([text]))
    assert "".join(parts) == text
    assert all(longest_run(part) <= long_runs.MAX_TRAINING_RUN for part in parts)


def test_text_without_blanks_keeps_gpt2s_ids(oracle):
    text = "".join(random.Random(0).choices(["한국어", "text", "12", "...", "e\u0301"], k=2000))
    parts = long_runs.split_unbroken_runs(text, 300)
    assert len(parts) > 10
    assert [token for part in parts for token in oracle.encode_ordinary(part)] == oracle.encode_ordinary(text)


def test_fast_backend_leaves_long_runs_to_tiktoken(gpt2, oracle):
    pytest.importorskip("fastokens")
    texts = ["Hello", f"picture {'A' * 50_000} end", "world", f"x{' ' * 30_000}y"]
    assert [ids.tolist() for ids in gpt2.encode_batch(texts)] == [oracle.encode_ordinary(text) for text in texts]


@pytest.mark.parametrize("run", ["A", " ", "가나"])
def test_bpe_trained_on_a_long_run_has_no_long_tokens_and_is_usable(run):
    """One token of 20,000 bytes took fastokens 40 seconds to load."""
    text = f"some words before {run * 30_000} and after"
    start = time.monotonic()
    tokenizer = train_tokenizer("bpe:500", [text])
    ids = tokenizer.encode_batch([text])[0]
    assert time.monotonic() - start < 5
    assert tokenizer.byte_lengths().max() <= 4 * long_runs.MAX_TRAINING_RUN
    assert tokenizer.decode(ids.tolist()) == text


@pytest.mark.parametrize("run", ["A", "AC", " ", "\n", "가나", "!?", "字句"])
def test_fast_backend_takes_long_words_in_time_that_grows_with_their_length(gpt2, oracle, run):
    """In earlier versions of fastokens it grew with the square of the length."""
    pytest.importorskip("fastokens")
    text = f"x{run * (bpe.MAX_FAST_RUN // len(run))}y"
    start = time.process_time()
    ids = gpt2._fastokens_backend()([text])[0]
    assert time.process_time() - start < 1
    assert ids.tolist() == oracle.encode_ordinary(text)


def test_fast_backend_is_not_used_for_long_tokens():
    pieces = [bytes([byte]) for byte in range(256)] + [b"A" * 2**power for power in range(1, 13)]
    assert bpe.BPETokenizer("long", bpe.TRAINED_PATTERN, pieces)._fastokens_backend() is None


def test_unigram_training_reads_few_long_words(monkeypatch):
    monkeypatch.setattr(unigram, "MAX_LONG_WORD_CHARACTERS", 250)
    words = ["short words", "A" * 128, "B" * 100, "C" * 80, "short again"]
    read = list(unigram._without_most_long_words(words))
    assert read == ["short words", "A" * 128, "B" * 100, " ", "short again"]


class Alarm(Exception):
    pass


def test_training_reacts_to_a_signal(tmp_path, monkeypatch):
    """The library itself would return in 20 seconds."""
    monkeypatch.setattr(worker, "IN_PROCESS_CHARACTERS", 0)
    monkeypatch.setattr(unigram, "MAX_LONG_WORD_CHARACTERS", 10**9)
    pytest.importorskip("tokenizers")
    random_letters = "".join(random.Random(0).choices("ACGT ", k=800_000))
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(worker.subprocess, "Popen", Recorded)

    def ring(number, frame):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(Alarm):
            worker.train_interruptibly("unigram:1000", [random_letters], tmp_path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 5
    (process,) = started
    assert process.returncode == -signal.SIGKILL  # it was ended and waited for


def test_worker_trains_the_same_tokenizer_and_passes_errors_on(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "IN_PROCESS_CHARACTERS", 0)
    texts = ["tie ab cd ef gh " * 50, "one two"]
    trained = worker.train_interruptibly("bpe:300", texts, tmp_path)
    assert trained.fingerprint == train_tokenizer("bpe:300", texts).fingerprint
    trained = worker.train_interruptibly("bpe:300", texts, tmp_path, "llama")
    assert trained.fingerprint == train_tokenizer("bpe:300", texts, "llama").fingerprint
    with pytest.raises(TokenizerError, match=r"^cannot train a tokenizer 'bpe:1'; give KIND:SIZE"):
        worker.train_interruptibly("bpe:1", texts, tmp_path)


def test_prepare_trains_in_a_worker(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(worker, "IN_PROCESS_CHARACTERS", 0)
    run = worker._run_worker
    monkeypatch.setattr(worker, "_run_worker", lambda *arguments: (used.append(arguments), run(*arguments)))
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([f"story number {i}" for i in range(40)]))
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", tokenizer="bpe:300")
    assert len(used) == 1
    assert load_tokenizer(tmp_path / "set").kind == "bpe"
    assert len(stored_documents(tmp_path / "set")["train"]) > 20


def test_incomplete_vocabulary_is_named_when_the_library_panics(capfd):
    pieces = [bytes([byte]) for byte in range(256) if byte != ord("q")]
    tokenizer = bpe.BPETokenizer("holey", bpe.TRAINED_PATTERN, pieces)
    with pytest.raises(TokenizerError, match="the tokenizer holey cannot encode this text"):
        tokenizer.encode("a q b")
    capfd.readouterr()  # the library prints its own traceback


def test_pattern_that_is_none_is_named():
    tokenizer = bpe.BPETokenizer("odd", "(", [bytes([byte]) for byte in range(256)])
    with pytest.raises(TokenizerError, match="the tokenizer odd cannot be used"):
        tokenizer.encode("text")
