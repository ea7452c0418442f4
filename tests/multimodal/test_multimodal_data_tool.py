"""tools/multimodal_data.py makes rows from datasets as people have them."""

import io
import json
import shutil
import sys
import wave

import numpy as np
import pytest
from PIL import Image, ImageDraw

from glassgpt.errors import UsageError
from scripts import TOOLS, load_tool

tool = load_tool("multimodal_data")
speech_data = sys.modules["speech_data"]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def vendor_package(folder, vendor, codes, side=20):
    """Write a package with a square of this side for each emoji; 270B also has a skin tone."""
    pictures = folder / "img" / vendor / "64"
    pictures.mkdir(parents=True)
    entries = []

    def drawn(code):
        picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        ImageDraw.Draw(picture).rectangle((0, 0, side, side), fill=(int(code.partition("-")[0], 16) % 256, 80, 90, 255))
        picture.save(pictures / f"{code.lower()}.png")
        return {"unified": code, "image": f"{code.lower()}.png", f"has_img_{vendor}": True}

    for code in codes:
        tones = {"skin_variations": {"1F3FB": drawn("270B-1F3FB")}} if code == "270B" else {}
        entries.append({**drawn(code), "category": "Flags" if code.startswith("1F3F4") else "Food", **tones})
    (folder / "emoji.json").write_text(
        json.dumps([*entries, {"unified": "1F600", "image": "no.png", f"has_img_{vendor}": False}])
    )
    return folder


def names_package(folder, names):
    for language, of_language in names.items():
        path = folder / "annotations" / language / "annotations.json"
        path.parent.mkdir(parents=True)
        entries = {emoji: {"tts": [name], "default": []} for emoji, name in of_language.items()}
        path.write_text(json.dumps({"annotations": {"identity": {}, "annotations": entries}}))
    return folder


NAMES = {
    "en": {"🍎": "red apple", "❤️": "red heart", "✋": "raised hand", "✋🏻": "raised hand: light skin tone"},
    "ko": {"🍎": "빨간 사과", "❤": "빨간 하트", "✋": "손바닥", "✋🏻": "손바닥: 하얀 피부"},
}


def emoji_rows(tmp_path, *options):
    """Return the rows of training and test, with two editions of the first vendor."""
    newest = vendor_package(tmp_path / "newest", "first", ["1F34E", "2764-FE0F", "1F34F", "270B"])
    older = vendor_package(tmp_path / "older", "first", ["1F34E", "2764-FE0F"], side=21)
    Image.new("RGB", (64, 64)).save(older / "img/first/64/2764-fe0f.png")
    second = vendor_package(tmp_path / "second", "second", ["1F34E", "2764-FE0F", "1F34F"])
    names = names_package(tmp_path / "names", NAMES)
    given = ["emoji", "--vendor", f"first={newest}", "--vendor", f"first={older}", "--names", str(names), *options]
    tool.main([*given, "--test", f"second={second}", "--out", str(tmp_path / "out")])
    return [rows(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "test")]


def test_emoji_are_named_in_two_languages_and_editions_add_what_differs(tmp_path):
    train, test = emoji_rows(tmp_path)
    english = [(row["text"], row["image"]) for row in train if row["language"] == "en"]
    assert english == [
        (" raised hand", "../newest/img/first/64/270b.png"),
        (" red heart", "../newest/img/first/64/2764-fe0f.png"),
        (" red heart", "../older/img/first/64/2764-fe0f.png"),  # its apple is hardly another one
        (" red apple", "../newest/img/first/64/1f34e.png"),
    ]
    assert [(row["prompt"], row["text"]) for row in test] == [
        ("English:", " red heart"), ("한국어:", " 빨간 하트"), ("English:", " red apple"), ("한국어:", " 빨간 사과"),
    ]  # fmt: skip
    assert all("second" in row["image"] and row["group"] == "Food" for row in test)


def test_skin_tones_are_learned_on_request(tmp_path):
    train, _ = emoji_rows(tmp_path, "--skin-tones")
    assert " raised hand: light skin tone" in [row["text"] for row in train]


def test_a_font_is_drawn_as_one_glyph_per_emoji(tmp_path, monkeypatch):
    emoji_data = sys.modules["emoji_data"]
    font = pytest.importorskip("matplotlib").get_data_path() + "/fonts/ttf/DejaVuSans.ttf"
    package = tmp_path / "lines"
    (package / "files").mkdir(parents=True)
    (package / "unicode.json").write_text(json.dumps({"[0]": "U+2764,U+270a-270c", "[1]": "U+270b"}))
    monkeypatch.setattr(emoji_data, "FONT_WEIGHTS", ("400",))
    for number in (0, 1):  # both have the hand
        shutil.copy(font, package / f"files/lines-{number}-400-normal.woff")
    groups = {"❤": "Food", "✋": "Food", "❤❤❤": "Food", "🍎": "Food"}
    drawn = list(emoji_data.draw_font(package, groups, tmp_path / "glyphs"))
    assert [drawing.emoji for drawing in drawn] == ["❤", "✋"]
    pixels = np.asarray(Image.open(drawn[0].path))
    assert 0.02 < (pixels < 128).mean() < 0.6


def test_pictures_named_by_their_characters_add_what_differs_wherever_it_is_drawn(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for code, corner, color in (("2764", 40, (0, 90, 80)), ("270b", 40, (11, 80, 90)), ("270b_1f3fb", 0, (0, 0, 0))):
        picture = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
        ImageDraw.Draw(picture).rectangle((corner, corner, corner + 41, corner + 41), fill=(*color, 255))
        picture.save(pictures / f"emoji_u{code}.png")
    train, _ = emoji_rows(tmp_path, "--vendor", f"first={pictures}")
    added = [row for row in train if "pictures" in row["image"]]
    assert [(row["image"], row["text"], row["group"]) for row in added] == [
        ("../pictures/emoji_u2764.png", " red heart", "Food"), ("../pictures/emoji_u2764.png", " 빨간 하트", "Food"),
    ]  # fmt: skip  # the hand is the same as the package's, elsewhere and twice as large; its skin tone was not asked for


def test_variations_of_vectors_are_drawings_of_emoji_that_the_vendor_has(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["emoji_vectors"], "_renderer", lambda: lambda **given: given["svg_string"].encode())
    vectors = tmp_path / "svg"
    vectors.mkdir()
    with pytest.raises(SystemExit):
        emoji_rows(tmp_path / "none", "--vectors", str(vectors))
    with pytest.raises(SystemExit):
        emoji_rows(tmp_path / "few", "--vectors", str(vectors), "--variations", "0")
    for code in ("2764_fe0f", "1f34f"):  # the second has no name
        (vectors / f"emoji_u{code}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="3"/></svg>'
        )
    train, test = emoji_rows(tmp_path, "--vectors", str(vectors), "--variations", "2")
    added = [row for row in train if "vectors" in row["image"]]
    assert [(row["image"], row["text"], row["group"]) for row in added if row["language"] == "en"] == [
        (f"vectors/emoji_u2764_fe0f-{number}.png", " red heart", "Food") for number in range(2)
    ]
    assert len(added) == 4
    assert not [row for row in test if "vectors" in row["image"]]


def test_files_of_flags_are_named_by_region():
    emoji_data = sys.modules["emoji_data"]
    assert emoji_data.flag_emoji("KR") == "🇰🇷"
    assert emoji_data.flag_emoji("GB-ENG") == "🏴󠁧󠁢󠁥󠁮󠁧󠁿"


def test_flat_flags_are_drawn_in_two_styles_with_square_and_round_corners(tmp_path):
    emoji_data = sys.modules["emoji_data"]
    editions = [tmp_path / "newest", tmp_path / "older"]
    for folder, color in zip(editions, ("blue", "green"), strict=True):
        folder.mkdir()
        flag = Image.new("RGB", (200, 100), "white")
        flag.save(folder / "JP.png")
        flag.paste(color, (0, 0, 100, 100))
        flag.save(folder / "FR.png")
        flag.save(folder / "US-TX.png")
    drawn = list(emoji_data.draw_flags(editions, {"🇯🇵": "Flags", "🇫🇷": "Flags"}, tmp_path / "flags"))
    assert [(each.emoji, each.path.name) for each in drawn[:4]] == [
        ("🇫🇷", f"FR-0-{style}.png") for style in ("own-square", "own-round", "common-square", "common-round")
    ]
    assert [each.emoji for each in drawn[4::4]] == ["🇯🇵", "🇫🇷"]  # Japan's did not change
    own, rounded, common, _ = (np.asarray(Image.open(each.path)).astype(int) for each in drawn[:4])
    assert own.shape == (64, 64, 3)
    assert (own[:, 0] == (0, 0, 255)).all(axis=1).nonzero()[0].tolist() == list(range(16, 48))
    assert (own[:, 40:] == 255).all()
    assert rounded[16, 0].tolist() == [255, 255, 255]
    assert (rounded[20:44] == own[20:44]).all()
    darker = (common != 255).any(axis=2)
    assert (darker.any(axis=1).sum(), darker.any(axis=0).sum()) == (48, 64)  # white shows on white
    with pytest.raises(UsageError, match="has no flags such as KR.png"):
        list(emoji_data.draw_flags([tmp_path], {}, tmp_path / "none"))


def test_the_vendor_of_the_test_is_not_learned(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main(["emoji", "--vendor", "first=a", "--test", "first=b", "--out", str(tmp_path)])
    assert "give at least one --vendor, and for the test another" in capsys.readouterr().err


def test_speakers_are_held_out(tmp_path):
    for digit, speaker, number in [(0, "ann", 3), (0, "ann", 7), (9, "bob", 4), (9, "bob", 5)]:
        (tmp_path / f"{digit}_{speaker}_{number}.wav").write_bytes(b"")
    splits = tool.digit_rows(tmp_path, tmp_path / "out")
    assert splits.keys() == {"official", "without-ann", "without-bob"}
    train, test = splits["official"]
    assert [row["text"] for row in test] == ["zero", "nine"]
    assert all(row["audio"].endswith(("_7.wav", "_5.wav")) for row in train)
    assert all("bob" in row["audio"] for row in splits["without-bob"][1])
    assert all("ann" in row["audio"] for row in splits["without-bob"][0])


def test_captions_of_photos_have_the_name_of_their_class(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "test/cat/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    train, test = tool.cifar_rows(tmp_path, tmp_path / "out")
    assert [row["text"] for row in train] == ["a photo of a cat", "a photo of a dog"]
    assert test == [{"image": "../test/cat/2.jpg", "text": "a photo of a cat", "class": "cat"}]


def test_test_voices_and_sentences_are_never_in_training():
    sentences = {language: [f"{language} {number}" for number in range(30)] for language in ("en", "ko")}
    train, test = speech_data.speech_plan(sentences, count=100, test_count=8, seed=1)
    assert (len(train), len(test)) == (200, 16)
    assert not {one.text for one in train} & {one.text for one in test}
    variants = [{one.voice.partition("+")[2] for one in part} for part in (train, test)]
    assert not variants[0] & variants[1]
    assert speech_data.speech_plan(sentences, count=100, test_count=8, seed=1) == (train, test)
    with pytest.raises(UsageError, match="there are 30 sentences for en; at least 32 are needed"):
        speech_data.speech_plan(sentences, count=100, test_count=30, seed=1)


def test_length_is_written_into_a_header_from_a_pipe():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes(np.arange(100, dtype="<i2").tobytes())
    raw = stream.getvalue()
    piped = raw[:4] + b"\xff\xff\xff\x7f" + raw[8:40] + b"\xff\xff\xff\x7f" + raw[44:]
    assert speech_data._with_length(piped) == raw


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_sentences_are_spoken(tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.syspath_prepend(TOOLS)  # for the processes that speak
    (tmp_path / "ko.txt").write_text("안녕하세요\n사과 세 개\n비가 옵니다\n", encoding="utf-8")
    given = ["speech", "--sentences", f"ko={tmp_path / 'ko.txt'}", "--count", "2", "--test-count", "1"]
    tool.main([*given, "--out", str(tmp_path / "out")])
    [row] = rows(tmp_path / "out/test.jsonl")
    samples, rate = soundfile.read(tmp_path / "out" / row["audio"])
    assert rate == 16_000
    assert 0.3 < len(samples) / rate < 3
    assert np.abs(samples).max() > 0.05
    assert row["voice"].partition("+")[2] in speech_data.TEST_VARIANTS
