"""Pictures as codes: the quantizer against its reference, the tokenizer on disk, and the command that trains it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from glassgpt.data.bad_rows import BadRows
from glassgpt.errors import CheckpointError, TrainingDivergedError, WrongDataError, WrongRunError
from glassgpt.multimodal.fsq import FiniteScalarQuantizer, ImageAutoencoder, quantize_reference
from glassgpt.multimodal.image_tokenizer import ImageTokenizer, load_image_tokenizer
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
from glassgpt.multimodal.image_tokenizer_training import measure, psnr, train_image_tokenizer
from glassgpt.multimodal.pictures import Pictures, read_pictures

CONFIG = ImageTokenizerConfig(image_size=8, patch_size=4, levels=(4, 3), width=8)
LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=4)


def drawn(number):
    """A quarter of a white picture in one of three colors."""
    picture = np.full((8, 8, 3), 255, dtype=np.uint8)
    top, left = 4 * (number // 2 % 2), 4 * (number % 2)
    picture[top : top + 4, left : left + 4] = [(0, 0, 0), (255, 0, 0), (0, 0, 255)][number // 4]
    return picture


PICTURES = np.stack([drawn(number) for number in range(12)])


@pytest.fixture(scope="module")
def trained():
    training = ImageTokenizerTraining(steps=60, batch_size=8, learning_rate=3e-3, augment=0)
    return train_image_tokenizer(PICTURES, CONFIG, training, torch.device("cpu"))


@settings(max_examples=50, deadline=None)
@given(LEVELS, st.data())
def test_quantizer_equals_its_reference(levels, data):
    x = [data.draw(st.floats(-6, 6, width=32)) for _ in levels]
    code, values = quantize_reference(x, levels)
    around = {quantize_reference([value + by for value in x], levels)[0] for by in (-1e-4, 1e-4)}
    assume(around == {code})  # in the middle of two levels, float32 may be rounded to the other one
    quantizer, channels = FiniteScalarQuantizer(levels), torch.tensor(x).view(1, -1, 1, 1)
    assert quantizer.codes(channels).item() == code
    assert quantizer(channels).flatten().tolist() == pytest.approx(values, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(LEVELS)
def test_each_code_stands_for_one_combination_of_levels(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(int(np.prod(levels))).view(1, 1, -1)
    values = quantizer.values(codes)[0, :, 0].T
    assert len(values.unique(dim=0)) == len(values)
    for channel, count in enumerate(levels):
        assert len(values[:, channel].unique()) == count
    assert values.min() == -1
    assert values.max() <= 1


def test_each_code_can_be_reached():
    quantizer = FiniteScalarQuantizer((8, 5, 2))
    x = torch.linspace(-6, 6, 61)
    grid = torch.cartesian_prod(x, x, x).T.reshape(1, 3, 1, -1)
    assert len(quantizer.codes(grid).unique()) == 80
    assert torch.equal(quantizer.values(quantizer.codes(grid)), quantizer(grid))


def test_rounding_passes_the_gradient_through():
    quantizer = FiniteScalarQuantizer((5,))
    x = torch.tensor([0.3, -1.2]).view(2, 1, 1, 1).requires_grad_()
    quantizer(x).sum().backward()
    half = 4 * 1.001 / 2
    assert x.grad is not None
    assert torch.allclose(x.grad, (1 - x.detach().tanh() ** 2) * half / 2)


def test_decoded_codes_are_the_reconstruction():
    torch.manual_seed(0)
    model = ImageAutoencoder(CONFIG).eval()
    pictures = torch.rand(3, 3, 8, 8)
    codes = model.encode(pictures)
    assert codes.shape == (3, CONFIG.positions)
    assert 0 <= codes.min() <= codes.max() < CONFIG.codes
    assert torch.allclose(model.decode(codes), model(pictures).clamp(0, 1), atol=1e-6)


def test_pictures_are_reconstructed(trained):
    figures = measure(trained, Pictures(PICTURES, PICTURES))
    assert figures.psnr > figures.mean_psnr + 5
    codes = trained.encode(PICTURES)
    used = len(np.unique(codes))
    assert figures.codes_used == used / CONFIG.codes
    assert 1 < figures.perplexity <= used
    assert psnr(trained.decode(codes), PICTURES) == figures.psnr


def test_psnr_is_that_of_the_formula():
    originals = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert psnr(originals + 10, originals) == pytest.approx(20 * np.log10(25.5))
    assert psnr(originals, originals) == 100


def test_equal_seeds_give_equal_weights():
    training = ImageTokenizerTraining(steps=2, batch_size=4, seed=3)
    one, two = (train_image_tokenizer(PICTURES, CONFIG, training, torch.device("cpu")) for _ in range(2))
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, two.model.state_dict()[name]), name


def test_tokenizer_that_reconstructs_nothing_is_refused():
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(CONFIG, ImageAutoencoder(CONFIG))
    with pytest.raises(TrainingDivergedError, match="reconstructs nothing"):
        measure(tokenizer, Pictures(PICTURES, PICTURES))


def test_loaded_tokenizer_is_the_saved_one(trained, tmp_path):
    trained.save(tmp_path, {"psnr": 20.0})
    loaded = load_image_tokenizer(tmp_path)
    assert loaded.config == CONFIG
    assert np.array_equal(loaded.encode(PICTURES), trained.encode(PICTURES))
    with pytest.raises(ValueError, match="from 0 to 11"):
        loaded.decode(np.full((1, 4), 12))
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        loaded.decode(np.zeros((1, 5), dtype=np.int64))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 10),
        ("image_size", True),
        ("levels", [4]),
        ("levels", [4, 3.0]),
        ("width", 1 << 40),
        ("width", "8"),
    ],
)
def test_damaged_settings_are_refused(trained, tmp_path, field, value):
    trained.save(tmp_path, {})
    path = tmp_path / "image-tokenizer.json"
    content = json.loads(path.read_text())
    content["config"][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"image-tokenizer\.json"):
        load_image_tokenizer(tmp_path)


def test_damaged_weights_are_refused(trained, tmp_path):
    with pytest.raises(WrongRunError, match="not an image tokenizer"):
        load_image_tokenizer(tmp_path)
    trained.save(tmp_path, {})
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        load_image_tokenizer(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_image_tokenizer(tmp_path)


def write_pictures(folder, numbers):
    for number in numbers:
        path = folder / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(number % 12)).save(path)


def test_equal_pictures_of_a_folder_are_on_one_side(tmp_path):
    write_pictures(tmp_path, range(24))
    pictures = read_pictures(tmp_path, 8, BadRows())
    assert (len(pictures.train), len(pictures.validation)) == (11, 1)
    found = {picture.tobytes() for picture in (*pictures.train, *pictures.validation)}
    assert found == {picture.tobytes() for picture in PICTURES}


def test_dataset_keeps_its_division(named_data):
    pictures = read_pictures(named_data, 4, BadRows())
    assert pictures.train.shape[1:] == (4, 4, 3)
    train = {picture.tobytes() for picture in pictures.train}
    assert not train & {picture.tobytes() for picture in pictures.validation}


def test_one_picture_is_too_few(tmp_path):
    write_pictures(tmp_path, [0, 12])
    with pytest.raises(WrongDataError, match="1 different pictures"):
        read_pictures(tmp_path, 8, BadRows())
    with pytest.raises(WrongDataError, match="not a folder"):
        read_pictures(tmp_path / "none", 8, BadRows())


def test_command_writes_tokenizer_and_reconstructions(tmp_path, run_main):
    write_pictures(tmp_path / "in", range(12))
    flags = "--image-size 8 --levels 4,3 --width 8 --steps 60 --batch-size 8 --learning-rate 0.003 --augment 0"
    arguments = ["train-image-tokenizer", tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu"]
    code, output, _ = run_main(*arguments, *flags.split())
    assert code == 0
    assert "a picture is 4 tokens of 12" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "image-tokenizer.json",
        "reconstruction.png",
        "weights.safetensors",
    ]
    measured = json.loads((tmp_path / "out" / "image-tokenizer.json").read_text())["measured"]
    assert measured["psnr"] > measured["mean_psnr"] + 1
    assert load_image_tokenizer(tmp_path / "out").config == CONFIG


SMALL = "--image-size 8 --levels 4,3 --width 8 --steps 60 --batch-size 8 --learning-rate 0.003 --augment 0 --device cpu"


def test_damaged_pictures_are_skipped_as_far_as_permitted(tmp_path, run_main):
    write_pictures(tmp_path / "in", range(12))
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes((tmp_path / "in" / "0" / "0.png").read_bytes()[:40])
    arguments = ["train-image-tokenizer", tmp_path / "in", "--out", tmp_path / "out", *SMALL.split()]
    code, _, error = run_main(*arguments)
    assert code == 1
    assert f"{tmp_path / 'in' / 'a.png'}: it is not a picture" in error
    assert "skip such rows with --skip-bad N" in error
    code, _, error = run_main(*arguments, "--skip-bad", 1)
    assert code == 1
    assert "b.png: it is not a picture" in error
    assert "1 bad rows were skipped before, as --skip-bad permits" in error
    code, output, error = run_main(*arguments, "--skip-bad", 2)
    assert code == 0
    assert "pictures: 11 for training, 1 held out" in output
    assert "bad rows and files skipped: 2, such as:" in error


def test_damaged_pictures_alone_are_an_error(tmp_path, run_main):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no picture")
    arguments = ["train-image-tokenizer", tmp_path / "in", "--out", tmp_path / "out", *SMALL.split()]
    code, _, error = run_main(*arguments, "--skip-bad", 9)
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert "has 0 different pictures that can be decoded; at least 2 are needed; bad rows and files skipped: 1" in error
    assert "a.png: it is not a picture" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--levels", "8;8"], "--levels"),
        (["--levels", "1,8"], "levels is 1,8"),
        (["--patch-size", "3"], "power of 2"),
        (["--image-size", "30"], "multiple of the patch size"),
        (["--width", "12"], "multiple of 8"),
        (["--steps", "0"], "at least 1"),
        (["--augment", "nan"], "augment is nan"),
        (["--learning-rate", "inf"], "learning_rate is inf"),
        (["--skip-bad", "-1"], "--skip-bad is -1; it must not be negative"),
    ],
)
def test_invalid_settings_are_named_before_anything_is_written(tmp_path, run_main, flags, message):
    write_pictures(tmp_path / "in", [0, 1])
    code, _, error = run_main("train-image-tokenizer", tmp_path / "in", "--out", tmp_path / "out", *flags)
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert message in error
