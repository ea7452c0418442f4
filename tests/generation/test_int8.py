"""The product with 8-bit weights in C against its readable reference, and the memory in which packed matrices lie."""

import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.generation.cpu import packed_product
from glassgpt.generation.cpu.int8 import Int8Product, int8_product_readable
from glassgpt.generation.cpu.kernels import quantize_rows
from glassgpt.generation.cpu.packed_product import instruction_level, use_huge_pages

pytestmark = pytest.mark.skipif(not instruction_level(8), reason="no C compiler, or a processor without AVX2")
LEVELS = range(1, instruction_level(8) + 1)
UNKNOWN_ADVICE = 10_000
"""An unknown advice, as MADV_HUGEPAGE is to a kernel that was built without huge pages."""


def random_product(rows, width, seed, outlier=1.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(11, width, generator=generator)
    x[:, 0] *= outlier
    integers, scales = quantize_rows(torch.randn(rows, width, generator=generator))
    return integers, scales, torch.randn(rows, generator=generator), x


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**20), st.booleans(), st.sampled_from([1.0, 1e4, 1e-6]))
@settings(max_examples=40, deadline=None)
def test_kernel_is_its_readable_reference(rows, width, seed, has_bias, outlier):
    integers, scales, bias, x = random_product(rows, width, seed, outlier)
    bias = bias if has_bias else None
    expected = int8_product_readable(integers, scales, bias)(x)
    found = [Int8Product(integers, scales, bias, level)(x) for level in LEVELS]
    assert torch.allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(each, found[0]) for each in found)  # sums of integers are exact


@pytest.mark.parametrize("level", LEVELS)
def test_largest_numbers_do_not_overflow(level):
    width = 4096
    signs = torch.tensor([1, -1]).repeat_interleave(8)[:, None]
    integers = (127 * signs).expand(16, width).to(torch.int8)
    for sign in (1, -1):
        found = Int8Product(integers, torch.ones(16), None, level)(torch.full((1, width), float(sign)))
        assert torch.equal(found, (127.0 * width * sign * signs).T)


@pytest.mark.parametrize("level", LEVELS)
def test_product_of_a_vector_does_not_depend_on_the_others(level):
    integers, scales, bias, _ = random_product(48, 96, 0)
    x = torch.randn(37, 96, generator=torch.Generator().manual_seed(1))
    multiply = Int8Product(integers, scales, bias, level)
    together = multiply(x)
    for at in (0, 5, 8, 31, 36):
        assert torch.equal(multiply(x[at : at + 1])[0], together[at])
        assert torch.equal(multiply(x[at - at % 3 : at + 1])[-1], together[at])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_own_vector(level, value):
    integers, scales, bias, x = random_product(16, 64, 0)
    multiply = Int8Product(integers, scales, bias, level)
    expected = multiply(x)
    x[3, 21] = value
    found = multiply(x)
    assert not found[3].isfinite().any()
    others = torch.arange(len(x)) != 3
    assert torch.equal(found[others], expected[others])


def test_inputs_of_zero_give_the_bias():
    integers, scales, bias, x = random_product(16, 64, 0)
    for make in (int8_product_readable, Int8Product):
        assert torch.equal(make(integers, scales, bias)(torch.zeros_like(x)), bias.expand(len(x), -1))


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="a system without huge pages")
@pytest.mark.parametrize("advice", [getattr(mmap, "MADV_HUGEPAGE", 0), UNKNOWN_ADVICE], ids=["huge pages", "none"])
def test_matrices_in_huge_pages_are_the_same(monkeypatch, advice):
    products, expected, x = [], [], torch.randn(2, 64)
    for seed in range(3):
        integers, scales, bias, _ = random_product(40, 64, seed)
        products.append(Int8Product(integers, scales, bias))
        expected.append(products[-1](x))
    before = [product.packed.data_ptr() for product in products]
    use_huge_pages(products)
    assert [product.packed.data_ptr() for product in products] == before  # too small to gain anything
    monkeypatch.setattr(packed_product, "HUGE_PAGE_BYTES", 1)
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", advice)
    use_huge_pages(products)
    places = [product.packed.data_ptr() for product in products]
    assert places == sorted(places)
    assert places[-1] - places[0] == 2 * -(-products[0].packed.nbytes // 64) * 64
    assert all(torch.equal(product(x), one) for product, one in zip(products, expected, strict=True))
