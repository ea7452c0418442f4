"""`prepare --engine ray` writes the bytes of `--engine pool`, whatever is killed. Run by `make test-ray`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.blocks import plan, spans, writing
from glassgpt.data.grammar import grammar_text
from glassgpt.data.observer import PrepareObserver
from glassgpt.errors import DataError, UsageError

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
ROWS = 20_000
BLOCK_BYTES = 200_000


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        for module in (plan, spans):
            patch.setattr(module, "BLOCK_BYTES", BLOCK_BYTES)
        patch.setattr(writing, "IN_PROCESS_BYTES", 0)  # parts are kept
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """12 MB in 60 blocks, with copies and a bad row."""
    path = tmp_path_factory.mktemp("text") / "a.jsonl"
    sentences = grammar_text(2000, seed=3).splitlines()
    with path.open("w") as file:
        for row in range(ROWS):
            body = " ".join(sentences[(row * 7 + at) % 2000] for at in range(10))
            file.write(f'{{"text": "{row % 16_000} {body}"}}\n')
            if row == 14_000:
                file.write('{"text": 5}\n')
    return path


def options(text, out, **more):
    return PrepareOptions((str(text),), out, tokenizer="bytes", skip_bad=1, shard_tokens=2_000_000, workers=2, **more)


@pytest.fixture(scope="module")
def expected(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("pool") / "set"
    prepare(options(text, out))
    return files_of(out)


def files_of(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(text, out):
    code = (
        "import sys; from glassgpt.data.blocks import plan, spans, writing\n"
        f"plan.BLOCK_BYTES = spans.BLOCK_BYTES = {BLOCK_BYTES}\nwriting.IN_PROCESS_BYTES = 0\n"
        "from pathlib import Path; from glassgpt.data import PrepareOptions, prepare\n"
        "from glassgpt.data.show import ConsoleObserver\n"
        "options = PrepareOptions((sys.argv[1],), Path(sys.argv[2]), tokenizer='bytes', skip_bad=1,\n"
        "                         shard_tokens=2_000_000, workers=2, engine='ray')\n"
        "prepare(options, ConsoleObserver())\n"
    )
    return [sys.executable, "-c", code, str(text), str(out)]


def running_tasks(root):
    """Processes of Ray that carry out a task and were started, directly or not, by a process."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
    for pid, name in names.items():
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and name.startswith(b"ray::_call"):
            yield pid


def test_same_bytes_as_processes(text, expected, tmp_path):
    summary = prepare(options(text, tmp_path / "set", engine="ray"))
    assert files_of(tmp_path / "set") == expected
    assert (summary.duplicates, summary.skipped) == (4000, 1)


def test_same_bytes_with_killed_workers(text, expected, tmp_path):
    process = subprocess.Popen(command(text, tmp_path / "set"), stderr=subprocess.PIPE, text=True)
    killed = 0
    while process.poll() is None and killed < 3:
        time.sleep(0.05)
        for pid in list(running_tasks(process.pid))[:1]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    assert killed == 3
    assert files_of(tmp_path / "set") == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_next_try_continues_after_an_ended_driver(text, expected, tmp_path, number):
    process = subprocess.Popen(command(text, tmp_path / "set"), stderr=subprocess.DEVNULL)
    folder = tmp_path / ".set.parts"
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*.json"))) < 2:
        assert process.poll() is None, "it was done before two parts were seen"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(60)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert len(before) >= 2

    class Recorder(PrepareObserver):
        notes = []  # noqa: RUF012

        def on_note(self, text):
            self.notes.append(text)

    kept = {}
    choose = writing.choose

    def noting(*arguments, **more):
        kept.update({path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")})
        return choose(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "choose", noting)
        prepare(options(text, tmp_path / "set", engine="ray"), Recorder())
    assert {name: kept[name] for name in before} == before  # not written again
    assert files_of(tmp_path / "set") == expected
    assert any("parts of an earlier try found" in note for note in Recorder.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_interrupt_ends_in_order_and_leaves_finished_parts(text, tmp_path):
    process = subprocess.Popen(command(text, tmp_path / "set"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list((tmp_path / ".set.parts").glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert "finished parts are kept in" in messages
    assert "nothing was written" in messages
    assert [path.name for path in tmp_path.iterdir()] == [".set.parts"]


def test_error_names_the_line_of_the_file(text, tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.data.splitting.SURVEYED_DOCUMENTS", 20)
    wrong = PrepareOptions((str(text),), tmp_path / "set", tokenizer="bytes", engine="ray", workers=2)
    with pytest.raises(DataError, match=r"a\.jsonl, line 14002: field 'text' holds int, not text; skip such rows"):
        prepare(wrong)


def test_overlaps_are_found_as_with_processes(tmp_path):
    pytest.importorskip("rensa")
    sentences = grammar_text(3000, seed=5).splitlines()
    rows = [" ".join(sentences[at : at + 15]) for at in range(0, 3000, 5)]  # each shares sentences with the next ones
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    more = {"near_duplicates": 0.5, "contamination": "remove"}
    for engine in ("pool", "ray"):
        prepare(options(tmp_path / "a.jsonl", tmp_path / engine, engine=engine, **more))
    assert files_of(tmp_path / "pool") == files_of(tmp_path / "ray")


def test_missing_cluster_is_told(text, tmp_path):
    with pytest.raises(UsageError, match=r"no Ray cluster at --ray-address 127\.0\.0\.1:1: .*ray start --head"):
        prepare(options(text, tmp_path / "set", engine="ray", ray_address="127.0.0.1:1"))
    assert not list(tmp_path.iterdir())
