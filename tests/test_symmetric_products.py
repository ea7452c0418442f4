"""Muon's symmetric products: the kernel in Triton's interpreter, and the benchmark that compares it with PyTorch's products."""

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

from glassgpt.training import muon_choice
from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.muon import orthogonalize
from scripts import load_script

pytest.importorskip("triton", reason="Triton is for Linux")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="for Triton's interpreter; gpu_muon.py checks a GPU")


@pytest.fixture
def muon(monkeypatch):
    return load_script("gpu_muon", monkeypatch)


@pytest.fixture
def symmetric():
    return importlib.import_module("glassgpt.training.hopper_muon")


@pytest.fixture
def products(muon):
    return importlib.import_module("gpu_parts.products")


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


def matrices(count, n_rows, n_columns, is_tall=False):
    """Return matrices (count, n_rows, n_columns) as Muon has them: of tall ones it uses the transposed view."""
    shape = (count, n_columns, n_rows) if is_tall else (count, n_rows, n_columns)
    drawn = (torch.randn(shape) / n_columns**0.5).half()  # the interpreter does not multiply bfloat16
    return drawn.mT if is_tall else drawn


PRESETS = [(2, 32, 32, False), (2, 32, 128, False), (1, 32, 128, True)]  # their matrices' sizes over 24
TWELVE_TILES = [(1, 192, 16, False)]


@pytest.mark.parametrize("shape", [*PRESETS, *TWELVE_TILES])
@pytest.mark.parametrize("size", [16, 32])
def test_products_are_symmetric_and_as_exact_as_pytorch(symmetric, shape, size):
    tile = symmetric.Tile(size, 16, 4, 1)
    x = matrices(*shape)
    gram = symmetric.symmetric_product(x, tile=tile)
    square = symmetric.symmetric_product(gram, gram, 0.5, -2.8, tile=tile)
    for found, arguments in ((gram, (x,)), (square, (gram, gram, 0.5, -2.8))):
        exact = symmetric.reference(*(each.double() if torch.is_tensor(each) else each for each in arguments))
        assert torch.equal(found, found.mT)
        assert error(found, exact) <= 1.001 * error(symmetric.reference(*arguments), exact)


@pytest.mark.parametrize(
    ("shape", "launches"), [((2, 32, 48), 10), ((1, 48, 32), 10), ((2, 32, 32), 10), ((1, 16, 32), 0), ((2, 40, 48), 0)]
)
def test_orthogonalization_by_halves_is_as_exact_as_the_plain_one(symmetric, monkeypatch, shape, launches):
    launched = []
    product = symmetric.symmetric_product

    def counted(*given, **settings):
        launched.append(given)
        return product(*given, **settings)

    monkeypatch.setattr(symmetric, "symmetric_product", counted)
    drawn = torch.randn(shape).half()
    exact = orthogonalize(drawn.double())
    found = symmetric.orthogonalize_by_halves(drawn, tile=symmetric.Tile(16, 16, 4, 1))
    assert found.shape == drawn.shape
    assert error(found, exact) <= error(orthogonalize(drawn), exact)
    assert len(launched) == launches  # two products in each of five iterations, where matrices are of whole tiles


@pytest.mark.parametrize(("capability", "hip", "has_triton", "kind"), [
    ((9, 0), None, True, "HopperMuon"), ((9, 0), None, False, "CapturedMuon"), ((8, 0), None, True, "CapturedMuon"),
    ((10, 0), None, True, "CapturedMuon"), ((9, 4), "6.4", True, "CapturedMuon"),
])  # fmt: skip
def test_only_hopper_with_triton_computes_halves(monkeypatch, capability, hip, has_triton, kind):
    capabilities = {torch.device("cuda", 0): (0, 0), torch.device("cuda", 1): capability}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(muon_choice, "find_spec", lambda name: SimpleNamespace() if has_triton else None)
    chosen = muon_choice.captured_kind(torch.device("cuda", 1))
    assert chosen.__name__ == kind
    assert issubclass(chosen, CapturedMuon)


def test_only_the_lower_half_of_the_added_matrix_is_read(symmetric):
    x = matrices(1, 48, 16)
    added = torch.eye(48, dtype=x.dtype)[None].clone()
    expected = symmetric.symmetric_product(x, added, 1.0, 1.0, tile=symmetric.Tile(16, 16, 4, 1))
    added[0][torch.ones(48, 48, dtype=torch.bool).triu(1)] = torch.nan
    assert torch.equal(symmetric.symmetric_product(x, added, 1.0, 1.0, tile=symmetric.Tile(16, 16, 4, 1)), expected)


def test_orthogonalization_by_other_products_is_the_same(products, symmetric):
    for drawn in (torch.randn(2, 6, 8), torch.randn(2, 8, 6), torch.randn(2, 6, 6)):
        found = products.orthogonalize_by(symmetric.reference, symmetric.reference, drawn)
        torch.testing.assert_close(found, orthogonalize(drawn))


def test_the_stacks_are_those_of_the_presets(products, monkeypatch):
    monkeypatch.setattr(products, "HAS_GPU", True)
    wanted = {(48, 768, 768), (12, 3072, 768), (12, 768, 3072)}
    assert set(products.stacks_of("textbooks-124m")) == wanted
    assert set(products.stacks_of("textbooks-fast")) == {(count // 2, *shape) for count, *shape in wanted}


def test_the_benchmark_writes_errors_times_and_gains(muon, products, monkeypatch, tmp_path):
    monkeypatch.setattr(products, "STEP_MS", {"nano": 10.0})
    monkeypatch.setattr(products, "TRIED", products.SMALL_TILES[:1])
    monkeypatch.setattr(products, "stacks_of", lambda preset: [products.Stack(1, 32, 64)])
    muon.main(["products", "--rounds", "1", "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    (row,) = found["rows"]
    assert row["stack"] == [1, 32, 64]
    for product in ("gram", "square"):
        assert row[product]["16x16x4x1"]["symmetric"]
        assert row[product]["16x16x4x1"]["error"] < 1e-3
    assert row["orthogonalize"]["symmetric"]["error"] <= 2 * row["orthogonalize"]["baddbmm"]["error"]
    gains = found["gains"]["nano"]
    saved = gains["ms"]["compiled"] - gains["ms"]["symmetric"]
    assert gains["saved_ms"]["symmetric"] == pytest.approx(saved, abs=2e-3)
    assert gains["saved_percent_of_step"]["symmetric"] == pytest.approx(100 * saved / 10.0, abs=0.02)
