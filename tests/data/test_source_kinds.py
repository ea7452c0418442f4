"""Files as people have them: other encodings, misnamed files, bad rows, links, hidden files, bombs."""

import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from data_helpers import TEXTS, all_documents, as_jsonl, as_parquet, prepare_dataset, stored_documents

from glassgpt.data import decompress, encodings, json_rows, readers, text_cuts
from glassgpt.data.show import ConsoleObserver
from glassgpt.errors import DataError, UsageError


def whole_text(folder):
    return "".join(text for texts in stored_documents(folder).values() for text in texts)


KOREAN = "옛날 어느 마을에 나무꾼이 살고 있었습니다. 그는 매일 산에 올랐습니다.\n" * 20
SAMPLES = {
    "CP949": KOREAN,
    "CP932": "昔々、あるところに、おじいさんとおばあさんが住んでいました。\n" * 20,
    "GB18030": "从前有一个樵夫，他住在山里，每天上山砍柴。他的孩子在家里读书。\n" * 20,
    "cp1252": "Les élèves étaient déjà à l’école, “naïve” façade.\n" * 20,
    "UTF-16-LE": "Once upon a time.\n" * 20,
    "UTF-16-BE": "Once upon a time.\n" * 20,
    "UTF-32-LE": "Once upon a time.\n" * 20,
    "UTF-32-BE": "Once upon a time.\n" * 20,
    "UTF-16": KOREAN,
    "UTF-32": KOREAN,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_other_encodings_are_named_and_can_be_read(tmp_path, name):
    source = tmp_path / "my texts.txt"
    source.write_bytes(SAMPLES[name].encode(name))
    with pytest.raises(DataError) as refused:
        prepare_dataset(tmp_path / "set", source)
    message = str(refused.value)
    assert f"it looks like {name}: add --encoding {name.lower()}" in message
    assert f"iconv -f {name} -t UTF-8 '{source}'" in message
    prepare_dataset(tmp_path / "set", source, encoding=name)
    assert whole_text(tmp_path / "set") == SAMPLES[name]


def test_encoding_without_evidence_is_not_guessed(tmp_path):
    (tmp_path / "a.txt").write_bytes("Жил-был старик у самого синего моря".encode("cp1251"))
    with pytest.raises(DataError, match=r"name its encoding with --encoding.*iconv -f ENCODING"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt")


def test_wrong_or_unknown_encoding_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(KOREAN.encode())
    with pytest.raises(DataError, match=r"a.txt is not ascii.*--encoding"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt", encoding="ascii")
    with pytest.raises(UsageError, match="encoding is 'klingon'"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.txt", encoding="klingon")


def test_a_few_nul_characters_are_text():
    assert not encodings.has_nul_bytes(b"a text with \0 in it")


def layouts(texts):
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    return {
        "lines": "".join(json.dumps(row) + "\n" for row in rows),
        "array": json.dumps(rows),
        "indented array": json.dumps(rows, indent=2),
        "array of texts": json.dumps(texts),
        "indented objects": "\n".join(json.dumps(row, indent=1) for row in rows),
    }


@pytest.mark.parametrize("layout", layouts([]))
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "-"])
def test_rows_of_json_are_recognized_by_their_first_bytes(tmp_path, monkeypatch, layout, name):
    monkeypatch.setattr(json_rows, "BLOCK_CHARACTERS", 50)  # values that reach over the end of a block
    content = b"\xef\xbb\xbf" + layouts(TEXTS)[layout].encode()
    source = tmp_path / name
    if name == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        source = "-"
    else:
        source.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    prepare_dataset(tmp_path / "set", source)
    assert all_documents(tmp_path / "set") == sorted(TEXTS)


def test_json_files_of_a_folder_are_read_only_if_they_hold_rows(tmp_path, capsys):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    (folder / "package.json").write_text('{"name": "corpus", "version": 1}')
    prepare_dataset(tmp_path / "set", folder, observer=ConsoleObserver())
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    assert "other types ignored: 1 (.json)" in capsys.readouterr().err


def test_text_that_begins_with_a_brace_stays_text(tmp_path, monkeypatch):
    text = "{not json} but a story that begins with a brace"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    prepare_dataset(tmp_path / "set", "-")
    assert whole_text(tmp_path / "set") == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": ', "value 2: not valid JSON"),
        ('[{"text": "a"}, 5]', "value 2: expected a JSON object or a text, got int"),
        ('[{"body": "a"}]', "no field 'text'.*body"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "these are chats"),
        ('{"text": ' + "[" * 50_000 + "\n", "not valid JSON"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}\n", "not valid JSON"),
        ('{"text": "b\\ud800"}\n', r"line 1: .*lone surrogate U\+D800"),
        (json.dumps({"x" * 100_000: 1, **{str(i): i for i in range(100_000)}}) + "\n", "no field 'text'"),
    ],
)
def test_bad_json_is_one_short_line(tmp_path, content, message):
    suffix = "json" if content.startswith("[") else "jsonl"
    (tmp_path / f"a.{suffix}").write_text(content)
    with pytest.raises(DataError, match=message) as refused:
        prepare_dataset(tmp_path / "set", tmp_path / f"a.{suffix}")
    assert len(str(refused.value)) < 1500
    assert "\n" not in str(refused.value)


BAD_LINES = [b'{"text": null}', b'{"text": ', b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"[1]", b'{"other": "x"}']


@pytest.mark.parametrize(
    ("field", "role", "content"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
@pytest.mark.parametrize("asked", ["text", None], ids=["without-field", "with-field"])
def test_chats_are_named_with_a_command_that_makes_texts_of_them(tmp_path, field, role, content, asked):
    turns = [{role: "user", content: 'Is it "day"?'}, {role: "assistant", content: "Yes.\nIt is."}]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({field: turns, "id": number}) + "\n" for number in range(3)))
    with pytest.raises(DataError, match="chats.*write each as one text") as caught:
        prepare_dataset(tmp_path / "data", file, field=asked or field)
    command = str(caught.value).partition("for example with: ")[2]
    assert command.startswith("jq -c ")
    if shutil.which("jq"):
        done = subprocess.run(
            command.replace("FILE > texts.jsonl", "chats.jsonl"),
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
        assert texts == ['user: Is it "day"?\nassistant: Yes.\nIt is.'] * 3


def test_bad_rows_are_skipped_up_to_a_limit(tmp_path, capsys):
    lines = as_jsonl(TEXTS).splitlines()
    for i, bad in enumerate(BAD_LINES):
        lines.insert(3 * i + 2, bad)
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"line 3: field 'text' holds null.*--skip-bad N"):
        prepare_dataset(tmp_path / "set", source)
    with pytest.raises(DataError, match=rf"{len(BAD_LINES) - 1} bad rows were skipped before"):
        prepare_dataset(tmp_path / "set", source, skip_bad=len(BAD_LINES) - 1)
    summary = prepare_dataset(
        tmp_path / "set", source, skip_bad=len(BAD_LINES), tokenizer="bpe:300", observer=ConsoleObserver()
    )
    assert summary.skipped == len(BAD_LINES)
    assert all_documents(tmp_path / "set") == sorted(TEXTS)
    printed = capsys.readouterr()
    assert f"bad rows skipped: {len(BAD_LINES)}" in printed.out
    assert "line 3" in printed.err


def test_bad_rows_of_parquet_are_named_and_skipped(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = b"".join([b"good one", b"bad \xff one", b"good two"])
    offsets = arrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 8, 17, 25)))
    texts = arrow.Array.from_buffers(arrow.string(), 3, [None, offsets, arrow.py_buffer(content)])
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, row 2: invalid UTF-8 \(byte 0xFF\)"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.parquet")
    summary = prepare_dataset(tmp_path / "set", tmp_path / "a.parquet", skip_bad=1, split="tail")
    assert (summary.skipped, summary.train.documents) == (1, 2)


def test_damaged_parquet_pages_are_named(tmp_path):
    content = bytearray(as_parquet([f"{i} " * 40 for i in range(3000)]))
    content[2000:30_000:7] = bytes(len(content[2000:30_000:7]))
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match="a.parquet"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.parquet")


def test_documents_of_blanks_count_as_empty(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([*TEXTS, "  \n\t ", "\u3000"]))
    assert prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl").empty == 2
    (tmp_path / "b.txt").write_text("  \n\n ")
    with pytest.raises(DataError, match="no text"):
        prepare_dataset(tmp_path / "none", tmp_path / "b.txt")


def test_separator_cuts_text_files_into_documents(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text_cuts, "TEXT_BLOCK_BYTES", 64)  # separators that reach over the end of a block
    texts = [f"story {i}\nof {'x' * (5 * i)} 한국어" for i in range(30)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n<|endoftext|>\n")
    prepare_dataset(tmp_path / "whole", tmp_path / "a.txt", observer=ConsoleObserver())
    assert "--separator '<|endoftext|>'" in capsys.readouterr().err
    prepare_dataset(
        tmp_path / "set", tmp_path / "a.txt", separator="<|endoftext|>", deduplicate=False, observer=ConsoleObserver()
    )
    assert "--separator" not in capsys.readouterr().err
    long = [text for text in texts if len(text.encode()) > 64]
    stored = all_documents(tmp_path / "set")
    assert set(texts) - set(long) <= set(stored)
    assert sorted("".join(stored).replace("\n", "")) == sorted("".join(texts).replace("\n", ""))


def test_carriage_returns_and_decomposed_text_are_told_and_normalized(tmp_path, capsys):
    decomposed = unicodedata.normalize("NFD", KOREAN)
    (tmp_path / "a.txt").write_bytes(decomposed.replace("\n", "\r\n").encode())
    prepare_dataset(tmp_path / "set", tmp_path / "a.txt", observer=ConsoleObserver())
    printed = capsys.readouterr().err
    assert "--normalize nfc" in printed
    assert "--normalize lf" in printed
    prepare_dataset(tmp_path / "set2", tmp_path / "a.txt", normalize=("nfc", "lf"), observer=ConsoleObserver())
    assert "--normalize" not in capsys.readouterr().err
    assert whole_text(tmp_path / "set2") == KOREAN
    with pytest.raises(UsageError, match="normalize is upper"):
        prepare_dataset(tmp_path / "set3", tmp_path / "a.txt", normalize=("upper",))


@pytest.fixture
def linked(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    folder.mkdir()
    (outside / "secret.txt").write_text("secret one")
    (outside / "deep" / "b.txt").write_text("secret two")
    (folder / "a.txt").write_text("public")
    (folder / "same.txt").symlink_to("a.txt")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "deep").symlink_to(outside / "deep")
    (folder / "loop").symlink_to(folder)
    return folder


@pytest.mark.parametrize("pattern", ["", "*.txt", "**/*.txt"])
def test_links_out_of_a_folder_are_followed_only_if_asked(tmp_path, linked, pattern, capsys):
    name = linked / pattern if pattern else linked
    prepare_dataset(tmp_path / "set", name, observer=ConsoleObserver())
    assert "secret" not in "".join(all_documents(tmp_path / "set"))
    assert "--follow-links" in capsys.readouterr().err
    prepare_dataset(tmp_path / "all", name, follow_links=True)
    assert "secret on" in "".join(all_documents(tmp_path / "all"))
    assert ("secret tw" in "".join(all_documents(tmp_path / "all"))) == (pattern != "*.txt")


def test_folder_of_nothing_but_links_names_the_option(tmp_path, linked):
    for name in ("a.txt", "same.txt"):
        (linked / name).unlink()
    for name in (linked, linked / "*.txt"):
        with pytest.raises(DataError, match="--follow-links"):
            prepare_dataset(tmp_path / "set", name)


def test_hidden_files_are_not_text(tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "a-checkpoint.md").write_text("old")
    (folder / "._a.txt").write_bytes(b"\0\5\x16\7 resource fork \xff")
    (folder / "a.txt").write_text("public")
    prepare_dataset(tmp_path / "set", folder, observer=ConsoleObserver())
    assert all_documents(tmp_path / "set") == ["c", "publi"]
    assert "hidden files" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_unreadable_subfolder_is_an_error(tmp_path, monkeypatch, pattern):
    folder = tmp_path / "in"
    (folder / "closed").mkdir(parents=True)
    (folder / "a.txt").write_text("public")
    scandir = os.scandir

    def refusing(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"closed cannot be read: Permission denied"):
        prepare_dataset(tmp_path / "set", folder / pattern if pattern else folder)


def test_named_pipe_is_read_once_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"echo one text of a pipe > '{tmp_path}/pipe'"])
    prepare_dataset(tmp_path / "set", tmp_path / "pipe")
    writer.wait()
    assert whole_text(tmp_path / "set") == "one text of a pipe\n"
    with pytest.raises(DataError, match="is a device"):
        prepare_dataset(tmp_path / "zero", "/dev/zero")


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_decompression_bombs_are_named(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(decompress, "ALWAYS_EXPANDED_BYTES", 1 << 20)
    content = b"a" * (1 << 23)
    if suffix == ".zst":
        compressed = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    else:
        compressed = {".gz": gzip.compress, ".xz": lzma.compress}[suffix](content)
    (tmp_path / f"a.txt{suffix}").write_bytes(compressed)
    with pytest.raises(DataError, match=r"a\.txt.* expands to more than .*bomb"):
        prepare_dataset(tmp_path / "set", tmp_path / f"a.txt{suffix}")


@pytest.mark.parametrize("texts", [["a" * (1 << 23)], ["b" * (1 << 16)] * 200])
def test_parquet_bombs_are_named(tmp_path, monkeypatch, texts):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(decompress, "ALWAYS_EXPANDED_BYTES", 1 << 20)
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(DataError, match=r"a\.parquet expands to more than .*bomb"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_rows_that_are_too_long_are_named_and_can_be_skipped(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(json_rows, "BLOCK_CHARACTERS", 400)
    rows = [{"text": "short one"}, {"text": "x" * 5000}, {"text": "short two"}]
    if suffix == "json":
        (tmp_path / "a.json").write_text(json.dumps(rows))
        with pytest.raises(DataError, match=r"a.json, value 2: the row is longer than"):
            prepare_dataset(tmp_path / "set", tmp_path / "a.json")
        return
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"a.jsonl, line 2: the row is longer than"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    summary = prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", skip_bad=1)
    assert (summary.skipped, summary.train.documents) == (1, 2)


def test_large_rows_are_cut_like_text_files(tmp_path, monkeypatch):
    monkeypatch.setattr(text_cuts, "TEXT_BLOCK_BYTES", 1000)
    text = "a line of 한국어\n\n" * 200
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([text]))
    found = list(readers.FileSource(tmp_path / "a.jsonl", "text", "a").documents())
    assert len(found) > 2
    assert "".join(document.text for document in found) == text


@pytest.mark.slow
def test_one_endless_line_takes_bounded_memory(tmp_path):
    """50 MB more in one line must not raise the peak memory by as much; it was three times as much."""
    code = (
        "import sys; from pathlib import Path; from glassgpt.data import prepare, PrepareOptions\n"
        "prepare(PrepareOptions((sys.argv[1],), Path(sys.argv[2]), tokenizer='bytes'))\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )  # not ru_maxrss, which a process inherits from the one that starts it
    if not os.path.exists("/proc/self/status"):
        pytest.skip("the peak memory of a process is read from /proc")
    peaks = []
    for megabytes in (20, 70):
        source = tmp_path / f"{megabytes}.txt"
        source.write_bytes(b"0123456789" * (100_000 * megabytes))
        command = [sys.executable, "-c", code, source, tmp_path / f"set{megabytes}"]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 60_000, f"kilobytes at the peak: {peaks}"
