"""Hidden and exposed parts of the exchange between two GPUs, computed from a profile's kernels."""

import importlib

import pytest

from scripts import load_script


def test_exchange_beside_other_kernels_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    load_script("gpu_muon", monkeypatch)
    exchange = importlib.import_module("gpu_parts.exchange")
    kernels = [
        exchange.Kernel("gemm", 0, 4000),
        exchange.Kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 3000, 5000),  # its second half is exposed
        exchange.Kernel("gemm", 6000, 8000),
        exchange.Kernel("ncclDevKernel_AllGather_RING_LL", 6500, 7000),
    ]
    found = exchange.exchange_times(kernels, steps=2)
    assert found["collectives"] == {
        "AllReduce": {"ms": 1.0, "exposed_ms": 0.5, "count": 0.5},
        "AllGather": {"ms": 0.25, "exposed_ms": 0.0, "count": 0.5},
    }
    assert found["idle_ms"] == 0.5  # between 5 and 6 ms


def test_times_of_one_process_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    load_script("gpu_muon", monkeypatch)
    exchange = importlib.import_module("gpu_parts.exchange")
    from glassgpt.training.distributed import DistributedContext

    assert exchange.of_all_ranks({"idle_ms": 0.5}, DistributedContext()) == [{"idle_ms": 0.5}]
