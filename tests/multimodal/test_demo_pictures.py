"""`make demo-pictures`: the script that learns emoji of one vendor, names those of another, and draws."""

import json

import pytest
from PIL import Image

from glassgpt.errors import UsageError
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
from glassgpt.training.run_folder import RunFolder
from scripts import load_tool


@pytest.fixture(scope="module")
def demo():
    return load_tool("demo_pictures")


ENTRIES = {
    "1F34E": ("Food & Drink", "red apple", "빨간 사과"),
    "1F426": ("Animals & Nature", "bird", "새"),
    "1F680": ("Travel & Places", "rocket", "로켓"),
}
MORE = {f"1F98{n}": ("Animals & Nature", f"animal {n}", f"동물 {n}") for n in range(8)}


def write_packages(folder, entries):
    """Write packages with emoji by two vendors; each is of one color, above white."""
    for vendor in ("google", "twitter"):
        package = folder / f"emoji-datasource-{vendor}"
        pictures = package / "img" / vendor / "64"
        pictures.mkdir(parents=True)
        found = []
        for at, (code, (category, *_)) in enumerate(entries.items()):
            name = f"{code.lower()}.png"
            picture = Image.new("RGBA", (64, 64), (int(code, 16) % 256, 90 * at % 256, 90, 255))
            picture.paste((255, 255, 255, 255), (0, 8 * (at % 8), 64, 64))
            picture.save(pictures / name)
            found.append({"unified": code, "image": name, f"has_img_{vendor}": True, "category": category})
        (package / "emoji.json").write_text(json.dumps(found))
    for at, language in enumerate(("en", "ko"), 1):
        path = folder / "cldr-annotations-full" / "annotations" / language / "annotations.json"
        path.parent.mkdir(parents=True)
        names = {chr(int(code, 16)): {"tts": [entry[at]]} for code, entry in entries.items()}
        path.write_text(json.dumps({"annotations": {"annotations": names}}))
    (folder / "cldr-annotations-derived-full").mkdir()
    return folder


@pytest.fixture
def packages(tmp_path):
    """Packages with an apple, a bird and a rocket by two vendors."""
    return write_packages(tmp_path / "packages", ENTRIES)


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
def test_demo_names_and_draws(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "IMAGE_TOKENIZER", ImageTokenizerConfig(image_size=8, patch_size=4, width=8))
    monkeypatch.setattr(
        demo, "IMAGE_TOKENIZER_TRAINING", ImageTokenizerTraining(steps=100, learning_rate=5e-3, augment=0)
    )
    packages = write_packages(tmp_path / "packages", {**ENTRIES, **MORE})
    settings = {"train.max_steps": "2", "model.n_layer": "1", "model.n_embd": "32", "train.batch_tokens": "256"}
    for _ in range(2):  # the second time it replaces its runs
        demo.main(tmp_path / "demo", packages, settings)
    assert RunFolder(tmp_path / "demo").exists()
    assert RunFolder(tmp_path / "demo-drawing").exists()
    assert Image.open(tmp_path / "demo.png").size == (96, 32)
    printed = capsys.readouterr()
    assert printed.out.count("of 10 drawings named exactly") == 4
    assert printed.out.count("  red apple: ") == 2
    assert "glassgpt generate" in printed.err
