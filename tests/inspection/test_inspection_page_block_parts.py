"""The panels of normalization, output projection and residual sum."""

import pytest
from inspection_helpers import BYTES, GPT2, TEXT
from page_helpers import OPTIONS, address_of, format_number, open_at, panel, rows

from glassgpt.inspection.details import detail
from glassgpt.inspection.trace import trace
from small_models import shaken

CHOSEN = {"layer": 1, "head": 0, "position": 7, "key": 2, "channel": 5}


@pytest.fixture(scope="module")
def found():
    return trace(shaken(GPT2), BYTES, TEXT, OPTIONS)


@pytest.fixture(scope="module")
def shaken_address(found):
    return address_of(("shaken", found.model, BYTES), text=TEXT)


@pytest.mark.slow
def test_norm_panel_shows_before_and_after(page, shaken_address, found):
    open_at(page, shaken_address, **CHOSEN)
    panel(page, "norm")
    for at, (before, after) in enumerate((("input", "norm1"), ("middle", "norm2")), start=1):
        x, module = found[f"blocks.1.{before}"][7], found.model.get_submodule(f"blocks.1.{after}")
        mean, scale = float(x.mean()), float((x.var(correction=0) + module.eps).sqrt())
        numbers = [float(x[5]), mean, scale, *(float(each[5].detach()) for each in (module.weight, module.bias))]
        shown = [format_number(number) for number in numbers]
        assert page.locator(f"#norm-{at}-line span").all_inner_texts() == [
            f"mean {shown[1]} · √(var + ε) = {shown[2]}",
            f"({shown[0]} − {shown[1]}) / {shown[2]} · {shown[3]} + {shown[4]}",
            f"= {format_number(float(found[f'blocks.1.{after}'][7, 5]))}",
        ]


@pytest.mark.slow
def test_projection_panel_shows_each_head_and_chooses_one(page, shaken_address, found):
    open_at(page, shaken_address, **CHOSEN)
    shown = rows(panel(page, "projection"))
    expected = detail(found, "projection", {"layer": 1, "position": 7})
    for row, head in zip(shown, expected["heads"], strict=False):
        assert row[1:3] == [format_number(head["norm"], 3), format_number(head["cosine"], 2)]
    assert shown[-2][1] == format_number(expected["bias"], 3)
    assert shown[-1][1] == format_number(float(found["blocks.1.attention.output"][7].norm()), 3)
    page.locator("#projected-2").click()
    page.locator("#at-head", has_text="head 2").wait_for()


@pytest.mark.slow
def test_sum_panel_adds_up(page, shaken_address, found):
    open_at(page, shaken_address, **CHOSEN)
    shown = rows(panel(page, "sum"))
    names = ("input", "attention.output", "middle", "mlp.output", "output")
    parts = [found[f"blocks.1.{name}"][7] for name in names]
    assert [row[1] for row in shown] == [format_number(float(part.norm()), 3) for part in parts]
    before, attention, middle, mlp, after = (format_number(float(part[5])) for part in parts)
    assert page.locator("#sum-line span").all_inner_texts() == [
        f"{before} + {attention} = {middle}",
        f"{middle} + {mlp} = {after}",
    ]
