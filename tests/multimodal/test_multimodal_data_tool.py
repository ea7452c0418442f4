"""tools/multimodal_data.py makes rows from datasets as people have them."""

import importlib.util
import io
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from glassgpt.errors import UsageError

SPEC = importlib.util.spec_from_file_location("multimodal_data", Path(__file__).parents[2] / "tools/multimodal_data.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def vendor_package(folder, vendor, codes):
    pictures = folder / "img" / vendor / "64"
    pictures.mkdir(parents=True)
    entries = []
    for code in codes:
        name = f"{code.lower()}.png"
        (pictures / name).write_bytes(b"")
        entries.append({"unified": code, "image": name, f"has_img_{vendor}": True})
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


def test_emoji_are_named_in_two_languages_by_vendor(tmp_path):
    first = vendor_package(tmp_path / "first", "first", ["1F34E", "2764-FE0F", "1F34F"])
    second = vendor_package(tmp_path / "second", "second", ["1F34E", "2764-FE0F"])
    names = names_package(
        tmp_path / "names", {"en": {"🍎": "red apple", "❤️": "red heart"}, "ko": {"🍎": "빨간 사과", "❤": "빨간 하트"}}
    )
    given = ["emoji", "--vendor", f"first={first}", "--vendor", f"second={second}", "--names", str(names)]
    tool.main([*given, "--test", "second", "--out", str(tmp_path / "out")])
    train, test = (rows(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "test"))
    assert [(row["prompt"], row["text"]) for row in train] == [
        ("English:", " red heart"), ("한국어:", " 빨간 하트"), ("English:", " red apple"), ("한국어:", " 빨간 사과"),
    ]  # fmt: skip
    assert [row["text"] for row in test] == [row["text"] for row in train]
    assert (tmp_path / "out" / train[0]["image"]).resolve() == first / "img/first/64/2764-fe0f.png"
    assert "second" in test[0]["image"]


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


def test_photos_have_the_name_of_their_class(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "test/cat/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    train, test = tool.cifar_rows(tmp_path, tmp_path / "out")
    assert [row["text"] for row in train] == ["cat", "dog"]
    assert test == [{"image": "../test/cat/2.jpg", "text": "cat"}]


def test_test_voices_and_sentences_are_never_in_training():
    sentences = {language: [f"{language} {number}" for number in range(30)] for language in ("en", "ko")}
    train, test = tool.speech_plan(sentences, count=100, test_count=8, seed=1)
    assert (len(train), len(test)) == (200, 16)
    assert not {one.text for one in train} & {one.text for one in test}
    variants = [{one.voice.partition("+")[2] for one in part} for part in (train, test)]
    assert not variants[0] & variants[1]
    assert tool.speech_plan(sentences, count=100, test_count=8, seed=1) == (train, test)
    with pytest.raises(UsageError, match="there are 30 sentences for en; at least 32 are needed"):
        tool.speech_plan(sentences, count=100, test_count=30, seed=1)


def test_length_is_written_into_a_header_from_a_pipe():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes(np.arange(100, dtype="<i2").tobytes())
    raw = stream.getvalue()
    piped = raw[:4] + b"\xff\xff\xff\x7f" + raw[8:40] + b"\xff\xff\xff\x7f" + raw[44:]
    assert tool._with_length(piped) == raw


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_sentences_are_spoken(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "ko.txt").write_text("안녕하세요\n사과 세 개\n비가 옵니다\n", encoding="utf-8")
    given = ["speech", "--sentences", f"ko={tmp_path / 'ko.txt'}", "--count", "2", "--test-count", "1"]
    tool.main([*given, "--out", str(tmp_path / "out")])
    [row] = rows(tmp_path / "out/test.jsonl")
    samples, rate = soundfile.read(tmp_path / "out" / row["audio"])
    assert rate == 16_000
    assert 0.3 < len(samples) / rate < 3
    assert np.abs(samples).max() > 0.05
    assert row["voice"].partition("+")[2] in tool.TEST_VARIANTS
