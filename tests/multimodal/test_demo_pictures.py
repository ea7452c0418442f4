"""`make demo-pictures`: the script that learns emoji of one vendor and names those of another."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location("demo_pictures", TOOLS / "demo_pictures.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


ENTRIES = {"1F34E": "Food & Drink", "1F426": "Animals & Nature", "1F680": "Travel & Places"}


@pytest.fixture
def packages(tmp_path):
    """Packages with an apple, a bird and a rocket by two vendors."""
    for vendor in ("google", "twitter"):
        folder = tmp_path / "packages" / f"emoji-datasource-{vendor}"
        pictures = folder / "img" / vendor / "64"
        pictures.mkdir(parents=True)
        entries = []
        for code, category in ENTRIES.items():
            name = f"{code.lower()}.png"
            Image.new("RGBA", (64, 64), (int(code, 16) % 256, 80, 90, 255)).save(pictures / name)
            entries.append({"unified": code, "image": name, f"has_img_{vendor}": True, "category": category})
        (folder / "emoji.json").write_text(json.dumps(entries))
    for language, names in {"en": ("red apple", "bird", "rocket"), "ko": ("빨간 사과", "새", "로켓")}.items():
        path = tmp_path / "packages" / "cldr-annotations-full" / "annotations" / language / "annotations.json"
        path.parent.mkdir(parents=True)
        found = {chr(int(code, 16)): {"tts": [name]} for code, name in zip(ENTRIES, names, strict=True)}
        path.write_text(json.dumps({"annotations": {"annotations": found}}))
    (tmp_path / "packages" / "cldr-annotations-derived-full").mkdir()
    return tmp_path / "packages"


def test_rows_are_those_of_animals_plants_food_and_drink(demo, packages, tmp_path):
    rows = demo.rows_of(packages, tmp_path / "rows")
    assert {vendor: len(of_vendor) for vendor, of_vendor in rows.items()} == {"google": 4, "twitter": 4}
    assert {row["text"] for row in rows["twitter"]} == {" red apple", " bird", " 빨간 사과", " 새"}


def test_missing_packages_are_named(demo, tmp_path):
    with pytest.raises(UsageError, match="emoji-datasource-google is missing; download the packages with"):
        demo.rows_of(tmp_path, tmp_path / "rows")


def test_shares_are_counted_by_language(demo, capsys):
    apple = {"image": "a.png", "prompt": "English:", "text": " red apple"}
    korean = {"image": "a.png", "prompt": "한국어:", "text": " 빨간 사과"}
    demo.show_names([demo.Named(apple, " red apple"), demo.Named(apple, " pear"), demo.Named(korean, "새")])
    printed = capsys.readouterr().out
    assert "en: 1 of 2 drawings named exactly (50%)" in printed
    assert "ko: 0 of 1 drawings named exactly (0%)" in printed
    assert "✗ a.png: pear (red apple)" in printed


@pytest.mark.slow
def test_demo_prepares_trains_and_names(demo, packages, tmp_path, capsys):
    settings = {"train.max_steps": "2", "model.n_layer": "1", "model.n_embd": "32", "train.batch_tokens": "256"}
    for _ in range(2):  # the second time it replaces its run
        demo.main(tmp_path / "demo", packages, settings)
    assert RunFolder(tmp_path / "demo").exists()
    printed = capsys.readouterr()
    assert printed.out.count("of 2 drawings named exactly") == 4
    assert "glassgpt generate" in printed.err
