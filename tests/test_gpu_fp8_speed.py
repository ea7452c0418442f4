"""Arithmetic of the comparison of steps in 8 bits, and its parts that run on a CPU."""

from pathlib import Path

import pytest

from scripts import load_script


def test_turns_are_compared_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = load_script("gpu_fp8_speed", monkeypatch)
    config = speed.load_config("gpt2", speed.SETTINGS)
    head = speed.Variant("head", config, None, peak_bytes=7, times=[[99.0, 100.0, 180.0], [100.0, 101.0, 99.0]])
    peer, own = speed.rows([head], [[120.0, 125.0, 130.0], [127.0, 126.0, 124.0]])
    assert peer["ratio_by_round"] == [1.0, 1.0]
    assert own["step_ms_by_round"] == [100.0, 100.0]
    assert own["ratio_by_round"] == [1.25, 1.26]
    assert own["figure"] == 655360
    assert own["peak_memory_bytes"] == 7
    assert [row["ratio_to_reference"] for row in speed.rows([head], [])] == [1.0]
    unfinished = speed.Variant("mlp", config, None)
    assert speed.rows([head, unfinished], [])[1]["figure"] is None


def test_gaps_between_kernels_are_those_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    load_script("gpu_fp8_speed", monkeypatch)
    from gpu_parts.timeline import Kernel, summary  # pyright: ignore

    kernels = [Kernel("gemm", 0, 4e3), Kernel("copy", 1e3, 2e3), Kernel("gemm", 6e3, 8e3)]
    found = summary(kernels, 2)
    assert (found["busy_ms"], found["whole_ms"]) == (3, 4)
    assert found["longest"][0] == ["gemm", 3, 1]
    assert found["largest_gaps_ms"] == [[2, "gemm", "gemm"]]


def test_all_checks_hold_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    load_script("gpu_fp8_speed", monkeypatch)
    from gpu_parts.fp8_check import checks  # pyright: ignore

    assert all(one["holds"] for one in checks(small=True))


def test_times_that_nanogpt_prints_are_those_behind_the_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_script("gpu_fp8_speed", monkeypatch)
    from gpu_parts.nanogpt import NanoGPT  # pyright: ignore

    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "train.py").write_text(
        "import time\nfor i in range(10**6):\n    print(f'iter {i}: loss 1.0, time {i}.00ms, mfu 1%', flush=True)\n    time.sleep(0.002)\n"
    )
    peer = NanoGPT(tmp_path / "peer", tmp_path / "work", small=True)
    try:
        peer.wait_until_compiled(30)
        found = peer.turn(4, 2)
        assert found == [found[0] + i for i in range(4)]
        assert found[0] >= 10  # eight steps, then the warm-up
    finally:
        peer.close()
