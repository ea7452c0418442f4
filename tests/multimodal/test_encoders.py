"""Encoders: equal to their readable references, whatever is beside a medium in its row; spectrograms equal transformers'."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from media_examples import BEGIN, CONFIG, PICTURE_POSITIONS, VOCABULARY, picture, sound

from glassgpt.errors import ConfigError, DataError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import add_lora, build_like, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.multimodal import audio_augmentation, image_augmentation, spectrogram
from glassgpt.multimodal.audio import AudioEncoder, encode_audio_readable
from glassgpt.multimodal.image import ImageEncoder, encode_image_readable
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.model import MultimodalModel, medium_id
from glassgpt.multimodal.spectrogram import SILENCE, fft_length, hann_window, log_mel, mel_filters
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.optimizers import parameter_groups
from small_models import shaken

SHAPES = {
    "gpt2": ModelConfig(vocab_size=VOCABULARY, context_length=64, n_layer=2, n_head=2, n_embd=16),
    "modern": ModelConfig(arch="modern", vocab_size=VOCABULARY, context_length=64, n_layer=2, n_head=2, n_embd=16, bias=False),
    "llama": ModelConfig(arch="llama", vocab_size=VOCABULARY, context_length=64, n_layer=2, n_head=2, n_embd=16, bias=False),
}  # fmt: skip


def row_of(parts, config=CONFIG):
    """Return the inputs (1, T, 1 + W) of tokens and media, and the first position of each medium."""
    ids, media = [], []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        ids.append(BEGIN[part.modality])
        payload = payload_of(part, config)
        media.append((len(ids), part, payload))
        ids += [-1] * len(payload)
    inputs = assemble(np.array(ids, dtype=np.int64), media, payload_words(config))
    return torch.from_numpy(inputs)[None], [first for first, _, _ in media]


def multimodal(arch="gpt2", config=CONFIG):
    return MultimodalModel(shaken(SHAPES[arch]), config).eval()


def readable(model, item):
    functions = {"image": encode_image_readable, "audio": encode_audio_readable}
    return functions[item.modality](model.encoder(item.modality), item.data)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 39),
            st.builds(picture, st.integers(0, 9)),
            st.builds(sound, st.integers(0, 9), st.integers(1, 900)),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_media_anywhere_in_a_row_equal_their_readable_reference(parts):
    model = multimodal()
    inputs, firsts = row_of(parts)
    with torch.no_grad():
        vectors = model.vectors(inputs)[0]
        media = [part for part in parts if not isinstance(part, int)]
        for first, item in zip(firsts, media, strict=True):
            expected = readable(model, item)
            torch.testing.assert_close(vectors[first : first + len(expected)], expected, rtol=1e-4, atol=1e-5)
        tokens = inputs[0, :, 0] >= 0
        assert torch.equal(vectors[tokens], model.token_embedding(inputs[0, tokens, 0]))


@pytest.mark.parametrize("overlap", [1, 4])
def test_patches_that_overlap_equal_their_readable_reference(overlap):
    model = multimodal(config=dataclasses.replace(CONFIG, overlap=overlap))
    inputs, (first,) = row_of([1, picture(3), 2])
    with torch.no_grad():
        expected = readable(model, picture(3))
        torch.testing.assert_close(
            model.vectors(inputs)[0, first : first + len(expected)], expected, rtol=1e-4, atol=1e-5
        )


def test_convolutions_equal_their_readable_reference():
    model = multimodal(config=dataclasses.replace(CONFIG, stem_width=4))
    with torch.no_grad():
        for parameter in model.encoder("image").parameters():  # the last layers of blocks start at zero
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        inputs, firsts = row_of([1, picture(3), 2, picture(4)])
        vectors = model.vectors(inputs)[0]
        for first, item in zip(firsts, (picture(3), picture(4)), strict=True):
            expected = readable(model, item)
            torch.testing.assert_close(vectors[first : first + len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_convolutions_have_matrices_for_the_optimizer_and_learn():
    model = multimodal("modern", dataclasses.replace(CONFIG, stem_width=4)).train()
    kinds = model.parameter_kinds()
    assert kinds["encoders.image.patch.halvings.0.weight"] == "matrix"
    assert kinds["encoders.image.patch.halvings.0.bias"] == "vector"
    assert kinds.keys() == {name for name, _ in model.named_parameters()}
    before = model.encoder("image").patch.first.weight.clone()
    groups = parameter_groups(model, OptimizerConfig())
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in groups.values()], lr=1e-2, weight_decay=0.0)
    inputs, _ = row_of([1, picture(1), 2])
    for _ in range(2):  # the first step moves the layers that start at zero
        optimizer.zero_grad()
        model(inputs)[0, -1].square().sum().backward()
        optimizer.step()
    assert (model.encoder("image").patch.first.weight - before).abs().max() > 1e-4


def test_simplified_pictures_keep_their_edges():
    torch.manual_seed(0)
    edge = torch.zeros(200, 3, 8, 8)
    edge[..., 4:] = 1
    assert torch.allclose(image_augmentation.simplified(edge, 2.0), edge, atol=1e-6)
    thick = image_augmentation.thickened(edge, 2.0)
    assert torch.equal(thick[..., :3], edge[..., :3])
    assert thick[..., 3:5].unique().numel() > 20


def test_a_batch_equals_its_rows_alone_even_where_a_row_ends_within_a_medium():
    model = multimodal()
    one, _ = row_of([1, picture(1), 2, sound(1), 3, 4, 5])
    other, _ = row_of([picture(2), picture(3), sound(2), 7])
    length = min(one.size(1), other.size(1)) - 3
    rows = [one[:, :length], other[:, :length]]
    with torch.no_grad():
        together = model.vectors(torch.cat(rows))
        for at, row in enumerate(rows):
            torch.testing.assert_close(together[at], model.vectors(row)[0], rtol=1e-5, atol=1e-6)


def test_patches_are_those_of_unfold_and_of_a_strided_convolution():
    encoder = ImageEncoder(CONFIG, 16, 1.0)
    item = picture(4)
    pixels = torch.from_numpy(item.data).permute(2, 0, 1).float()
    unfolded = F.unfold(pixels[None], CONFIG.patch_size, stride=CONFIG.patch_size)[0].T  # (N, 3 P²), channels first
    payload = torch.from_numpy(payload_of(item, CONFIG))
    ours = payload.view(-1, CONFIG.patch_size, CONFIG.patch_size, 3).permute(0, 3, 1, 2).flatten(1)
    assert torch.equal(ours.float(), unfolded)
    kernel = encoder.patch.weight.view(16, 3, CONFIG.patch_size, CONFIG.patch_size)
    convolved = F.conv2d(pixels[None] / 127.5 - 1, kernel, encoder.patch.bias, stride=CONFIG.patch_size)[0].flatten(1).T
    where = (encoder.row.weight[:, None] + encoder.column.weight).flatten(0, 1)
    torch.testing.assert_close(encoder.encode(pixels[None] / 127.5 - 1)[0], encoder.scaled(convolved + where))


@pytest.mark.parametrize(("rate", "hop", "mels"), [(8000, 80, 40), (16000, 160, 80), (16000, 200, 64), (8000, 240, 24)])
def test_spectrogram_equals_that_of_transformers(rate, hop, mels):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    samples = sound(3, 5 * hop + 17).data
    window, before = hann_window(rate), (len(hann_window(rate)) - hop) // 2
    filters = audio_utils.mel_filter_bank(
        fft_length(rate) // 2 + 1, mels, 0.0, rate / 2, rate, norm=None, mel_scale="htk"
    )
    np.testing.assert_allclose(mel_filters(rate, mels), filters, atol=1e-6)
    n_frames = -(-len(samples) // hop)
    padded = np.pad(samples / 32768.0, (max(0, before), len(window) + hop))[max(0, -before) :]
    power = audio_utils.spectrogram(
        padded, audio_utils.window_function(len(window), "hann"), len(window), hop, fft_length(rate), power=2.0,
        center=False, mel_filters=filters, mel_floor=1e-10, log_mel="log10",
    )[:, :n_frames].T  # fmt: skip
    expected = (np.maximum(power, power.max() - 8) - power.max() + 4) / 4
    found = log_mel(samples, rate, hop, mels)
    assert found.shape == (n_frames, mels)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_spectrogram_of_a_silent_sound_is_silent():
    assert (log_mel(np.zeros(1000, dtype=np.int16), 8000, 80, 16) == SILENCE).all()
    quiet = log_mel(np.array([0] * 500 + [1] * 500, dtype=np.int16), 8000, 80, 16)
    assert (quiet[:4].max(), quiet.max()) == (quiet.min(), 1)


def test_a_spectrogram_in_parts_is_the_same(monkeypatch):
    samples = sound(3, 5000).data
    whole = log_mel(samples, 8000, 7, 40)
    monkeypatch.setattr(spectrogram, "MOST_NUMBERS", 64 * fft_length(8000))
    np.testing.assert_allclose(log_mel(samples, 8000, 7, 40), whole, atol=1e-6)


def test_memory_of_a_spectrogram_does_not_follow_its_frames():
    """A hop of one sample needed 27 GB for four seconds at 192 kHz."""
    samples = sound(3, 30_000).data
    tracemalloc.start()
    assert log_mel(samples, 96_000, 1, 16).shape == (30_000, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600 << 20


def test_a_spectrogram_shows_a_tone_in_its_band_whatever_the_volume():
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 1000 * time)
    loud, quiet = (log_mel((volume * tone).astype(np.int16), 8000, 80, 40) for volume in (20000, 2000))
    band = int(mel_filters(8000, 40)[round(1000 / 8000 * fft_length(8000))].argmax())
    assert set(loud[5:-5].argmax(axis=1)) == {band}
    np.testing.assert_allclose(loud[5:-5, band], quiet[5:-5, band], atol=1e-3)
    assert (log_mel(np.zeros(800, dtype=np.int16), 8000, 80, 40) <= 1).all()


@pytest.mark.parametrize("arch", SHAPES)
def test_a_model_with_encoders_is_the_language_model_for_text(arch):
    model = multimodal(arch)
    tokens = torch.randint(40, (2, 9))
    with torch.no_grad():
        assert torch.equal(model(tokens), model.language_model(tokens))
        inputs, _ = row_of(tokens[0].tolist())
        torch.testing.assert_close(model(inputs), model(tokens[:1]))
    names = {name for name, _ in model.language_model.named_parameters()}
    own = {name for name, _ in model.named_parameters()}
    assert own - names
    assert all(name.startswith("encoders.") for name in own - names)
    assert names <= own


@pytest.mark.parametrize("arch", SHAPES)
def test_text_sees_a_medium_before_it_and_none_after_it(arch):
    model = multimodal(arch)
    with torch.no_grad():
        first, _ = row_of([1, picture(1), 2, 3, picture(5)])
        second, _ = row_of([1, picture(2), 2, 3, picture(5)])
        third, _ = row_of([1, picture(1), 2, 3, picture(6)])
        at = 2 + PICTURE_POSITIONS + 1  # the last text before the second picture
        logits = [model(inputs)[0, at] for inputs in (first, second, third)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    torch.testing.assert_close(logits[0], logits[2])


@pytest.mark.parametrize("arch", SHAPES)
def test_every_parameter_has_a_kind_an_optimizer_and_a_gradient(arch):
    model = MultimodalModel(shaken(SHAPES[arch]), CONFIG).train()
    assert model.parameter_kinds().keys() == {name for name, _ in model.named_parameters()}
    groups = parameter_groups(model, OptimizerConfig())
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    inputs, _ = row_of([1, picture(1), 2, sound(1), 3])
    model(inputs)[0, -1].square().sum().backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert not {name for name in unused if name.startswith("encoders.")}


def test_with_an_adapter_or_frozen_encoders_learn_and_the_language_model_does_not():
    adapted = MultimodalModel(add_lora(shaken(SHAPES["gpt2"]), Adapter("", LoRAConfig(rank=2))), CONFIG)
    frozen = MultimodalModel(shaken(SHAPES["gpt2"]), dataclasses.replace(CONFIG, freeze=True))
    assert all(name.startswith("encoders.") for name in trainable_parameters(frozen))
    assert {name.split(".")[0] for name in trainable_parameters(adapted)} == {"blocks", "encoders"}
    for model in (adapted, frozen):
        for like in (build_like(model), build_like(model, draws_weights=False)):
            assert {n: p.shape for n, p in like.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
            assert all(p.isfinite().all() for p in like.parameters())  # encoders read the size of the embeddings


def test_models_that_cannot_take_vectors_are_refused_by_name():
    linear = ModelConfig(
        arch="gated_deltanet", vocab_size=42, context_length=64, n_layer=1, n_head=2, n_embd=16, bias=False
    )
    with pytest.raises(ConfigError, match="gated_deltanet, whose memory would mix"):
        MultimodalModel(build_model(linear), CONFIG)

    own = shaken(SHAPES["gpt2"])
    own.embed = lambda tokens, positions: own.token_embedding(tokens)  # does not know of vectors
    with pytest.raises(ConfigError, match="its embed fails with vectors.*vectors_of"):
        MultimodalModel(own, CONFIG)


def test_a_modality_without_an_encoder_is_refused():
    with pytest.raises(DataError, match="the model knows image, but not audio"):
        payload_of(sound(), dataclasses.replace(CONFIG, modalities="image"))


def test_invalid_settings_are_reported_together():
    config = dataclasses.replace(
        CONFIG, modalities="image,smell", patch_size=3, augment_image=3.0, hide_patches=1.5, mels=1
    )
    with pytest.raises(ConfigError) as caught:
        MultimodalModel(shaken(SHAPES["gpt2"]), config)
    for part in (
        "names 'smell'",
        "multimodal.patch_size is 3",
        "multimodal.augment_image is 3.0",
        "multimodal.hide_patches is 1.5; it must be between 0 and 1",
        "multimodal.mels is 1",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem_width": 300}, "multimodal.stem_width is 300; it must be from 0 to 256"),
        ({"stem_width": 8, "overlap": 1}, "multimodal.stem_width cannot be combined with multimodal.overlap"),
        ({"stem_width": 8, "image_size": 6, "patch_size": 3}, "needs a patch_size that is a power of two, not 3"),
    ],
)
def test_convolutions_that_cannot_be_are_refused(settings, message):
    assert any(message in problem for problem in dataclasses.replace(CONFIG, **settings).problems())


STRONG = dataclasses.replace(
    CONFIG, augment_image=1.0, augment_audio=1.0, flip_image=True, restyle_image=1.0, filter_image=0.5, hide_patches=0.3
)


def test_augmentation_happens_in_training_only_and_is_repeated_by_the_generator():
    model = MultimodalModel(shaken(SHAPES["gpt2"]), STRONG)
    inputs, _ = row_of([1, picture(1), 2, sound(1, 900), 3])
    with torch.no_grad():
        plain = model.eval().vectors(inputs)
        assert torch.equal(model.vectors(inputs), plain)
        model.train()
        torch.manual_seed(5)
        one, two = model.vectors(inputs), model.vectors(inputs)
        torch.manual_seed(5)
        assert torch.equal(model.vectors(inputs), one)
    media = inputs[0, :, 0] < 0
    for other in (two, plain):
        changed = (one - other)[0].abs().amax(-1) > 1e-4
        assert changed[inputs[0, :, 0] == medium_id("image")].all()
        assert changed[inputs[0, :, 0] == medium_id("audio")].float().mean() > 0.5  # its end may be silent in both
        assert torch.equal(one[0, ~media], other[0, ~media])
    assert one.isfinite().all()


def test_each_sound_is_changed_by_itself_and_silence_stays_silent():
    torch.manual_seed(0)
    where = torch.zeros(1, 12, dtype=torch.bool)
    where[:, 1:5] = where[:, 7:11] = True
    frames = torch.rand(1, 36, 16).where(where.repeat_interleave(3, dim=1)[..., None], SILENCE)
    one = audio_augmentation.augment_frames(frames, where, STRONG)
    assert (one[0, ~where.repeat_interleave(3, dim=1)[0]] == SILENCE).all()
    assert (one[0, 3:15] - one[0, 21:33]).abs().max() > 0.1
    assert torch.equal(
        audio_augmentation.augment_frames(frames, where, dataclasses.replace(STRONG, augment_audio=0.0)), frames
    )


def test_speed_reads_between_frames_and_not_into_the_next_sound():
    where = torch.tensor([[False, True, True, False, True, True]])
    frames = torch.arange(12.0)[None, :, None]  # two frames per position; sounds at frames 2…5 and 8…11
    start = audio_augmentation.start_index(where)
    slow, fast = (
        audio_augmentation.at_speed(frames, start, where, torch.full((1, 12), speed), torch.zeros(1, 12))
        for speed in (0.5, 2.0)
    )
    assert slow[0, 2:6, 0].tolist() == [2.0, 2.5, 3.0, 3.5]
    assert fast[0, 2:6, 0].tolist() == [2.0, 4.0, SILENCE, SILENCE]
    assert slow[0, 8:12, 0].tolist() == [8.0, 8.5, 9.0, 9.5]


def test_pitch_moves_bands_and_noise_adds_power():
    bands = torch.zeros(1, 1, 16)
    bands[0, 0, 8] = 1.0
    moved = audio_augmentation.at_pitch(bands, torch.full((1, 1), 2.0), torch.zeros(1, 1))
    assert moved.argmax() == 4
    torch.manual_seed(0)
    noisy = audio_augmentation.with_noise(torch.full((1, 1, 16), 0.5), torch.full((1, 1, 1), 0.5))
    assert 0.5 < noisy.mean() < 0.65  # twice the power is log10(2) / 4 = 0.075 more


def test_hue_leaves_gray_alone_style_leaves_white_alone_and_values_keep_their_range():
    torch.manual_seed(0)
    gray = torch.full((16, 3, 8, 8), 0.2)
    recolored = image_augmentation.recolored(gray, 1.0)
    assert (recolored.amax(dim=1) - recolored.amin(dim=1)).max() < 1e-5
    white, random = torch.ones(64, 3, 8, 8), torch.rand(64, 3, 8, 8)
    for change in (
        image_augmentation.moved, image_augmentation.filtered, image_augmentation.lit, image_augmentation.outlined,
        image_augmentation.blurred_or_sharpened, image_augmentation.flattened, image_augmentation.repainted,
        image_augmentation.thickened, image_augmentation.simplified, lambda x, s: image_augmentation.grayed(x, 6 * s),
        lambda x, s: image_augmentation.recolored(x, s, s), image_augmentation.convolved,
    ):  # fmt: skip
        assert (change(white, 1.5) - white).abs().max() < 0.02
        changed = change(random, 1.5)
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert (changed - random).abs().amax(dim=(1, 2, 3)).gt(1e-3).float().mean() > 0.2
    covered = image_augmentation.covered(white, 1.0)
    assert 0 < (covered < 1).float().mean() < 0.3


@pytest.mark.parametrize("size", [1, 5])
def test_random_filters_reach_as_far_as_their_size(monkeypatch, size):
    torch.manual_seed(0)
    monkeypatch.setattr(image_augmentation, "FILTER_SIZES", (size,))
    x = torch.ones(32, 3, 15, 15)
    x[:, :, 7, 7] = 0.0
    changed = image_augmentation.convolved(x, 1.0)
    dark = (changed < 1).any(dim=1).nonzero()[:, 1:]
    assert (dark.min().item(), dark.max().item()) == (7 - size // 2, 7 + size // 2)
    assert len(changed.flatten(1).unique(dim=0)) == 32  # each mixes another share of its filter
    assert torch.equal(image_augmentation.convolved(x, 0.0), x)


def test_a_random_filter_is_a_product_with_what_is_around_a_pixel(monkeypatch):
    monkeypatch.setattr(image_augmentation, "FILTERS", 1)
    monkeypatch.setattr(image_augmentation, "FILTER_SIZES", (3,))
    monkeypatch.setattr(torch, "randn", lambda *shape, device: torch.arange(81.0).view(shape) / 400)
    monkeypatch.setattr(image_augmentation, "_uniform", lambda x, low, high: torch.full((len(x), 1, 1, 1), float(low)))
    x = torch.rand(2, 3, 6, 6)
    changed = image_augmentation.convolved(x, 1.0)
    weights = torch.arange(81.0).view(3, 3, 3, 3) / 400 / 27**0.5
    expected = [[[(weights[c] * (1 - x[0, :, i - 1 : i + 2, j - 1 : j + 2])).sum() for j in range(1, 5)]
                 for i in range(1, 5)] for c in range(3)]  # fmt: skip
    torch.testing.assert_close(changed[0, :, 1:5, 1:5], 1 - torch.tensor(expected))


def test_whole_patches_are_hidden_up_to_a_share():
    torch.manual_seed(0)
    white = torch.ones(200, 3, 16, 16)
    hidden = (image_augmentation.hidden(white, 0.5, 4) < 1).any(dim=1)
    by_patch = hidden.unfold(1, 4, 4).unfold(2, 4, 4).float().mean(dim=(3, 4))
    assert set(by_patch.unique().tolist()) == {0.0, 1.0}
    assert by_patch.mean(dim=(1, 2)).max() <= 0.9
    assert 0.2 < by_patch.mean() < 0.3
    assert torch.equal(image_augmentation.hidden(white, 0.0, 4), white)


def test_sounds_lose_bands_and_gaps_of_the_configured_size():
    torch.manual_seed(0)
    where = torch.ones(64, 20, dtype=torch.bool)
    where[:, 0] = False
    start = audio_augmentation.start_index(where)
    drawn = (torch.rand(64, 1, 8) * 2 - 1).expand(64, 60, 8)
    hidden = audio_augmentation._hidden(drawn, start, where, 40, 1.0)[:, 3:]
    assert 0.05 < hidden.float().mean() < 0.3
    assert hidden.all(dim=2).float().mean() > 0.02
    assert hidden.all(dim=1).float().mean() > 0.02


def test_encoders_of_a_modality_number_match_the_dataset():
    assert (medium_id("image"), medium_id("audio")) == (-1, -2)
    assert AudioEncoder(CONFIG, 16, 1.0).n_bytes == 3 * 16 * 2
