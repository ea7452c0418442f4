"""Pictures as tokens of a text: prepared, learned, drawn."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import glassgpt
from glassgpt.data.chat.dataset import open_dataset
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import load_tokenizer, train_tokenizer
from glassgpt.diagnosis.checks.data import check_tokenizer_fit
from glassgpt.errors import CheckpointError, DataError, GenerationError, WrongTokenizerError
from glassgpt.generation.plain import generate_tokens
from glassgpt.multimodal.drawing import CodesOnly, drawing_prompt, drawing_sheet
from glassgpt.multimodal.drawing_data import drawing_geometry, prepare_drawings
from glassgpt.multimodal.drawing_options import drawing_options
from glassgpt.multimodal.drawing_tokens import (
    BEGIN_DRAWING,
    DrawingRecord,
    DrawingTokens,
    recorded_drawing,
    with_code_tokens,
)
from glassgpt.multimodal.fsq import ImageAutoencoder
from glassgpt.multimodal.image_tokenizer import ImageTokenizer, load_image_tokenizer
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig
from glassgpt.multimodal.prepare_options import MultimodalOptions

CONFIG = ImageTokenizerConfig(image_size=8, patch_size=4, levels=(4, 3), width=8)
COLORS = {"black": (0, 0, 0), "red": (255, 0, 0), "blue": (0, 0, 255)}
PLACES = {"top left": (0, 0), "top right": (0, 4), "bottom left": (4, 0), "bottom right": (4, 4)}
SETTINGS = {
    "model.arch": "modern", "model.bias": "false", "model.context_length": "48", "model.n_layer": "2", "model.n_head": "2",
    "model.n_embd": "32", "train.max_steps": "120", "train.batch_tokens": "384", "train.learning_rate": "0.03",
    "train.clip_norm": "0", "train.eval_every_steps": "120", "optimizer.name": "muon", "optimizer.beta1": "0.8",
    "optimizer.embedding_rate_ratio": "14", "schedule.kind": "wsd", "schedule.warmup_steps": "0",
    "schedule.decay_fraction": "0.7", "schedule.final_ratio": "0",
}  # fmt: skip


def quarter(color, place):
    picture = np.full((8, 8, 3), 255, dtype=np.uint8)
    top, left = PLACES[place]
    picture[top : top + 4, left : left + 4] = COLORS[color]
    return picture


CAPTIONS = {f"{color} {place}": quarter(color, place) for color in COLORS for place in PLACES}


def write_rows(folder, captions=CAPTIONS, question=""):
    """Write each picture with its caption and, as another document, with the caption in capitals."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, (caption, picture) in enumerate(captions.items()):
        Image.fromarray(picture).save(folder / f"{number}.png")
        for text in (f" {caption}", caption.upper()):
            rows.append({"image": f"{number}.png", "text": text} | ({"prompt": question} if question else {}))
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def image_tokenizer(tmp_path_factory):
    """The folder of an image tokenizer with random weights, which tells the pictures apart; tests must not modify it."""
    folder = tmp_path_factory.mktemp("draw") / "tokenizer"
    folder.mkdir()
    torch.manual_seed(3)
    model = ImageAutoencoder(CONFIG)
    with torch.no_grad():
        model.encoder[-1].weight.mul_(8)
    ImageTokenizer(CONFIG, model).save(folder, {})
    return folder


def prepared(rows, out, folder, **options):
    found = load_image_tokenizer(folder)
    given = MultimodalOptions(
        (str(rows),), out, **{"tokenizer": "bpe:270", "geometry": drawing_geometry(found), **options}
    )
    return prepare_drawings(given, found, folder)


@pytest.fixture(scope="session")
def drawing_data(image_tokenizer, tmp_path_factory):
    """A dataset whose validation split is the training split; tests must not modify it."""
    folder = tmp_path_factory.mktemp("drawing")
    rows = write_rows(folder / "rows")
    prepared(rows, folder / "data", image_tokenizer, validation_sources=(str(rows),))
    return folder / "data"


@pytest.fixture(scope="session")
def drawing_run(drawing_data, tmp_path_factory):
    """A run that has learned to draw; tests must not modify it."""
    from glassgpt.api import train
    from glassgpt.config import load_config

    out = tmp_path_factory.mktemp("drawing_run") / "run"
    train(load_config(None, {**SETTINGS, "data": str(drawing_data)}), out)
    return out


def documents(dataset, name):
    """Return caption and codes of each document of a split."""
    tokens, special = dataset.split(name).read(0, len(dataset.split(name))), DrawingTokens.of(dataset.tokenizer)
    starts = np.flatnonzero(tokens == dataset.tokenizer.end_of_text)
    found = []
    for part in np.split(tokens, starts)[1:]:
        (at,) = np.flatnonzero(part == special.begin)
        found.append((dataset.tokenizer.decode(part[1:at].tolist()), (part[at + 1 :] - special.first).tolist()))
    return found


# The tokens.


def test_code_tokens_follow_the_other_ids():
    plain = train_tokenizer("bpe:270", ["a red apple"] * 9)
    tokenizer = with_code_tokens(plain, 12)
    assert DrawingTokens.of(tokenizer) == (plain.vocab_size, plain.vocab_size + 1, 12)
    assert tokenizer.vocab_size == plain.vocab_size + 13
    assert tokenizer.encode("a red <|code_3|>") == plain.encode("a red <|code_3|>")
    assert with_code_tokens(tokenizer, 12) is tokenizer


def test_wrong_tokenizers_are_refused():
    tokenizer = with_code_tokens(train_tokenizer("bpe:270", ["a red apple"] * 9), 12)
    with pytest.raises(WrongTokenizerError, match="tokens for 12 codes, and the image tokenizer has 8"):
        with_code_tokens(tokenizer, 8)
    with pytest.raises(WrongTokenizerError, match="cannot be added"):
        with_code_tokens(load_tokenizer("bytes"), 12)
    with pytest.raises(WrongTokenizerError, match="cannot draw"):
        DrawingTokens.of(load_tokenizer("bytes"))
    shuffled = tokenizer.with_special_tokens(["<|code_13|>"])
    with pytest.raises(WrongTokenizerError, match="not in order"):
        DrawingTokens.of(shuffled)


def test_fingerprint_is_that_of_shape_and_weights(image_tokenizer):
    one = load_image_tokenizer(image_tokenizer)
    assert one.fingerprint == load_image_tokenizer(image_tokenizer).fingerprint
    assert ImageTokenizer(replace(CONFIG, levels=(3, 4)), one.model).fingerprint != one.fingerprint
    other = ImageAutoencoder(CONFIG)
    assert ImageTokenizer(CONFIG, other).fingerprint != one.fingerprint


# The data.


def test_dataset_is_one_of_text_with_captions_and_codes(drawing_data, image_tokenizer):
    dataset = open_dataset(drawing_data)
    assert type(dataset) is TokenDataset
    dataset.verify()
    found = documents(dataset, "train")
    expected = load_image_tokenizer(image_tokenizer).encode(np.stack(list(CAPTIONS.values()))).tolist()
    pairs = [
        (text, codes) for caption, codes in zip(CAPTIONS, expected, strict=True) for text in (caption, caption.upper())
    ]
    orders = [found[at : at + 24] for at in range(0, len(found), 24)]
    assert len(orders) == dataset.info.options["orders"] == 16
    assert all(sorted(order) == sorted(pairs) and order != pairs for order in orders)
    assert orders[0] != orders[1]
    assert sorted(documents(dataset, "validation")) == sorted(pairs)
    assert (drawing_data / "samples.png").is_file()
    summary = dataset.info
    assert (summary.train.documents, summary.validation.documents) == (16 * 24, 24)
    assert summary.validation.characters == sum(len(text) for text, _ in pairs)
    assert summary.train.tokens == len(dataset.split("train"))


def test_options_hold_the_image_tokenizer(drawing_data, image_tokenizer):
    record = recorded_drawing(drawing_data)
    assert record == DrawingRecord(load_image_tokenizer(image_tokenizer).fingerprint, 4, 12, str(image_tokenizer))
    assert "geometry" not in TokenDataset.open(drawing_data).info.options


def test_doctor_counts_the_tokens_of_captions_alone(drawing_data):
    dataset = TokenDataset.open(drawing_data)
    captions = [caption for caption, _ in documents(dataset, "train")]
    tokens = sum(1 + len(dataset.tokenizer.encode(caption)) for caption in captions)
    fit = check_tokenizer_fit(dataset)
    assert fit.measurements["bytes"] == sum(map(len, captions)) / tokens
    assert not fit.findings


def test_captions_of_a_picture_are_on_one_side(tmp_path, image_tokenizer):
    prepared(write_rows(tmp_path / "rows"), tmp_path / "data", image_tokenizer, validation_fraction=0.3)
    dataset = TokenDataset.open(tmp_path / "data")
    sides = [{caption.lower() for caption, _ in documents(dataset, name)} for name in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(CAPTIONS)


def test_prompts_are_left_out_and_copies_dropped(tmp_path, image_tokenizer):
    rows = write_rows(tmp_path / "rows", dict(list(CAPTIONS.items())[:3]), question="English:")
    rows.write_text(rows.read_text() + rows.read_text().replace("English:", "Name:"))
    summary = prepared(rows, tmp_path / "data", image_tokenizer)
    assert summary.duplicates == 6
    assert summary.train.documents / 16 + summary.validation.documents == 6
    captions = [text for text, _ in documents(TokenDataset.open(tmp_path / "data"), "train")]
    assert not any("English" in text for text in captions)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a cat"}, "the row has 0 pictures and sounds"),
        ({"image": ["0.png", "1.png"], "text": "two"}, "the row has 2 pictures and sounds"),
        (
            {"messages": [{"role": "user", "content": "draw"}, {"role": "assistant", "content": "no"}]},
            "the row has messages",
        ),
    ],
)
def test_rows_without_one_picture_are_named(tmp_path, image_tokenizer, row, message):
    rows = write_rows(tmp_path / "rows")
    rows.write_text(json.dumps(row) + "\n" + rows.read_text())
    with pytest.raises(DataError, match=f"rows.jsonl, line 1.*{message}.*--skip-bad"):
        prepared(rows, tmp_path / "data", image_tokenizer)
    summary = prepared(rows, tmp_path / "data", image_tokenizer, skip_bad=1)
    assert (summary.skipped, summary.train.documents / 16 + summary.validation.documents) == (1, 24)


def test_tokenizer_of_another_image_tokenizer_is_refused(tmp_path, drawing_data, image_tokenizer):
    rows = write_rows(tmp_path / "rows")
    prepared(rows, tmp_path / "again", image_tokenizer, tokenizer=str(drawing_data))
    assert TokenDataset.open(tmp_path / "again").tokenizer_fingerprint == load_tokenizer(str(drawing_data)).fingerprint
    other = tmp_path / "other"
    other.mkdir()
    ImageTokenizer(CONFIG, ImageAutoencoder(CONFIG)).save(other, {})
    with pytest.raises(WrongTokenizerError, match="tokens of another image tokenizer"):
        prepared(rows, tmp_path / "data", other, tokenizer=str(drawing_data))


def test_prepare_command(tmp_path, image_tokenizer, run_main):
    rows = write_rows(tmp_path / "rows")
    arguments = ["prepare", rows, "--draw", image_tokenizer, "--out", tmp_path / "data", "--tokenizer", "bpe:270"]
    code, output, errors = run_main(*arguments)
    assert code == 0
    assert "a picture is 4 tokens of 12" in output
    assert "samples.png" in errors
    for flags, message in (
        (["--image-size", "8"], "--image-size cannot be combined with --draw"),
        (["--format", "code"], "not for --format code"),
        (["--split", "tail"], "--split is for --format text"),
    ):
        code, _, errors = run_main(*arguments, "--force", *flags)
        assert code == 2
        assert message in errors


# Drawing.


def test_run_draws_what_it_learned(drawing_run, image_tokenizer):
    model = glassgpt.load(drawing_run)
    found = load_image_tokenizer(image_tokenizer)
    learned = found.decode(found.encode(np.stack(list(CAPTIONS.values()))))
    drawn = model.draw_many(list(CAPTIONS), temperature=0.0)
    equal = [np.array_equal(np.asarray(one), other) for (one,), other in zip(drawn, learned, strict=True)]
    assert sum(equal) >= 10
    one = model.draw("red top left", seed=1)
    assert one.size == (8, 8)
    assert np.array_equal(np.asarray(one), np.asarray(model.draw("  red top left ", seed=1)))


def test_batch_draws_what_the_reference_generates(drawing_run, image_tokenizer):
    """Many pictures at once are those of the plain loop, which draws one code after the other."""
    model = glassgpt.load(drawing_run, precision="float32")
    tokens, found = DrawingTokens.of(model.tokenizer), load_image_tokenizer(image_tokenizer)
    options = drawing_options({"seed": 5, "temperature": 2.0}, max_tokens=4, processors=(CodesOnly(tokens),))
    drawn = model.draw_many(["blue top left", "a thing that it never saw"], seed=5, temperature=2.0, num_samples=3)
    for caption, pictures in zip(("blue top left", "a thing that it never saw"), drawn, strict=True):
        prompt = drawing_prompt(model.tokenizer, caption, 4, 48)
        for index, picture in enumerate(pictures):
            output = list(generate_tokens(model.model, model.tokenizer, prompt, options, index))
            assert len(output) == 4
            assert all(tokens.first <= token < tokens.first + 12 for token in output)
            assert np.array_equal(found.decode(np.array([output]) - tokens.first)[0], np.asarray(picture))


def test_only_codes_are_allowed():
    logits = torch.zeros(2, 10)
    allowed = CodesOnly(DrawingTokens(3, 4, 5))(logits.clone(), [])
    assert torch.equal(allowed > -math.inf, (torch.arange(10) >= 4).logical_and(torch.arange(10) < 9).expand(2, 10))


def test_sheet_is_row_by_row():
    pictures = [np.full((8, 8, 3), value, dtype=np.uint8) for value in range(5)]
    assert drawing_sheet(pictures[:1]) is pictures[0]
    sheet = drawing_sheet(pictures)
    assert sheet.shape == (2 * 12 + 4, 3 * 12 + 4, 3)
    assert [sheet[4 + 12 * row, 4 + 12 * column, 0] for row in (0, 1) for column in (0, 1, 2)] == [0, 1, 2, 3, 4, 128]
    assert drawing_sheet(pictures[:4], 4).shape == (16, 4 * 12 + 4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 3}, "max_tokens is for text; pictures are drawn with"),
        ({"stop": ["x"]}, "stop is for text"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"colors": 3}, "unknown option colors"),
    ],
)
def test_wrong_options_are_named(drawing_run, options, message):
    with pytest.raises(GenerationError, match=message):
        glassgpt.load(drawing_run).draw("red top left", **options)


def test_wrong_captions_are_named(drawing_run):
    model = glassgpt.load(drawing_run)
    with pytest.raises(GenerationError, match="the caption is empty"):
        model.draw(" ")
    with pytest.raises(GenerationError, match=r"the caption has \d+ tokens; with a context of 48 and 4 .* may have 43"):
        model.draw("zebra " * 40)
    with pytest.raises(GenerationError, match="it must be a list"):
        model.draw_many("red")
    with pytest.raises(GenerationError, match=r"returns one sample; use draw_many\(…\)"):
        model.draw("red", num_samples=2)
    assert model.draw_many([]) == []


def test_longest_caption_is_drawn(drawing_run):
    model = glassgpt.load(drawing_run)
    prompt = drawing_prompt(model.tokenizer, "z" * 43, 4, 48)
    assert len(prompt) == 45
    assert model.draw("z" * 43).size == (8, 8)


def test_another_image_tokenizer_is_refused(drawing_run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    ImageTokenizer(CONFIG, ImageAutoencoder(CONFIG)).save(other, {})
    with pytest.raises(WrongTokenizerError, match="is not the one that the model was trained with"):
        glassgpt.load(drawing_run).draw("red top left", image_tokenizer=other)
    model = glassgpt.load(drawing_run)
    with pytest.raises(WrongTokenizerError, match="is not the one that the model was trained with"):
        replace(model, drawing=replace(model.drawing, positions=1 << 20)).draw("red top left")  # a run may be untrusted


def test_image_tokenizer_may_have_moved(drawing_run, image_tokenizer):
    model = glassgpt.load(drawing_run)
    moved = replace(model, drawing=replace(model.drawing, path="/nowhere/tokenizer"))
    with pytest.raises(WrongTokenizerError, match="no longer in /nowhere/tokenizer; say where it is now"):
        moved.draw("red top left")
    assert moved.draw("red top left", image_tokenizer=image_tokenizer, seed=1) == model.draw("red top left", seed=1)


def test_model_of_text_cannot_draw(drawing_run):
    with pytest.raises(WrongTokenizerError, match="cannot draw"):
        replace(glassgpt.load(drawing_run), tokenizer=load_tokenizer("bytes")).draw("a cat")


def test_damaged_record_is_named(tmp_path):
    path = tmp_path / "drawing.json"
    for content in ("{", "[]", '{"fingerprint": 3, "positions": 4, "codes": 12, "path": "x"}'):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=r"drawing\.json is damaged"):
            DrawingRecord.read(path)


def test_runs_made_from_it_draw_too(drawing_run, drawing_data, tmp_path):
    from glassgpt.api import train
    from glassgpt.config import load_config

    settings = {**SETTINGS, "data": str(drawing_data), "init_from": str(drawing_run), "train.max_steps": "1"}
    train(load_config(None, settings), tmp_path / "run")
    assert recorded_drawing(tmp_path / "run") == recorded_drawing(drawing_run)
    assert BEGIN_DRAWING in load_tokenizer(str(tmp_path / "run")).special_tokens


# The command.


def test_command_draws_one_picture(drawing_run, tmp_path, run_main):
    arguments = ["generate", drawing_run, "--draw", "red top left", "--device", "cpu"]
    code, output, errors = run_main(*arguments, "--out", tmp_path / "a.png")
    assert code == 0
    assert "pictures drawn: 1" in output
    seed = errors.split("--seed ")[1].split(")")[0]
    assert Image.open(tmp_path / "a.png").size == (8, 8)
    assert run_main(*arguments, "--out", tmp_path / "b.png", "--seed", seed)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_command_draws_sheets_and_folders(drawing_run, tmp_path, run_main, monkeypatch):
    two = ["generate", drawing_run, "--draw", "red top left", "--draw", "blue top left", "--num-samples", "3"]
    assert run_main(*two, "--out", tmp_path / "sheet.png", "--seed", "1")[0] == 0
    assert Image.open(tmp_path / "sheet.png").size == (3 * 12 + 4, 2 * 12 + 4)
    monkeypatch.setattr("sys.stdin", io.StringIO("red top left\n\nblue top left\n"))
    reading = ["generate", drawing_run, "--draw", "-", "--num-samples", "3"]
    assert run_main(*reading, "--out", tmp_path / "pictures", "--seed", "1")[0] == 0
    rows = [json.loads(line) for line in Path(tmp_path / "pictures" / "drawings.jsonl").read_text().splitlines()]
    assert [(row["text"], row["sample"]) for row in rows] == [
        (caption, sample) for caption in ("red top left", "blue top left") for sample in range(3)
    ]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    last = np.asarray(Image.open(tmp_path / "pictures" / rows[-1]["image"]))
    assert np.array_equal(last, sheet[16:24, 28:36])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--draw", "red"], "--draw needs --out"),
        (["--draw", " ", "--out", "a.png"], "--draw has no caption"),
        (["--out", "a.png"], "say what to draw with --draw"),
        (["--draw", "red", "--out", "a.png", "--prompt", "x"], "--prompt is for text"),
        (["--draw", "red", "--out", "a.png", "--beams", "3"], "--beams is for text"),
        (["--draw", "red", "--out", "a.png", "--max-tokens", "3"], "max_tokens is for text"),
        (["--draw", "red", "--out", "none/a.png"], "the folder none does not exist"),
        (["--draw", "red", "--out", "."], "exists already"),
        (["--draw", "red", "--out", "file"], "exists already"),
        (["--draw", "red", "--out", "file.png"], "exists already"),
        (["--draw", "red", "--out", "a.jpg"], "--out is a.jpg; pictures are written as PNG"),
        (["--draw", "red", "--out", "a.png", "--image-tokenizer", "none"], "none is not an image tokenizer"),
    ],
)
def test_wrong_command_lines_are_named(drawing_run, tmp_path, run_main, monkeypatch, flags, message):
    for name in ("file", "file.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    code, _, errors = run_main("generate", drawing_run, *flags)
    assert code == 2
    assert message in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.png"]
