"""Fixtures shared by the tests of the page."""

import pytest
from page_helpers import OPTIONS, TEXT, address_of

from glassgpt.inspection.trace import trace
from planted import planted


@pytest.fixture
def page(open_page):
    """A page in English, at a telephone's width."""
    return open_page(locale="en-US", viewport={"width": 390, "height": 800})


@pytest.fixture(scope="module")
def address():
    return address_of(("planted", *planted()))


@pytest.fixture(scope="module")
def traced():
    return trace(*planted(), TEXT, OPTIONS)
