"""The start of `prepare`: loading the vocabulary early, and the number of threads."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from data_helpers import as_jsonl

from glassgpt.cli import data as data_commands
from glassgpt.cli import main
from glassgpt.data.processes import processes

ENCODE = """
from pathlib import Path
from glassgpt.data import load_tokenizer
load_tokenizer("gpt2").encode_batch(["some words " * 20_000] * 20)
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
print(sum(name.startswith("fastokens") for name in names))
"""


@pytest.mark.parametrize(
    ("sources", "options", "is_begun"),
    [
        (["a.jsonl"], [], True),
        (["a.jsonl", "b.jsonl"], [], True),
        (["a.jsonl"], ["--tokenizer", "bytes"], False),
        (["a.jsonl", "."], [], False),
        (["a.jsonl", "large.jsonl"], [], False),
    ],
)
def test_vocabulary_is_loaded_early_only_if_this_process_encodes(tmp_path, monkeypatch, sources, options, is_begun):
    for name in ("a", "b", "large"):
        (tmp_path / f"{name}.jsonl").write_bytes(
            as_jsonl([f"{name} {i}" for i in range(500 if name == "large" else 20)])
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_commands, "EARLY_BYTES", 2000)
    begun = []
    monkeypatch.setattr(data_commands, "begin_to_load_gpt2", lambda: begun.append(True))
    main(["prepare", *sources, *options, "--out", "set"])
    assert bool(begun) is is_begun
    assert Path("set/dataset.json").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux lists them")
@pytest.mark.skipif(find_spec("fastokens") is None or (os.cpu_count() or 1) < 2, reason="needs fastokens and two cores")
@pytest.mark.parametrize(("given", "others"), [("1", "0"), ("2", "1")])
def test_fastokens_uses_the_given_number_of_threads(monkeypatch, given, others):
    """It reads a variable of its own; the calling thread is one of them."""
    monkeypatch.setenv("RAYON_NUM_THREADS", given)
    monkeypatch.delenv("FASTOKENS_BPE_THREADS", raising=False)
    assert subprocess.check_output([sys.executable, "-c", ENCODE], text=True).strip() == others


def test_worker_processes_are_told_their_number_of_threads():
    with processes(1, threads=3) as workers:
        assert list(workers.map(os.getenv, ["RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS"])) == ["3", "3"]
