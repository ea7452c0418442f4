"""tools/emoji_vectors.py varies vectors part by part."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from glassgpt.errors import UsageError
from scripts import load_tool

tool = load_tool("emoji_vectors")

FACE = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 128 128">
<linearGradient id="top"><stop offset="0" stop-color="#ff0000"/><stop offset="50%" style="stop-color:#ff0000"/>
<stop offset="1" style="stop-color:#0000ff"/></linearGradient><linearGradient id="same" xlink:href="#top"/>
<radialGradient id="shadow"><stop offset="0" stop-opacity="0"/><stop offset="1" stop-opacity=".5"/></radialGradient>
<defs><circle cx="5" cy="5" r="3"/></defs>
<circle cx="64" cy="64" r="60" style="fill:url(#same);"/>
<g fill="#fff"><rect x="20" y="30" width="40" height="20"/></g>
<ellipse cx="90" cy="40" rx="4" ry="4" fill="#404040"/>
<path d="M30,90 L90,90 L60,110 z" style="fill:url(#shadow)"/>
<path d="M30,90 h60" style="fill:none;stroke:#000;stroke-width:2"/>
</svg>"""


def parts(variation, seed=0):
    """Return the varied parts by what they are, and the transformations of each."""
    root = ElementTree.fromstring(tool.vary(FACE, variation, np.random.default_rng(seed)))
    outside = {part for inside in root.iter(f"{tool.SVG}defs") for part in inside}
    drawn = [part for part in root.iter() if part.tag in tool.SHAPES and part not in outside]
    moved = [group.get("transform") for group in root.iter(f"{tool.SVG}g") if group.get("transform")]
    return {part.tag.removeprefix(tool.SVG) + part.get("d", "")[7:8]: tool.style_of(part) for part in drawn}, moved


def test_gradients_become_their_mean_and_shadows_are_left_out():
    flat, _ = parts(tool.Variation(flat=True))
    assert flat["circle"]["fill"] == "#bf0040"  # red for half of the way, then to blue
    assert "pathL" not in flat
    shaded, _ = parts(tool.Variation())
    assert (shaded["circle"]["fill"], shaded["pathL"]["fill"]) == ("url(#same)", "url(#shadow)")
    assert tool.gradient_colors(ElementTree.fromstring(FACE))["shadow"][1] == pytest.approx(0.25)


def test_without_a_strength_nothing_moves():
    still, moved = parts(tool.Variation())
    assert still["ellipse"]["fill"] == "#404040"
    assert all("rotate(0.00) scale(1.000 1.000)" in each.replace("(-0.00)", "(0.00)") for each in moved)
    assert "translate(90.00 40.00)" in " ".join(moved)


def test_parts_are_moved_and_tinted_each_by_itself_and_white_and_gray_stay():
    varied, moved = parts(tool.Variation(flat=True, strength=1.0))
    assert len({each.partition("rotate")[2] for each in moved}) == len(moved)
    assert varied["circle"]["fill"] not in ("#bf0040", "#fff")
    assert varied["ellipse"]["fill"] == "#404040"
    assert "fill" not in varied["rect"]  # that of its group stays
    assert parts(tool.Variation(strength=1.0), seed=3) == parts(tool.Variation(strength=1.0), seed=3)
    assert parts(tool.Variation(strength=1.0), seed=3) != parts(tool.Variation(strength=1.0), seed=4)


def test_details_are_left_out_and_lines_stay():
    kept = [parts(tool.Variation(detail=0.01), seed)[0] for seed in range(20)]
    assert 0 < sum("ellipse" in each for each in kept) < 20  # 64 of 16,384 is between a quarter and the limit
    assert all("ellipse" not in parts(tool.Variation(detail=0.02), seed)[0] for seed in range(20))
    assert all(each.keys() >= {"circle", "rect", "pathL", "pathh"} for each in kept)


@pytest.mark.parametrize(("outline", "ellipse", "circle"), [("dark", "#2d1e1e", "#2d1e1e"), ("own", "#404040", None)])
def test_outlines_have_one_color_or_that_of_the_part(outline, ellipse, circle):
    styles, _ = parts(tool.Variation(outline=outline, width=0.02))
    assert styles["ellipse"]["stroke"] == ellipse
    assert styles["circle"].get("stroke") == circle  # a gradient is no color
    assert styles["ellipse"]["stroke-width"] == "2.56"


def test_each_key_is_drawn_as_often_from_all_of_its_files_in_turn(tmp_path, monkeypatch):
    def render(svg_string, width, height):
        return f"{width} {height} {svg_string}".encode()

    monkeypatch.setattr(tool, "_renderer", lambda: render)
    for name in ("heart", "old-heart", "hand"):
        (tmp_path / f"{name}.svg").write_text(FACE)
    files = {"h": [tmp_path / "heart.svg", tmp_path / "old-heart.svg"], "x": [tmp_path / "hand.svg"]}
    drawn = list(tool.draw_variations(files, tmp_path / "out", 3))
    assert [(key, path.name) for key, path in drawn] == [
        *(("h", name) for name in ("heart-0.png", "old-heart-1.png", "heart-2.png")),
        *(("x", f"hand-{number}.png") for number in range(3)),
    ]
    pictures = [path.read_bytes() for _, path in drawn]
    assert len(set(pictures)) == 6
    assert all(picture.startswith(b"64 64 <") for picture in pictures)
    again = tool.draw_variations(files, tmp_path / "again", 3)
    assert [path.read_bytes() for _, path in again] == pictures
    (tmp_path / "hand.svg").write_text("<svg")
    with pytest.raises(UsageError, match=r"hand\.svg cannot be drawn: "):
        list(tool.draw_variations(files, tmp_path / "out", 1))


def test_what_draws_is_named_if_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UsageError, match="pip install resvg-py"):
        list(tool.draw_variations({}, tmp_path, 1))


def test_random_variations_are_all_kinds_of_drawings():
    random = np.random.default_rng(0)
    drawn = [tool.random_variation(random) for _ in range(200)]
    assert {each.outline for each in drawn} == {"dark", "own", ""}
    assert {each.flat for each in drawn} == {True, False}
    assert all(0 <= each.detail <= tool.DETAIL and 0 <= each.strength <= 1 for each in drawn)
    assert 0.3 < np.mean([each.detail == 0 for each in drawn]) < 0.5
