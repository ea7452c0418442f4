"""Prompt lookup on the device against plain decoding and the host's lookup: its kernels run in Triton's interpreter."""

import dataclasses
import math
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux")

from decoded_sequences import check_rows_against_single_steps, numbers, outputs, random_model

from glassgpt.errors import GenerationError
from glassgpt.generation.engine import speculative
from glassgpt.generation.engine.acceptance import AcceptanceStats
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.drafting import lookup_draft
from glassgpt.generation.engine.speculative import SpeculativeDecoder, SpeculativeDecoding
from glassgpt.generation.gpu import graphs, lookup, lookup_graphs, sampler, tiles
from glassgpt.generation.gpu.cache_attention import RowAttention
from glassgpt.generation.gpu.kernels.attention import attention_kernel, row_attention_kernel
from glassgpt.generation.gpu.lookup import LookupState
from glassgpt.generation.gpu.lookup_graphs import LookupDecoder
from glassgpt.generation.gpu.row_step import RowStep, max_width
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="checked on the device by benchmarks/gpu_lookup.py")

CPU = torch.device("cpu")
V = 7  # few, so that a text repeats itself; the model's tables are padded to 16
CAPACITY = 24
GPT2 = ModelConfig(vocab_size=16, context_length=CAPACITY, n_layer=1, n_head=1, n_embd=4)
SHAPES = {
    "gpt2": dataclasses.replace(GPT2, n_layer=2, n_head=2, n_embd=12),
    "modern, grouped keys, sliding window": ModelConfig(
        "modern", vocab_size=16, context_length=CAPACITY, n_layer=2, n_head=4, n_kv_head=2, n_embd=24, n_inner=48,
        window=3, bias=False,
    ),
    "llama, three queries per key": ModelConfig(
        arch="llama", vocab_size=16, context_length=CAPACITY, n_layer=1, n_head=3, n_kv_head=1, n_embd=24, n_inner=48,
        bias=False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return random_model(GPT2)


@pytest.fixture(autouse=True)
def _small_kernels(monkeypatch):
    for name, size in {"PART": 16, "GROUP": 16, "SEARCH_CHUNK": 16}.items():
        monkeypatch.setattr(sampler, name, size)
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    monkeypatch.setattr(lookup_graphs, "ROUNDS_PER_LAUNCH", 2)


sequence_of = partial(numbers, V, limit=9)
run = partial(outputs, V, capacity=CAPACITY)


def with_lookup(stats, max_draft=4):
    return lambda model, vocab_size, slots, capacity: LookupDecoder(
        model, vocab_size, slots, capacity, max_draft, stats
    )


@pytest.mark.parametrize("block", [4, 64])
def test_proposals_equal_the_hosts_lookup(block, monkeypatch):
    monkeypatch.setattr(lookup, "LOOKUP_BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    for width in (1, 2, 5):
        texts = [torch.randint(0, 3, (n,), generator=generator).tolist() for n in (1, 2, 3, 4, 7, 12, 20, CAPACITY)] + [
            [0, 1, 2, 3, 4, 5],
            [1, 2, 1, 2, 1],
        ]
        sequences = [sequence_of(text, index=number) for number, text in enumerate(texts)]
        state = LookupState(len(texts), V, CAPACITY, 6, 60, CPU)
        state.insert(range(len(texts)), sequences)
        state.propose(len(texts), width)
        proposed = 0
        for number, text in enumerate(texts):
            draft = lookup_draft(text, width - 1) if width > 1 else []
            rows = state.rows.ints[:, number * width : (number + 1) * width].tolist()
            assert state._n_drafts[number] == len(draft)
            assert rows[0][: 1 + len(draft)] == [text[-1], *draft]
            assert all(0 <= token < V for token in rows[0])
            assert rows[1] == list(range(len(text) - 1, len(text) - 1 + width))
            assert rows[2] == list(range(len(text), len(text) + width))
            assert rows[3:] == [[int(state.ints[which, number])] * width for which in (3, 4)]
            proposed += len(draft)
        assert (proposed > 5) == (width > 1)


def test_accepts_up_to_the_first_wrong_proposal():
    texts = [[1, 2, 3, 4, 1], [1, 2, 3, 4, 1], [1, 2, 3, 4, 1], [5], [0, 0]]
    state = LookupState(5, V, CAPACITY, 4, 20, CPU)
    state.insert(range(5), [sequence_of(text, index=number) for number, text in enumerate(texts)])
    state.propose(5, 4)  # [2, 3, 4] three times, nothing, [0]
    sampled = torch.tensor([2, 3, 4, 6, 2, 9, 4, 6, 3, 3, 4, 6, 3, 5, 5, 5, 0, 1, 0, 0], dtype=torch.int32)
    state.rows.ints[0] = sampled  # as the sampling kernel does
    output = torch.zeros(5, 5, dtype=torch.int32)
    state.accept(5, 4, sampled, output)
    new = [[2, 3, 4, 6], [2, 9], [3], [3], [0, 1]]
    assert output.T.tolist() == [
        [*tokens, *[-2] * (4 - len(tokens)), n] for tokens, n in zip(new, (3, 3, 3, 0, 1), strict=True)
    ]
    for slot, (text, tokens) in enumerate(zip(texts, new, strict=True)):
        whole = [*text, *tokens]
        assert state.ints[:3, slot].tolist() == [whole[-1], len(whole) - 1, len(whole)]
        assert state.text[slot, : len(whole)].tolist() == whole


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("keys", "most"), [(2, 1), (2, 4), (256, 4)])
@torch.inference_mode()
def test_rows_of_one_slot_are_bit_equal_to_single_steps(shape, keys, most, monkeypatch):
    """Single steps use the other attention kernel, unless keys are normalized. Also where they see keys of each other, whatever the rows behind them hold, and beside a slot of other length."""
    monkeypatch.setattr(tiles, "ATTENTION_KEYS", keys)
    config = SHAPES[shape]
    model = random_model(config)
    width, start = min(most, max_width(config)), [2, 5]
    texts = torch.randint(0, V, (2, 5 + width))
    plain, state = KVCache(config, 2, 16), SlotState(2, V, CPU)
    step = FusedStep(model, plain, state, V)
    wanted = torch.zeros(2, 5 + width, 16)
    for position in range(5 + width):
        state.append(texts[:, position].tolist())
        state.ints[1] = position
        step.feed(2)
        wanted[:, position] = step.logits[:2]
    check_rows_against_single_steps(model, texts, start, width, plain, wanted)


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_models_with_normalized_keys_have_one_attention_kernel(shape, monkeypatch):
    """Compiled, the two kernels add the squares of a key in different orders, which the interpreter cannot show."""
    used = []
    monkeypatch.setattr(RowAttention, "_launch", lambda self, kernel, *rest, **more: used.append(kernel))
    model = random_model(SHAPES[shape])
    for kind in (FusedStep, RowStep):
        kind(model, KVCache(SHAPES[shape], 2, 16), SlotState(2, V, CPU), V).feed(2)
    kernels = {"modern": {row_attention_kernel}}.get(SHAPES[shape].arch, {attention_kernel, row_attention_kernel})
    assert set(used) == kernels


SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 1.3, "top_k": 3},
    {"top_p": 0.7},
    {"top_k": 4, "top_p": 0.8, "min_p": 0.05, "temperature": 0.5},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.3},
    {"no_repeat_ngram": 3, "temperature": 0.7},
]


@pytest.mark.parametrize(
    "settings",
    [SETTINGS[1], *(pytest.param(each, marks=pytest.mark.slow) for each in (SETTINGS[0], *SETTINGS[2:]))],
    ids=str,
)
def test_text_equals_decoding_without_proposals(model, settings):
    """Sequences enter and leave: there are more than slots, and they end at different times, also inside a round."""

    def rows():
        prompts = [[1, 2, 3, 1, 2], [4], [1, 1, 1, 1], [5, 0, 5, 0, 5], [2, 2]]
        return [
            sequence_of(prompt, index=number, limit=(9, 3, 7, 1, 8)[number], **settings)
            for number, prompt in enumerate(prompts)
        ]

    stats = AcceptanceStats()
    plain = run(model, rows(), StepwiseDecoder, slots=3)
    assert run(model, rows(), with_lookup(stats), slots=3) == plain
    assert run(model, rows(), with_lookup(AcceptanceStats(), 1), slots=3) == plain
    # sequences that end with a token
    ends = run(model, rows(), StepwiseDecoder, slots=3, end=plain[0][2])
    assert run(model, rows(), with_lookup(AcceptanceStats()), slots=3, end=plain[0][2]) == ends
    if "repetition_penalty" not in settings and "no_repeat_ngram" not in settings:
        assert stats.proposed > stats.accepted > 0


def test_a_batch_with_mixed_settings(model):
    def rows():
        return [
            sequence_of([1, 2, 1, 2], limit=12, temperature=0.0),
            sequence_of([3, 3, 3], limit=4, no_repeat_ngram=2),
            sequence_of([3, 3, 3], limit=3, repetition_penalty=1.3),
            sequence_of([0, 1, 0, 1, 0], limit=12, temperature=0.6),
        ]

    stats = AcceptanceStats()
    assert run(model, rows(), with_lookup(stats), slots=3) == run(model, rows(), StepwiseDecoder, slots=3)
    assert stats.accepted > 0  # after the sequences that the host or penalties hold up


@pytest.mark.parametrize("overflow", ["stop", pytest.param("re-prefill", marks=pytest.mark.slow)])
@pytest.mark.parametrize("capacity", [5, 8])
def test_full_slots(model, overflow, capacity):
    """Proposals that would go beyond a slot's capacity are not used, and damage no other slot."""

    def rows():
        limit = capacity - 2 if overflow == "stop" else 15
        return [
            sequence_of([1, 2, 1], limit=limit, overflow=overflow, temperature=0.0),
            sequence_of([2, 2, 2], index=1, limit=limit, overflow=overflow, temperature=0.7),
        ]

    plain = run(model, rows(), StepwiseDecoder, capacity=capacity)
    assert run(model, rows(), with_lookup(AcceptanceStats(), 7), capacity=capacity) == plain


@pytest.mark.parametrize(("limit", "most"), [("MAX_ROWS", 4), ("MAX_SLOTS", 2)])
def test_a_batch_that_is_too_large_for_proposals(model, limit, most, monkeypatch):
    monkeypatch.setattr(lookup_graphs, limit, most)

    def rows():
        return [sequence_of([1, 1, 1], index=number, limit=3 + 3 * number, temperature=0.3) for number in range(4)]

    stats = AcceptanceStats()
    assert run(model, rows(), with_lookup(stats)) == run(model, rows(), StepwiseDecoder)
    assert stats.proposed > 0  # by the last ones


def test_repetitive_text_needs_fewer_rounds(model, monkeypatch):
    launches = []
    launch = LookupDecoder._launch
    monkeypatch.setattr(LookupDecoder, "_launch", lambda self, rows: launches.append(1) or launch(self, rows))
    constant = random_model(GPT2)
    constant.norm.weight.data.zero_()
    constant.norm.bias.data.fill_(1.0)
    constant.token_embedding.weight.data[:] = torch.arange(16.0)[:, None] % V  # token 6 has the largest logit
    stats = AcceptanceStats()
    assert run(constant, [sequence_of([6] * 5, limit=16, temperature=0.0)], with_lookup(stats)) == [[6] * 16]
    assert (stats.passes, stats.accepted) == (4, 12)  # of five tokens, and the last one
    assert len(launches) == 2


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_nan_logits_are_an_error(model):
    damaged = random_model(GPT2)
    damaged.norm.weight.data[0] = math.nan
    with pytest.raises(GenerationError, match="logits contain NaN"):
        run(damaged, [sequence_of([1, 2])], with_lookup(AcceptanceStats()))


def test_prompt_lookup_on_a_gpu_runs_inside_graphs(model, monkeypatch):
    """With a draft model, or where the kernels do not decode the model, the host proposes."""
    lookup_settings, with_draft = SpeculativeDecoding(tokens=2), SpeculativeDecoding(model, 2)
    assert isinstance(lookup_settings(model, V, 2, CAPACITY), SpeculativeDecoder)
    monkeypatch.setattr(speculative, "has_gpu_kernels", lambda model: True)
    assert isinstance(with_draft(model, V, 2, CAPACITY), SpeculativeDecoder)
    assert isinstance(lookup_settings(model, V, 2, CAPACITY), LookupDecoder)
    assert run(model, [sequence_of([1, 2, 1, 2])], lookup_settings) == run(
        model, [sequence_of([1, 2, 1, 2])], StepwiseDecoder
    )
    assert lookup_settings.stats.passes > 0
