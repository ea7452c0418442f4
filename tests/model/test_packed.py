"""Packed rows: what each position sees, and that FlexAttention's limits and tables say the same as the dense mask."""

import pytest
import torch
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from glassgpt.model.attention import attend, attend_readable
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.flex_attention import FlexAttention, packed_blocks
from glassgpt.model.packed import PackedLimits, PackedRows
from glassgpt.training.attention_modules import packed_rows, set_attention
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.hardware import Hardware
from small_models import shaken

ROWS, POSITIONS = 2, 384
MODERN = ModelConfig(
    arch="modern", vocab_size=61, context_length=256, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, window=50, bias=False
)


def random_rows(has_media, n_tokens=POSITIONS):
    """Return where documents start, and where media are (or None): documents of a token, a medium and a text."""
    generator = torch.Generator().manual_seed(0)
    starts, media = torch.zeros(2, ROWS, n_tokens, dtype=torch.bool)
    for row in range(ROWS):
        at = 0
        while at < n_tokens:
            medium, text = torch.randint(1, n_tokens // 4, (2,), generator=generator).tolist()
            starts[row, at], media[row, at + 1 : at + 1 + medium] = True, True
            at += 1 + medium + text
    return starts, media if has_media else None


def visible_readable(starts, media, window, sinks):
    """Return the mask of one row, pair by pair."""
    n_tokens = len(starts)
    document = starts.cumsum(0).tolist()
    first = [document.index(number) for number in document]
    medium = [-1 - at if media is None or not media[at] else at for at in range(n_tokens)]
    for at in range(1, n_tokens):
        if medium[at] >= 0 and medium[at - 1] >= 0:
            medium[at] = medium[at - 1]

    def sees(query, key):
        if document[query] != document[key]:
            return False
        is_near = not window or query - key < window or key - first[key] < sinks
        return (key <= query and is_near) or medium[query] == medium[key]

    return torch.tensor([[sees(query, key) for key in range(n_tokens)] for query in range(n_tokens)])


@pytest.mark.parametrize("has_media", [False, True])
@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (1, 0), (5, 0), (5, 2)])
def test_a_position_sees_earlier_ones_of_its_document_and_its_medium(has_media, window, sinks):
    starts, media = random_rows(has_media, 40)
    found = PackedRows(starts, media).mask(window, sinks)[:, 0]
    for row in range(ROWS):
        assert torch.equal(found[row], visible_readable(starts[row], media[row] if has_media else None, window, sinks))


@pytest.mark.parametrize("has_media", [False, True])
@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (50, 0), (200, 0), (50, 3)])
def test_limits_and_tables_of_blocks_equal_the_dense_mask(has_media, window, sinks):
    rows = random_rows(has_media)
    dense = PackedRows(*rows).mask(window, sinks)
    blocks = packed_blocks(PackedLimits(*rows).mask(window, sinks), sinks)
    assert torch.equal(create_mask(blocks.mask_mod, ROWS, 1, POSITIONS, POSITIONS, "cpu"), dense)
    expected = create_block_mask(lambda b, h, q, k: dense[b, 0, q, k], ROWS, None, POSITIONS, POSITIONS, "cpu")
    if sinks:  # blocks that hold a sink of another document may be computed for nothing
        assert (blocks.to_dense() >= expected.to_dense()).all()
    else:
        for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
            assert torch.equal(getattr(blocks, name), getattr(expected, name)), name
        assert torch.equal(blocks.to_dense(), expected.to_dense())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_on_packed_rows_equals_the_dense_mask():
    rows = random_rows(has_media=True, n_tokens=256)
    generator = torch.Generator().manual_seed(0)
    q, (k, v) = (
        torch.randn(ROWS, 4, 256, 8, generator=generator),
        torch.randn(2, ROWS, 2, 256, 8, generator=generator),
    )
    mixed = FlexAttention(attend)(q, k, v, PackedLimits(*rows).mask(60), 0.0, 60)
    expected = attend_readable(q, k, v, PackedRows(*rows).mask(60), 0.0)
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize(
    "config", [MODERN, ModelConfig(vocab_size=61, context_length=256, n_layer=1, n_head=4, n_embd=64)]
)
def test_a_compiled_loss_of_packed_rows_has_the_same_gradients(config, monkeypatch):
    # PyTorch refuses the backward pass on a CPU, although the formula that stands for the kernel there has one.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    model = shaken(config).train()
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(61, (2, 2, 256), generator=generator)
    targets[torch.rand(2, 256, generator=generator) < 0.03] = -101
    loss, parameters = ConversationLoss(model), list(model.parameters())
    expected = torch.autograd.grad(loss(inputs, targets), parameters)
    set_attention(model, FlexAttention(attend))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for found, gradient in zip(torch.autograd.grad(compiled(inputs, targets), parameters), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


def test_packed_rows_are_trained_on_with_flex_attention_on_a_gpu():
    gpu = Hardware(torch.device("cuda"), "bf16", compile=True)
    cpu = Hardware(torch.device("cpu"), "fp32", compile=True)
    plain, dropping = ModelConfig(n_embd=64, n_head=2), ModelConfig(n_embd=64, n_head=2, dropout=0.1)
    narrow = ModelConfig(n_embd=64, n_head=8)
    assert isinstance(gpu.attention(plain, packed=True), FlexAttention)
    for hardware, model, packed in (
        (cpu, plain, True),
        (gpu, plain, False),
        (gpu, dropping, True),
        (gpu, narrow, True),
    ):
        assert hardware.attention(model, packed=packed) is attend


def test_what_is_not_compiled_gets_the_dense_mask():
    model = build_model(MODERN)
    starts, _ = random_rows(has_media=False)
    assert type(packed_rows(model, starts)) is PackedRows
    set_attention(model, FlexAttention(attend))
    assert type(packed_rows(model, starts)) is PackedRows
    kinds = []

    def build(starts):
        kinds.append(type(packed_rows(model, starts)))
        return starts + 0

    compiled = torch.compile(build, backend="eager")
    for n_tokens in (384, 100):
        compiled(starts[:, :n_tokens])
    assert kinds == [PackedLimits, PackedRows]
