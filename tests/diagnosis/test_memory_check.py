"""The memory check: counting, measuring, and fitting."""

import pytest
import torch
from diagnosis_helpers import CPU, SHAPES, codes, small_batch_config

from glassgpt import device
from glassgpt.diagnosis.catalogue import describe_measurement
from glassgpt.diagnosis.checks import memory
from glassgpt.model.build import build_model


def test_live_tensor_bytes_counts_each_storage_once():
    present = torch.zeros(1000)
    with memory.LiveTensorBytes([present]) as counter:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # shares its storage
        d = c * 2
    assert counter.peak == 4 * 3000
    assert d.shape == (10, 100)


def test_measured_requirement_predicts_a_larger_batch():
    """A line through micro-batches of 1 and 2 sequences predicts the measurement with 6."""
    need = memory.measure_requirement(SHAPES["gpt2"], small_batch_config(), CPU)
    assert need.bytes_for(6) == pytest.approx(memory._peak(SHAPES["gpt2"], small_batch_config(), CPU, 6), rel=0.03)
    weights = sum(p.numel() for p in build_model(SHAPES["gpt2"]).parameters()) * 4
    assert need.fixed > 2.9 * weights  # includes both AdamW averages


def test_too_little_memory_reports_the_micro_batch_that_fits(monkeypatch):
    need = memory.measure_requirement(SHAPES["gpt2"], small_batch_config(), CPU)
    assert codes(memory.check_memory(SHAPES["gpt2"], small_batch_config(), CPU)) == []
    monkeypatch.setattr(memory, "free_memory", lambda _: int(need.bytes_for(4) / memory.USABLE) + 10)
    monkeypatch.setattr(memory, "predict_requirement", lambda _: memory.MemoryRequirement(0, 0, is_measured=False))
    check = memory.check_memory(SHAPES["gpt2"], small_batch_config(), CPU)
    assert codes(check) == ["GG-MEM-001"]
    assert check.findings[0].evidence["fits"] == 4
    assert codes(memory.check_memory(SHAPES["gpt2"], small_batch_config(micro_batch_size=4), CPU)) == []


def test_unknown_free_memory_is_not_a_finding(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: None)
    check = memory.check_memory(SHAPES["gpt2"], small_batch_config(), CPU)
    assert codes(check) == []
    assert "unknown" in describe_measurement(check)


def test_free_memory_respects_the_cgroup_limit(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert device._cgroup_headroom(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert device._cgroup_headroom(tmp_path) == 900
    assert device._cgroup_headroom(tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable: 7 kB\n")
    assert device._available_memory(tmp_path / "meminfo") == 7 * 1024
    assert device._available_memory(tmp_path / "none") is None
