"""The GPU decoder against its reference implementations, on a CPU: its kernels run in Triton's interpreter."""

import copy
import dataclasses
import functools
import math
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux")

from decoded_sequences import numbers, outputs, random_model

from glassgpt.errors import GenerationError
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.sampling import gumbel_noise, sample
from glassgpt.generation.gpu import graphs, prompt_graphs, sampler, shapes, tiles
from glassgpt.generation.gpu.graphs import GraphDecoder
from glassgpt.generation.gpu.layers import can_fuse
from glassgpt.generation.gpu.sampler import SamplingLimits
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="checked on the device by benchmarks/gpu_generate.py")

CPU = torch.device("cpu")
V = 41  # tokens of the tokenizer; the model's tables are padded to 48
GPT2_SHAPE = ModelConfig(vocab_size=48, context_length=24, n_layer=1, n_head=2, n_embd=12)
MODERN_SHAPE = ModelConfig(
    "modern",
    vocab_size=48,
    context_length=24,
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    n_embd=24,
    n_inner=48,
    window=3,
    bias=False,
)
LLAMA_SHAPE = ModelConfig(
    arch="llama", vocab_size=48, context_length=24, n_layer=2, n_head=4, n_kv_head=2, n_embd=24, n_inner=48, bias=False
)
# With the number of tokens, and the keys processed at once: fewer than there are, or all. The interpreter takes
# milliseconds per program, so sizes are small.
SHAPES = {
    "gpt2": (GPT2_SHAPE, 4, 2),
    "without biases": (dataclasses.replace(GPT2_SHAPE, bias=False), 2, 256),
    "gpt2 with a pruned MLP": (dataclasses.replace(GPT2_SHAPE, n_inner=32), 3, 256),
    "gpt2 with pruned heads": (dataclasses.replace(GPT2_SHAPE, n_layer=1, n_head=2, head_dim=8), 3, 256),
    "modern with a pruned MLP": (dataclasses.replace(MODERN_SHAPE, n_layer=1, n_inner=32, window=0), 2, 256),
    "modern, grouped keys, sliding window": (MODERN_SHAPE, 5, 2),  # its first layer slides, its last sees all
    "llama": (LLAMA_SHAPE, 4, 2),
    "llama, untied, with biases": (dataclasses.replace(LLAMA_SHAPE, n_layer=1, tied_head=False, bias=True), 3, 256),
    "wide heads": (
        dataclasses.replace(MODERN_SHAPE, n_layer=1, n_head=1, n_kv_head=0, n_embd=160, n_inner=32, window=0),
        2,
        256,
    ),
}

QUICK_SHAPES = ("without biases", "modern, grouped keys, sliding window")


@pytest.fixture(scope="module")
def model():
    return random_model(dataclasses.replace(GPT2_SHAPE, n_head=1, n_embd=4))


sequence_of = partial(numbers, V)
run = partial(outputs, V)


@pytest.mark.parametrize(
    ("shape", "length", "keys"),
    [
        pytest.param(*values, id=name, marks=() if name in QUICK_SHAPES else pytest.mark.slow)
        for name, values in SHAPES.items()
    ],
)
@torch.inference_mode()
def test_kernels_compute_the_models_logits_and_cache(shape, length, keys, monkeypatch):
    monkeypatch.setattr(tiles, "ATTENTION_KEYS", keys)
    model = random_model(shape)
    assert can_fuse(model)
    cache, plain = KVCache(shape, 2, 8), KVCache(shape, 2, 8)
    state = SlotState(2, V, CPU)
    step = FusedStep(model, cache, state, V)
    tokens = torch.randint(0, V, (2, length))
    for position in range(length):
        state.append(tokens[:, position].tolist())
        state.ints[1] = position  # lengths
        step.logits.fill_(math.nan)
        step.feed(2)
        wanted = model(tokens[:, position : position + 1], plain)[:, 0]
        torch.testing.assert_close(step.logits, wanted, atol=2e-5, rtol=2e-5)
    for ours, theirs in ((cache.keys, plain.keys), (cache.values, plain.values)):
        torch.testing.assert_close(ours[..., :length, :], theirs[..., :length, :], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_of_different_length(model):
    texts = torch.randint(0, V, (2, 5))
    cache, state = KVCache(model.config, 2, 8), SlotState(2, V, CPU)
    plain = KVCache(model.config, 1, 8)
    model(texts[:1, :4], plain)
    cache.copy_slot(1, plain, 0)
    state.append(texts[:, 4].tolist())
    state.ints[1] = torch.tensor([0, 4])
    step = FusedStep(model, cache, state, V)
    step.feed(2)
    torch.testing.assert_close(step.logits[0], model(texts[:1, 4:])[0, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(step.logits[1], model(texts[1:, 4:], plain)[0, -1] * 0 + model(
        torch.cat([texts[:1, :4], texts[1:, 4:]], 1))[0, -1], atol=1e-5, rtol=1e-5)  # fmt: skip


EVERYTHING = SamplingLimits(penalties=True, top_k=True, top_p=True, none=True)
SAMPLING_OPTIONS = [
    {"temperature": 0.0},
    {},
    {"temperature": 1.7, "top_k": 5},
    {"top_k": 1},
    {"top_k": V + 3},
    {"top_p": 0.6},
    {"top_p": 0.01},
    {"top_p": 0.999},
    {"min_p": 0.2},
    {"top_k": 7, "top_p": 0.7, "min_p": 0.05, "temperature": 1.3},
    {"repetition_penalty": 1.8},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7, "temperature": 1.2},
    {"repetition_penalty": 0.5, "presence_penalty": -1.0, "top_k": 6, "temperature": 0.0},
]


def sampled_by_kernels(model, logits, rows, limits=EVERYTHING):
    """Sample from given logits with the kernels."""
    cache, state = KVCache(model.config, len(rows), 24), SlotState(len(rows), V, CPU)
    step = FusedStep(model, cache, state, V)
    state.insert(range(len(rows)), rows)
    step.logits.copy_(logits)
    sampled = torch.full((len(rows),), -1, dtype=torch.int32)
    step.sample(len(rows), sampled, limits)
    return sampled.tolist(), state


def sampled_by_reference(logits, rows):
    """Sample with processors and noise, one sequence at a time."""
    out = []
    for one, row in zip(logits, rows, strict=True):
        left = one[None, :V]
        for processor in row.request.processors:
            left = processor.apply(left, [row.history])
        noise = gumbel_noise(row.request.seed, [row.index], [row.position], torch.arange(V))
        out.append(int(sample(left, None if row.request.options.is_greedy else noise)))
    return out


SAMPLER_SIZES = {
    "one part": {"PART": 64, "GROUP": 16, "SEARCH_CHUNK": 64},
    "some groups": {"PART": 16, "GROUP": 2, "FEW_GROUPS": 4, "MANY_GROUPS": 8, "SEARCH_CHUNK": 16},
    "never enough groups": {"PART": 32, "GROUP": 2, "FEW_GROUPS": 1, "MANY_GROUPS": 1, "SEARCH_CHUNK": 32},
}


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, id=name, marks=pytest.mark.slow if name == "one part" else ())
        for name, sizes in SAMPLER_SIZES.items()
    ],
)
@pytest.mark.parametrize("ties", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sampling_kernels_equal_processors_and_noise(model, ties, sizes, monkeypatch):
    for name, size in sizes.items():
        monkeypatch.setattr(sampler, name, size)
    torch.manual_seed(1)
    rows = []
    for number, settings in enumerate(SAMPLING_OPTIONS):
        row = sequence_of([1, 2, 2, 7], index=number % 3, **{**settings, "seed": (number + 13 * ties) * 7_919_333_777})
        row.output_ids = [2, 9, 9, 9, 30][: number % 6]
        rows.append(row)
    logits = torch.randn(len(rows), 48) * 3
    if ties:
        logits = logits.round()  # includes -0.0 and 0.0
    logits[:, V:] = 1e4  # padding, never sampled
    ours, state = sampled_by_kernels(model, logits, rows)
    assert ours == sampled_by_reference(logits, rows)
    assert state.ints[0].tolist() == ours
    assert state.ints[1].tolist() == [row.n_visible for row in rows]
    assert state.ints[2].tolist() == [row.position + 1 for row in rows]


def test_sampling_kernels_with_infinite_logits(model):
    logits = torch.full((3, 48), -math.inf)
    logits[0, 4] = 1.0
    logits[1, 3:9] = 0.5
    logits[2, :V] = -1e30
    rows = [sequence_of([0], top_k=2), sequence_of([0], top_p=0.45), sequence_of([0], top_p=0.45, temperature=1.0)]
    ours, _ = sampled_by_kernels(model, logits, rows)
    assert ours[0] == 4
    assert ours[1] in (3, 4, 5)  # the lowest ids on a tie
    assert ours == sampled_by_reference(logits, rows)


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")  # by numpy, in the interpreter
@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}], ids=str)
def test_nan_logits_give_no_token(model, settings):
    logits = torch.randn(3, 48)
    logits[1, 7] = logits[2, :] = math.nan
    logits[0, V:] = math.nan  # padding, never read
    ours, state = sampled_by_kernels(model, logits, [sequence_of([0], **settings) for _ in range(3)])
    assert ours[1:] == [-1, -1]
    assert all(0 <= token < V for token in [ours[0], *state.ints[0].tolist()])


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_nan_logits_are_an_error(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    damaged = copy.deepcopy(model)
    damaged.norm.weight.data[0] = math.nan
    for decoder in (GraphDecoder, StepwiseDecoder):
        with pytest.raises(GenerationError, match="logits contain NaN"):
            run(damaged, [sequence_of([1, 2])], decoder)


def test_continuous_batching_equals_the_stepwise_decoder(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)

    def rows():
        return [
            sequence_of([4], limit=1),
            sequence_of([4, 5, 6], limit=5, temperature=1.5),
            sequence_of([1] * 9, limit=3, top_k=3, seed=9),
            sequence_of([4, 5, 6], index=1, limit=3, temperature=1.5),
            sequence_of([9, 8], limit=2, temperature=0.0),
            sequence_of([9, 8], limit=4, repetition_penalty=1.4, frequency_penalty=0.3),
        ]

    plain = run(model, rows(), StepwiseDecoder, slots=2)
    assert run(model, rows(), GraphDecoder, slots=2) == plain
    # sequences that end early
    early = run(model, rows()[1:4], StepwiseDecoder, slots=2, end=plain[1][1])
    assert early[0] == plain[1][:2]
    assert run(model, rows()[1:4], GraphDecoder, slots=2, end=plain[1][1]) == early


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 0.7}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"top_k": 3}, {"min_p": 0.1}))],
    ids=str,
)
def test_graph_with_more_rows_than_sequences(model, settings, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)

    def rows():
        return [sequence_of([4, 5], index=index, limit=3, **settings) for index in range(3)]

    assert shapes.graph_batch_size(3) == 4
    assert run(model, rows(), GraphDecoder) == run(model, rows(), StepwiseDecoder)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"PART": 16, "GROUP": 2, "MANY_GROUPS": 1, "SEARCH_CHUNK": 16}], ids=str)
def test_sampling_for_an_abandoned_slot_terminates(model, sizes, monkeypatch):
    """Its sequence's top-p was applied on the host, so the total mass for top-p was never computed on the device."""
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    for name, size in sizes.items():
        monkeypatch.setattr(sampler, name, size)
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *args, **kinds: empty(*args, **kinds).zero_()
    )  # as uninitialized memory often is

    def rows():
        left = [sequence_of([1, 2], index=index, limit=1, top_p=0.9, no_repeat_ngram=2) for index in range(4)]
        return [*left, *(sequence_of([3, 4], index=index, limit=3, top_k=3) for index in range(3))]

    assert run(model, rows(), GraphDecoder) == run(model, rows(), StepwiseDecoder)


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [V - 1, V, V + 3])
def test_top_k_of_the_whole_vocabulary_is_no_limit(model, top_k, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)

    def rows():
        return [sequence_of([4, 5], limit=4, top_k=top_k, temperature=2.0)]

    assert run(model, rows(), GraphDecoder) == run(model, rows(), StepwiseDecoder)


@pytest.mark.slow
def test_host_processors_work_in_a_batch_with_device_processors(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)

    def rows():
        return [
            sequence_of([1, 2, 1], limit=5, no_repeat_ngram=2, temperature=1.2),
            sequence_of([3], limit=2),
            sequence_of([1, 2], limit=6, frequency_penalty=0.8),
            sequence_of([5], limit=3, temperature_schedule=((2, 2.0),)),
        ]

    assert run(model, rows(), GraphDecoder, slots=3) == run(model, rows(), StepwiseDecoder, slots=3)


class FirstTokens:
    """Forbids a token in the first two tokens of an output."""

    def __call__(self, logits, histories):
        for row, history in enumerate(histories):
            if not self.is_over(history):
                logits[row, 7] = -math.inf
        return logits

    def is_over(self, history):
        return len(history.output) >= 2


def test_a_processor_that_is_over_leaves_the_rest_to_the_device(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    on_host = []
    decode = GraphDecoder._decode_on_host
    monkeypatch.setattr(GraphDecoder, "_decode_on_host", lambda self, rows: on_host.append(1) or decode(self, rows))

    def rows():
        options = {"temperature": 1.2, "frequency_penalty": 0.8, "top_p": 0.9, "processors": (FirstTokens(),)}
        return [sequence_of([1, 2, 1], index=index, limit=6, **options) for index in range(2)]

    assert run(model, rows(), GraphDecoder) == run(model, rows(), StepwiseDecoder)
    assert len(on_host) == 2, "only the first two tokens are sampled on the host"


def test_a_custom_processor_with_the_name_of_a_setting_is_not_taken_for_it(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)

    def top_k(logits, histories):
        logits[:, torch.arange(V) != 9] = -math.inf
        return logits

    def rows():
        return [sequence_of([1, 2], limit=3, processors=(top_k,))]

    assert run(model, rows(), GraphDecoder) == run(model, rows(), StepwiseDecoder)


@pytest.mark.slow
def test_re_prefill_continues_after_a_full_context(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 3)

    def rows():
        return [sequence_of([1, 2, 3], limit=8, overflow="re-prefill"), sequence_of([7], limit=2)]

    assert run(model, rows(), GraphDecoder, capacity=6) == run(model, rows(), StepwiseDecoder, capacity=6)


def test_no_launch_for_complete_sequences(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    launches = []
    launch = GraphDecoder._launch
    monkeypatch.setattr(GraphDecoder, "_launch", lambda self, rows: launches.append(1) or launch(self, rows))
    run(model, [sequence_of([1], limit=4)], GraphDecoder)
    assert len(launches) == 2


class FakeGraph:
    """Replaces a CUDA graph: replaying runs the model again."""

    def __init__(self, prompts, model):
        self.prompts, self.model = prompts, model

    def replay(self):
        cache = self.prompts.cache
        self.model.features(self.prompts._tokens, KVCache.from_tensors(cache.keys, cache.values))


class FakePromptGraph(prompt_graphs.PromptGraph):
    """A `PromptGraph` that needs no GPU."""

    def __init__(self, model, cache):
        self.cache = self._cache = cache
        self._tokens = torch.zeros(cache.keys.size(1), cache.capacity, dtype=torch.long)
        self._graph = FakeGraph(self, model)


@pytest.fixture
def prompts_on_a_gpu(model, monkeypatch):
    """`PromptGraphs` as on a GPU with small shapes, and the shapes that they capture: number of prompts and tokens."""
    captured = []

    def capture(model, cache, pool, stream):
        captured.append((cache.keys.size(1), cache.capacity))
        return FakePromptGraph(model, cache)

    memory = prompt_graphs.Lane._memory.func
    monkeypatch.setattr(prompt_graphs, "PromptGraph", capture)
    monkeypatch.setattr(prompt_graphs, "PROMPT_LENGTHS", (8, 16))
    monkeypatch.setattr(prompt_graphs, "MIN_TOKENS", 32)
    cleared = functools.cached_property(lambda lane: memory(lane).zero_())
    cleared.__set_name__(prompt_graphs.Lane, "_memory")
    monkeypatch.setattr(prompt_graphs.Lane, "_memory", cleared)
    monkeypatch.setattr(prompt_graphs.Lane, "_pool", (0, 0))  # cannot be created without a GPU
    monkeypatch.setattr(prompt_graphs.PromptGraphs, "_new_stream", lambda made: None)
    made = prompt_graphs.PromptGraphs(model)
    made._device = SimpleNamespace(type="cuda")
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *more, **named: tensor)
    return made, captured


def prefilled(made, prompts):
    prefill = made.prefill(prompts)
    while not prefill.step():
        pass
    return prefill.cache


@torch.inference_mode()
def test_prompt_graph_is_captured_at_the_second_occurrence_of_a_shape(prompts_on_a_gpu):
    made, captured = prompts_on_a_gpu
    prefilled(made, [[1, 2, 3], [4, 5]])
    assert captured == []
    prefilled(made, [[1] * 8])  # the same shape: four prompts of at most eight tokens
    assert captured == [(4, 8)]
    prefilled(made, [[2], [1] * 9])  # the second prompt has another shape
    assert captured == [(4, 8)]
    prefilled(made, [[1] * 16, [2], *([[3, 4]] * 8)])  # three batches of short prompts, in different lanes
    assert captured == [(4, 8), (2, 16), *[(4, 8)] * 3]
    prefilled(made, [[1] * 16, [2], *([[3, 4]] * 8)])  # the same batches find the lanes that have their graphs
    assert captured == [(4, 8), (2, 16), *[(4, 8)] * 3]


@torch.inference_mode()
def test_batches_of_a_new_shape_in_one_call_capture_nothing(prompts_on_a_gpu):
    made, captured = prompts_on_a_gpu
    prompts = [[n] * 12 for n in range(3)]  # two batches of two prompts
    prefilled(made, prompts)
    assert captured == []
    prefilled(made, prompts)
    assert captured == [(2, 16), (2, 16)]


def test_long_prompts_share_one_lane(prompts_on_a_gpu, monkeypatch):
    made, _ = prompts_on_a_gpu
    monkeypatch.setattr(prompt_graphs, "LANE_TOKENS", 32)
    shapes_of_batches = [(4, 8), (1, 64), (2, 16), (1, 64), *[(4, 8)] * 3]
    numbers = [made._lanes.index(lane) for lane in made._assign(shapes_of_batches)]
    assert numbers == [0, 0, 1, 0, 2, 3, 1]
    assert [lane._memory.size(1) // made._lanes[1]._memory.size(1) for lane in made._lanes[1:]] == [1, 1, 1]


@torch.inference_mode()
def test_lanes_are_waited_for_if_one_runs_out_of_memory(prompts_on_a_gpu, monkeypatch):
    made, _ = prompts_on_a_gpu
    ended = []
    monkeypatch.setattr(prompt_graphs.Lane, "end", lambda lane: ended.append(lane))

    def store(number, cache):
        if number == 1:
            raise torch.OutOfMemoryError("simulated")

    with pytest.raises(torch.OutOfMemoryError):
        made.process([((4, 8), [[1] * 8])] * 3, store)
    assert ended == made._lanes
    assert len(ended) == 3


@torch.inference_mode()
def test_memory_of_lanes_can_be_freed(model, prompts_on_a_gpu, monkeypatch):
    made, captured = prompts_on_a_gpu
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    decoder = GraphDecoder(model, V, 4, 24)
    decoder._prompts = made
    for _ in range(2):
        prefilled(made, [[1] * 16, [2], *([[3, 4]] * 8)])
    assert len(captured) == 4
    memory = [weakref.ref(lane._memory) for lane in made._lanes]
    decoder.free_memory()
    assert [freed() for freed in memory] == [None] * 4
    prefilled(made, [[2]])  # capturing its graph would need memory, too
    assert len(captured) == 4


def test_tokens_of_a_capture_are_undone_if_memory_runs_out(model):
    decoder = GraphDecoder(model, V, 4, 24)
    before = decoder._state.ints.clone()
    decoder._device = SimpleNamespace(type="cuda")

    def work():
        decoder._state.ints += 1
        raise torch.OutOfMemoryError("simulated")

    with pytest.raises(torch.OutOfMemoryError):
        decoder._capture(work)
    assert torch.equal(decoder._state.ints, before)


def test_shape_of_a_prompt_depends_on_its_length_only(model):
    made = prompt_graphs.PromptGraphs(model)
    made._model = SimpleNamespace(config=dataclasses.replace(model.config, context_length=1024))
    assert [made.shape_of(n) for n in (1, 8, 9, 100, 512, 513, 1024)] == [
        (64, 8), (64, 8), (32, 16), (4, 128), (1, 512), (1, 640), (1, 1024)
    ]  # fmt: skip
    assert made.shape_of(1025) is None
    made._model = SimpleNamespace(config=dataclasses.replace(model.config, context_length=8192))
    assert [made.shape_of(n) for n in (1025, 3000, 4097, 8193)] == [(1, 1280), (1, 3072), (1, 5120), None]
    made._model = SimpleNamespace(config=dataclasses.replace(model.config, context_length=1000))
    assert made.shape_of(900) == (1, 1000)


@torch.inference_mode()
@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_prefill_in_shapes_fills_the_cache_like_the_model(model, prompts_on_a_gpu, device):
    """Prompts of several shapes, more of one shape than fit into a batch, and one that is longer than every shape."""
    made, captured = prompts_on_a_gpu
    if device == "cpu":
        made._device = CPU
    prompts = [[7] * 6, list(range(12)), *([n, n + 1, n + 2] for n in range(9)), list(range(20)), [5] * 16]
    assert made.shape_of(20) is None
    for _ in range(3):  # without graphs, while they are captured, and with graphs
        cache = prefilled(made, prompts)
        plain = prompt_graphs.ChunkedPrefill(model, prompts)
        while not plain.step():
            pass
        assert cache.lengths == tuple(map(len, prompts)) == plain.cache.lengths
        for ours, theirs in ((cache.keys, plain.cache.keys), (cache.values, plain.cache.values)):
            for slot, prompt in enumerate(prompts):
                length = len(prompt)
                torch.testing.assert_close(ours[:, slot, :, :length], theirs[:, slot, :, :length])
    assert sorted(captured) == ([(2, 16), (4, 8), (4, 8), (4, 8)] if device == "gpu" else [])


@torch.inference_mode()
def test_keys_of_a_prompt_are_bit_equal_alone_and_among_others(model):
    made = prompt_graphs.PromptGraphs(model)
    prompts = [list(range(n, 2 * n)) for n in (3, 7, 8, 9, 15, 20)]
    together = prefilled(made, prompts)
    for slot, prompt in enumerate(prompts):
        alone = prefilled(made, [prompt])
        assert torch.equal(alone.keys[:, 0, :, : len(prompt)], together.keys[:, slot, :, : len(prompt)])
        assert torch.equal(alone.values[:, 0, :, : len(prompt)], together.values[:, slot, :, : len(prompt)])


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (3, 4), (9, 16), (64, 64), (65, 128), (129, 192)])
def test_batch_sizes_are_rounded_up_to_graph_sizes(rows, bucket):
    assert shapes.graph_batch_size(rows) == bucket


def test_unsupported_models_cannot_be_fused():
    assert not can_fuse(random_model(dataclasses.replace(GPT2_SHAPE, n_embd=6)))  # heads of width 3
    assert not can_fuse(torch.nn.Identity())


def test_forbidding_every_token_is_an_error(model, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    row = sequence_of([1], limit=4, no_repeat_ngram=1, logit_bias=dict.fromkeys(range(1, V), -math.inf))
    with pytest.raises(GenerationError, match="every token is forbidden"):
        run(model, [row], GraphDecoder)
