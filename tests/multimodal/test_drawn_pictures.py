"""`benchmarks/drawn_pictures.py`: names by resemblance."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glassgpt.errors import UsageError
from scripts import load_script

SHAPES = ("circle", "bar", "ring", "cross", "dots", "frame")


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("drawn_pictures", patch)


def shape(name, color, by=0):
    image = Image.new("RGB", (32, 32), "white")
    pen = ImageDraw.Draw(image)
    box = (6 + by, 6, 26 + by, 26)
    if name == "circle":
        pen.ellipse(box, fill=color)
    elif name == "bar":
        pen.rectangle((6 + by, 13, 26 + by, 19), fill=color)
    elif name == "ring":
        pen.ellipse(box, outline=color, width=3)
    elif name == "cross":
        pen.line((6 + by, 6, 26 + by, 26), fill=color, width=4)
        pen.line((26 + by, 6, 6 + by, 26), fill=color, width=4)
    elif name == "dots":
        for x in (8, 16, 24):
            pen.ellipse((x + by - 2, 14, x + by + 2, 18), fill=color)
    else:
        pen.rectangle(box, outline=color, width=2)
    return image


def write(folder, color, by):
    folder.mkdir()
    rows = []
    for name in SHAPES:
        shape(name, color, by).save(folder / f"{name}.png")
        rows += [{"image": f"{name}.png", "prompt": "English:", "text": f" {name}"}]
        rows += [{"image": f"{name}.png", "prompt": "Other:", "text": " none"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def test_shapes_are_named_by_resemblance(benchmark, tmp_path, capsys):
    others, drawn = write(tmp_path / "others", "red", 0), write(tmp_path / "drawn", "orange", 2)
    out = tmp_path / "result.json"
    found = benchmark.main(
        [str(drawn), "--others", str(others), "--tune", str(drawn), "--originals", str(others), "--out", str(out)]
    )
    assert json.loads(out.read_text()) == json.loads(capsys.readouterr().out) == found
    assert found["named"][str(drawn)] == {"pictures": 6, "first": 1.0, "first five": 1.0}
    assert found["named"][str(others)]["first"] == 1.0
    assert (found["names"], found["drawings of others"]) == (6, 6)


def test_unknown_names_are_wrong(benchmark):
    pictures = np.stack([np.asarray(shape(name, "red")) for name in SHAPES])
    others = benchmark.Named(pictures, list(SHAPES))
    swapped = benchmark.Named(pictures, [*SHAPES[1:], "circle"])
    assert benchmark.shares(others, others, 0.8) == {"pictures": 6, "first": 1.0, "first five": 1.0}
    assert benchmark.shares(swapped, others, 0.8)["first"] == 0.0
    assert benchmark.shares(benchmark.Named(pictures, ["?"] * 6), others, 0.8)["first five"] == 0.0


def test_features_have_length_one_and_find_colors(benchmark):
    pictures = np.stack([np.asarray(shape("circle", color)) for color in ("red", "darkred", "blue")])
    for features in (benchmark.edges(pictures), benchmark.colors(pictures)):
        assert np.allclose(features.norm(dim=1).numpy(), 1.0, atol=1e-5)
    alike = benchmark.colors(pictures) @ benchmark.colors(pictures).T
    assert alike[0, 1] > alike[0, 2]


def test_rows_of_another_language_are_none(benchmark, tmp_path):
    with pytest.raises(UsageError, match="has no rows for '한국어:'"):
        benchmark.read_rows([write(tmp_path / "rows", "red", 0)], "한국어:")
