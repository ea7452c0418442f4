"""Programs in separate processes end in time, without the network, the user's variables, or anything left running."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from glassgpt.code.isolation import OUTPUT_BYTES, Limits, has_namespaces, run_isolated

PYTHON = [sys.executable, "-I", "-c"]


def run(program, folder, limits=None):
    return run_isolated([*PYTHON, program], folder, limits or Limits(seconds=10))


@pytest.mark.parametrize(
    ("program", "code"), [("print('hello')", 0), ("raise SystemExit(3)", 3), ("assert False, 'wrong'", 1)]
)
def test_exit_codes_and_output(program, code, tmp_path):
    outcome = run(program, tmp_path)
    assert outcome.code == code
    assert outcome.passed == (code == 0)
    assert ("hello" in outcome.output) == (code == 0)
    assert ("wrong" in outcome.output) == (code == 1)


def test_a_program_that_does_not_exist(tmp_path):
    outcome = run_isolated(["no-such-program"], tmp_path)
    assert outcome.code == 127
    assert "cannot run no-such-program" in outcome.output


def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path):
    if not has_namespaces():
        pytest.skip("this system does not allow own namespaces")
    # The child leaves the session, so that only the process namespace ends it; it would write to the file.
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(1)\n    open('late', 'w').close()\n"
        "time.sleep(60)\n"
    )
    start = time.monotonic()
    outcome = run(program, tmp_path, Limits(seconds=0.6))
    assert outcome.code is None
    assert not outcome.passed
    assert time.monotonic() - start < 8
    time.sleep(1)
    assert not (tmp_path / "late").exists()


def test_memory_and_files_are_limited(tmp_path):
    outcome = run("x = bytearray(600 << 20)", tmp_path, Limits(memory_mb=300))
    assert outcome.code not in (0, None)
    assert "MemoryError" in outcome.output
    outcome = run("open('big', 'wb').write(b'x' * (3 << 20))", tmp_path, Limits(file_mb=1))
    assert outcome.code not in (0, None)
    assert (tmp_path / "big").stat().st_size <= 1 << 20


def test_no_network(tmp_path):
    if not has_namespaces():
        pytest.skip("this system does not allow own namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = run(connect, tmp_path)
    assert outcome.has_namespaces
    assert outcome.code == 1
    assert "OSError" in outcome.output or "unreachable" in outcome.output or "refused" in outcome.output


def test_the_users_variables_are_not_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", "hidden")
    outcome = run("import os; print(os.environ.get('SERVICE_TOKEN'), os.environ['HOME'], os.getcwd())", tmp_path)
    assert outcome.output.split() == ["None", str(tmp_path), str(tmp_path)]


def test_only_the_end_of_a_long_output_is_kept(tmp_path):
    outcome = run("print('x' * 100_000 + 'end')", tmp_path)
    assert len(outcome.output) == OUTPUT_BYTES
    assert outcome.output.endswith("end\n")


def test_file_descriptors_are_not_passed_on_and_none_is_left_open(tmp_path):
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    outcome = run("import os; print(sorted(os.listdir('/proc/self/fd')))", tmp_path)
    assert outcome.output.count("'") // 2 <= 4  # standard streams and the folder itself
    if before:
        assert set(os.listdir("/proc/self/fd")) == before
