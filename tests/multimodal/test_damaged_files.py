"""Damaged and edited JSON files of datasets, runs and image tokenizers: named in one or two lines, never a traceback."""

import copy
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_drawing import drawing_data, drawing_run, image_tokenizer, write_rows

from glassgpt.schema.json_fields import from_json, json_object

__all__ = ["drawing_data", "drawing_run", "image_tokenizer"]
OTHER_TYPES = {
    int: ["x", None, [], {}, 0.5, True, -1, -(10**30), 10**30], float: ["x", None, [], {}], str: [3, None, [], {}],
    bool: ["x", None], list: [{}, 3, "x", None, [[]]], dict: [[], 3, "x", None],
}  # fmt: skip
FREE = {"options", "measured"}
"""Values whose form is not fixed."""
OPTIONAL = {"skipped"}
"""Keys that earlier datasets do not have."""
VALUES = [0, 1, 2, 7, 2**31, 2**62, 1e308, float("nan"), "", "../x", "x" * 300]


def places(content, place=()):
    """Return the paths to all values of JSON but the free ones."""
    found = [place] if place else []
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        if key not in FREE:
            found += places(value, (*place, key))
    return found


def holder(content, place):
    for key in place[:-1]:
        content = content[key]
    return content


def signed(content):
    """Return an object with its checksum, as datasets have it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


@st.composite
def damaged(draw, original, *, has_checksum):
    """Draw the bytes of a damaged file, and whether a message must name it: not all numbers of the right type can be told."""
    raw = json.dumps(original).encode()
    kind = draw(st.sampled_from(["cut", "other", "drop", "add", "type", "type", "value"]))
    if kind == "cut":
        return raw[: draw(st.integers(0, len(raw) - 1))], True
    if kind == "other":
        return draw(st.sampled_from([b"null", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000, b"{}"])), True
    content = copy.deepcopy(original)
    fixed = [place for place in places(content) if place[-1] != "sha256" and not isinstance(place[-1], int)]
    place = draw(st.sampled_from(fixed))
    inside, key = holder(content, place), place[-1]
    is_table = "files" in place[:-1] or "begin" in place[:-1] or "media" in place[:-1] or "positions" in place[:-1]
    if kind == "drop":
        del inside[key]
    elif kind == "add":
        inside["unknown"] = draw(st.sampled_from(VALUES))
    elif kind == "type":
        inside[key] = draw(st.sampled_from(OTHER_TYPES[type(inside[key])]))
    else:
        inside[key] = draw(st.sampled_from(VALUES))
    content = signed(content) if has_checksum else content
    is_needed = kind == "add" or key not in OPTIONAL
    return json.dumps(content).encode(), kind == "type" or (kind != "value" and not is_table and is_needed)


def check(run_main, folder, name, raw, must_fail, *command):
    """Run a command on a copy of a folder with the damaged file in it."""
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / folder.name
        shutil.copytree(folder, copied)
        (copied / name).write_bytes(raw)
        code, _, errors = run_main(*[str(part).replace("COPY", str(copied)) for part in command])
        assert "Traceback" not in errors
        if must_fail:
            assert code in (1, 2)
            assert str(copied / name) in " ".join(errors.split()) or name in errors
        message = errors.strip().splitlines()
        assert code == 0 or (code in (1, 2) and 0 < len(message[-1]) < 600 and "error" in errors)


PROPERTY = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", ["dataset.json", "multimodal.json"])
@PROPERTY
@given(data=st.data())
def test_of_a_dataset_with_media(named_data, named_run, run_main, name, data):
    raw, must_fail = data.draw(damaged(json.loads((named_data / name).read_bytes()), has_checksum=True))
    check(run_main, named_data, name, raw, must_fail, "evaluate", named_run, "--data", "COPY", "--device", "cpu")


@settings(PROPERTY, max_examples=15)
@given(data=st.data())
def test_when_training_begins(named_data, run_main, data):
    name = data.draw(st.sampled_from(["dataset.json", "multimodal.json"]))
    raw, must_fail = data.draw(damaged(json.loads((named_data / name).read_bytes()), has_checksum=True))
    shape = ("--model.n-layer", "1", "--model.n-head", "1", "--model.n-embd", "8", "--multimodal.mels", "16")
    length = ("--model.context-length", "64", "--train.sequence-length", "64", "--train.batch-tokens", "64")
    steps = ("--train.max-steps", "1", "--train.eval-every-steps", "1", "--train.device", "cpu", "--out", "COPY/run")
    check(run_main, named_data, name, raw, must_fail, "train", "nano", "--data", "COPY", *shape, *length, *steps)


@PROPERTY
@given(data=st.data())
def test_of_a_run_that_draws(drawing_run, run_main, data):
    original = json.loads((drawing_run / "drawing.json").read_bytes())
    raw, must_fail = data.draw(damaged(original, has_checksum=False))
    flags = ("--draw", "red top left", "--out", "COPY/a.png", "--device", "cpu")
    check(run_main, drawing_run, "drawing.json", raw, must_fail, "generate", "COPY", *flags)


@PROPERTY
@given(data=st.data())
def test_of_an_image_tokenizer(image_tokenizer, drawing_run, tmp_path_factory, run_main, data):
    name = "image-tokenizer.json"
    raw, must_fail = data.draw(damaged(json.loads((image_tokenizer / name).read_bytes()), has_checksum=False))
    if data.draw(st.booleans()):
        flags = ("--draw", "red top left", "--image-tokenizer", "COPY", "--out", "COPY/a.png", "--device", "cpu")
        command = ("generate", drawing_run, *flags)
    else:
        rows = write_rows(tmp_path_factory.getbasetemp() / "damaged_rows")
        command = ("prepare", rows, "--draw", "COPY", "--out", "COPY/data", "--tokenizer", "bpe:270")
    check(run_main, image_tokenizer, name, raw, must_fail and b'"unknown"' not in raw, *command)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_truncated_weights_of_an_image_tokenizer(image_tokenizer, drawing_run, tmp_path, run_main, size):
    copied = shutil.copytree(image_tokenizer, tmp_path / "tokenizer")
    weights = copied / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    code, _, errors = run_main(
        "generate", drawing_run, "--draw", "a", "--image-tokenizer", copied, "--out", tmp_path / "a.png"
    )
    assert code == 1
    assert "weights.safetensors is damaged" in errors
    assert "or train the image tokenizer again" in " ".join(errors.split())


def test_a_shape_that_needs_more_than_the_memory_is_not_allocated(image_tokenizer, drawing_run, tmp_path, run_main):
    copied = shutil.copytree(image_tokenizer, tmp_path / "tokenizer")
    content = json.loads((copied / "image-tokenizer.json").read_bytes())
    content["config"] |= {"patch_size": 256, "image_size": 256, "width": 1024}  # 45 GB of weights
    (copied / "image-tokenizer.json").write_text(json.dumps(content))
    code, _, errors = run_main(
        "generate", drawing_run, "--draw", "a", "--image-tokenizer", copied, "--out", tmp_path / "a.png"
    )
    assert code == 1
    assert "weights.safetensors does not match image-tokenizer.json" in " ".join(errors.split())


def test_image_tokenizer_and_captions_are_checked_before_the_model_is_loaded(drawing_run, tmp_path, run_main):
    """The weights of the model are damaged, too, which is found only when they are read."""
    copied = shutil.copytree(drawing_run, tmp_path / "run")
    for weights in copied.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    given = ("generate", copied, "--out", tmp_path / "a.png", "--device", "cpu", "--draw")
    code, _, errors = run_main(*given, "red", "--image-tokenizer", tmp_path)
    assert code == 2
    assert "is not an image tokenizer" in errors
    code, _, errors = run_main(*given, "zebra " * 40)
    assert code == 2
    assert "the caption has" in errors


def test_values_of_json():
    from glassgpt.multimodal.dataset import Geometry

    whole = {"image_size": 8, "patch_size": 4, "rate": 8000, "hop": 80, "frames_per_position": 3}
    assert from_json(Geometry, whole) == Geometry(**whole)
    for change, message in (
        ({"rate": 8000.5}, "the value rate must be an integer"),
        ({"rate": -1}, "the value rate must be from 0 to"),
        ({"speed": 3}, "it has the unknown value speed"),
    ):
        with pytest.raises(ValueError, match=message):
            from_json(Geometry, {**whole, **change})
    with pytest.raises(ValueError, match="it lacks the value hop"):
        from_json(Geometry, {key: value for key, value in whole.items() if key != "hop"})
    assert from_json(Geometry, {"rate": 8000}, may_lack_defaults=True) == Geometry(rate=8000)
    with pytest.raises(ValueError, match="the value geometry must be an object"):
        from_json(Geometry, [], "geometry")
    with pytest.raises(ValueError, match="nested too deeply"):
        json_object(b"[" * 100_000)
