"""Kernel times that are kept for later processes, and packing matrices in several threads."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from glassgpt.api.loaded_model import LoadedModel
from glassgpt.data import load_tokenizer
from glassgpt.generation.cpu import kernel_times, packing
from glassgpt.generation.cpu.kernel_times import ENOUGH, processor_name, remembered_times
from glassgpt.generation.cpu.kernels import KERNELS
from glassgpt.generation.cpu.native import cache_folder
from glassgpt.generation.cpu.packing import PackedLinear
from glassgpt.generation.cpu.shared_context import SharedContext
from glassgpt.generation.precision import kernel_choice, prepare_for_decoding
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

NAMES = ("a", "b")


class Measurements:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, float]:
        self.count += 1
        return {"a": 1.0 + self.count, "b": 2.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the times in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernel_times, "LEAST_SHARE", 0.0)


def times(
    measure: Callable[[], dict[str, float]], *conditions: int, names: Collection[str] = NAMES
) -> dict[str, float]:
    return remembered_times(names, conditions, measure).milliseconds


def kept_file() -> Path:
    (file,) = cache_folder().glob("times-*.json")
    return file


def test_times_are_measured_once_per_condition():
    measure = Measurements()
    first = remembered_times(NAMES, (768, 8), measure)
    again = remembered_times(NAMES, (768, 8), measure)
    assert again.milliseconds == first.milliseconds == {"a": 2.0, "b": 2.0}
    assert (first.are_earlier, again.are_earlier, measure.count) == (False, True, 1)
    assert times(measure, 768, 1)["a"] == 3.0
    assert times(measure, 768, 1, names=("b", "a"))["a"] == 4.0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"milliseconds": {"a": 1.0, "b": 2.0}}',
        '{"milliseconds": {"a": 1.0, "b": 2.0}, "measurements": "3"}',
        *(
            f'{{"milliseconds": {{"a": 1.0{other}}}, "measurements": 3}}'
            for other in ("", ', "b": "2"', ', "b": -2.0', ', "b": NaN')
        ),
    ],
)
def test_a_damaged_file_is_replaced(content: str):
    measure = Measurements()
    times(measure)
    kept_file().write_text(content)
    assert times(measure) == {"a": 3.0, "b": 2.0}
    assert times(measure) == {"a": 3.0, "b": 2.0}
    assert measure.count == 2


def test_times_that_another_user_could_have_written_are_not_read():
    measure = Measurements()
    times(measure)
    kept_file().chmod(0o666)
    assert times(measure) == {"a": 3.0, "b": 2.0}
    kept_file().parent.chmod(0o777)
    assert times(measure) == {"a": 4.0, "b": 2.0}
    assert times(measure) == {"a": 4.0, "b": 2.0}


def test_times_of_a_busy_machine_hold_after_some_processes_with_the_least_of_each(monkeypatch: pytest.MonkeyPatch):
    measured = iter([{"a": 3.0, "b": 5.0}, {"a": 4.0, "b": 2.0}, {"a": 9.0, "b": 9.0}])

    def measure() -> dict[str, float]:
        time.sleep(0.02)  # this thread has no core
        return next(measured)

    monkeypatch.setattr(kernel_times, "LEAST_SHARE", 0.7)
    found = [remembered_times(NAMES, (), measure) for _ in range(ENOUGH + 2)]
    assert [each.measurements for each in found] == [1, 2, 3, 3, 3]
    assert [each.are_earlier for each in found] == [False] * ENOUGH + [True] * 2
    assert found[0].milliseconds == {"a": 3.0, "b": 5.0}
    assert all(each.milliseconds == {"a": 3.0, "b": 2.0} for each in found[1:])


def test_times_of_an_idle_machine_hold_at_once_instead_of_those_before(monkeypatch: pytest.MonkeyPatch):
    measure = Measurements()
    monkeypatch.setattr(kernel_times, "LEAST_SHARE", 2.0)
    assert times(measure) == {"a": 2.0, "b": 2.0}
    monkeypatch.setattr(kernel_times, "LEAST_SHARE", 0.0)
    assert [times(measure) for _ in range(2)] == [{"a": 3.0, "b": 2.0}] * 2


def test_a_cache_that_cannot_be_written_costs_a_measurement(tmp_path: Path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    measure = Measurements()
    assert [times(measure)["a"] for _ in range(2)] == [2.0, 3.0]


def test_processors_of_one_model_differ_by_their_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(kernel_times, "CPU_INFO", file)
    names: list[str] = []
    for speed, flags in (("2500.000", "avx2 avx512f"), ("3100.000", "avx2 avx512f"), ("2500.000", "avx2")):
        core = f"model name\t: Some CPU\ncpu MHz\t\t: {speed}\nflags\t\t: {flags}\n\n"
        file.write_text(core + core.replace("Some", "Another"))
        names.append(processor_name())
    assert all(name.startswith("Some CPU ") and "\n" not in name for name in names)
    assert names[0] == names[1] != names[2]
    file.unlink()
    assert processor_name()


def test_the_remembered_kernel_is_chosen_again(monkeypatch: pytest.MonkeyPatch):
    model = build_model(ModelConfig(vocab_size=64, context_length=8, n_layer=1, n_head=4, n_embd=256)).eval()
    fastest = "oneDNN"

    def times(kernels: tuple[packing.Kernel, ...], *_: int) -> dict[str, float]:
        return {kernel.name: 1.0 if kernel.name == fastest else 2.0 for kernel in kernels}

    monkeypatch.setattr(packing, "_time_kernels", times)
    packing._remembered_times.cache_clear()  # pyright: ignore[reportPrivateUsage]
    chosen = kernel_choice(model, remembers=True)
    fastest = "row-major"
    packing._remembered_times.cache_clear()  # pyright: ignore[reportPrivateUsage] - as another process
    again, measured = kernel_choice(model, remembers=True), kernel_choice(model)
    assert chosen is not None
    assert again is not None
    assert measured is not None
    packing._remembered_times.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert (chosen.kernel.name, again.kernel.name, measured.kernel.name) == ("oneDNN", "oneDNN", "row-major")
    assert "earlier" not in chosen.describe() + measured.describe()
    assert "oneDNN (timed at an earlier start with batch size 1, ms: row-major 2.0," in again.describe()


def test_a_loaded_model_takes_the_kernel_of_earlier_processes(monkeypatch: pytest.MonkeyPatch):
    model = build_model(ModelConfig(vocab_size=64, context_length=8, n_layer=1, n_head=4, n_embd=256)).eval()
    measured: list[int] = []

    def times(kernels: tuple[packing.Kernel, ...], *_: int) -> dict[str, float]:
        measured.append(1)
        fastest = "oneDNN" if len(measured) == 1 else "row-major"
        return {kernel.name: 1.0 if kernel.name == fastest else 2.0 for kernel in kernels}

    def compiles_nothing(_: object) -> int:
        return 0

    monkeypatch.setattr(packing, "_time_kernels", times)
    monkeypatch.setattr(packing, "step_bits", compiles_nothing)
    products: list[str] = []
    for _ in range(2):
        packing._remembered_times.cache_clear()  # pyright: ignore[reportPrivateUsage] - as another process
        decoding = LoadedModel(model, load_tokenizer("bytes"), 0).decoding_model
        products += [type(module.product).__name__ for module in decoding.modules() if isinstance(module, PackedLinear)]
    packing._remembered_times.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert len(measured) == 1
    assert products
    assert len(set(products)) == 1


def test_an_earlier_choice_is_made_again_without_timing(monkeypatch: pytest.MonkeyPatch):
    model = build_model(ModelConfig(vocab_size=64, context_length=8, n_layer=1, n_head=4, n_embd=256)).eval()
    timed: list[str] = []

    def times(kernels: tuple[packing.Kernel, ...], *_: int) -> dict[str, float]:
        timed.append(kernels[0].precision)
        return {kernel.name: 1.0 for kernel in kernels}

    monkeypatch.setattr(packing, "_time_kernels", times)
    for preferred in ("column-major", "row-major", "column-major + int4 (AVX2)"):
        choice = kernel_choice(model, preferred=preferred)
        assert choice is not None
        assert choice.name == preferred.split(" + ")[0]
    packed = prepare_for_decoding(model, preferred="column-major")
    assert packing.is_packed(packed)
    assert timed == []
    other = kernel_choice(model, preferred="of another processor")
    assert other is not None
    assert (other.name, timed) == ("row-major", ["float32"])


def test_a_shared_context_is_left_by_the_last_thread():
    events: list[str] = []

    @contextmanager
    def context() -> Generator[None]:
        events.append("enter")
        yield
        events.append("leave")

    shared, both_inside, first_left = SharedContext(context), threading.Barrier(2), threading.Event()

    def first() -> None:
        with shared:
            both_inside.wait(10)
        first_left.set()

    def second() -> None:
        with shared:
            both_inside.wait(10)
            assert first_left.wait(10)
            assert events == ["enter"]

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert events == ["enter", "leave"]
    with shared:
        assert events == ["enter", "leave", "enter"]


@pytest.mark.parametrize(
    "kernel", [kernel for kernel in KERNELS if kernel.is_available()], ids=lambda k: f"{k.precision}-{k.name}"
)
def test_matrices_that_are_packed_in_several_threads_are_the_same(kernel: packing.Kernel):
    engine, filters = torch.backends.quantized.engine, list(warnings.filters)
    x, weights = torch.randn(3, 64), [torch.randn(96, 64) for _ in range(16)]
    expected = [kernel.pack(weight.clone(), None)(x) for weight in weights]
    with ThreadPoolExecutor(4) as pool:
        products = list(pool.map(kernel.pack, weights, [None] * len(weights)))
    for product, alone in zip(products, expected, strict=True):
        assert torch.equal(product(x), alone)
    assert torch.backends.quantized.engine == engine
    assert list(warnings.filters) == filters
