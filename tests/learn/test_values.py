"""Comparing results: shapes, kinds of numbers, NaN, nested values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.learn.values import Raised, difference

NUMBERS = st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.none())
TENSORS = st.lists(st.floats(width=32), min_size=1, max_size=4).map(torch.tensor)
VALUES = st.recursive(
    st.one_of(NUMBERS, TENSORS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=8,
)


def is_equal(one, other, tolerance=1e-5):
    return difference(one, other, tolerance) is None


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_every_value_equals_itself(value):
    assert is_equal(value, value, 0.0)


@settings(max_examples=50, deadline=None)
@given(VALUES, VALUES)
def test_comparison_is_symmetric_without_tolerance(one, other):
    assert is_equal(one, other, 0.0) == is_equal(other, one, 0.0)


@settings(max_examples=50, deadline=None)
@given(TENSORS, st.integers(0, 3))
def test_changed_element_is_found_where_it_is(tensor, index):
    index %= len(tensor)
    changed = tensor.clone()
    changed[index] = 0.0 if tensor[index] != 0 else 1.0
    found = difference([tensor], [changed], 0.0)
    assert found.place == f"[0][{index}]"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, torch.tensor(1.0)), (1, np.int64(1)), ([1, 2], (1, 2)), (torch.ones(2), np.ones(2)),
        (torch.ones(2), torch.ones(2, dtype=torch.bfloat16)), (torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
        (float("nan"), torch.tensor(float("nan"))), (1.0, 1.000001), (1e9, 1e9 + 100), ({1, 2}, {2, 1}), (10**30, 10**30),
        (torch.ones(2, requires_grad=True), torch.ones(2)), (Raised("ValueError"), Raised("ValueError")),
        (torch.empty(0, 3), torch.empty(0, 3)), (-np.inf, -np.inf),
    ],
)  # fmt: skip
def test_equal_values(one, other):
    assert is_equal(one, other)
    assert is_equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (True, 1), (1.0, 1.001), (torch.ones(2), torch.ones(2, 1)), (torch.ones(2), [1.0, 1.0]), ("1", 1), (None, 0),
        (torch.tensor([True]), torch.tensor([1])), (float("nan"), 0.0), (np.inf, -np.inf), ([1], [1, 2]), ({"a": 1}, {"b": 1}),
        (b"a", "a"), (Raised("ValueError"), Raised("KeyError")), (Raised("ValueError"), None), (torch.empty(0, 3), torch.empty(0, 2)),
    ],
)  # fmt: skip
def test_different_values(one, other):
    assert not is_equal(one, other)
    assert not is_equal(other, one)
