"""The engine against an uncached reference, against transformers, and against itself in other batches."""

import dataclasses
import functools
import math
from importlib.util import find_spec

import pytest
import torch
from transformers import GPT2LMHeadModel

from glassgpt import console
from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.engine import decoder_selection
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.generate import generate, generate_many, stream
from glassgpt.generation.engine.memory import warn_of_smaller_batch
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.sampling import gumbel_noise, sample
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from glassgpt.interchange.huggingface import export_model
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from small_models import as_if_on

BYTES = load_tokenizer("bytes")
CONTEXT = 48
ODD_PROMPTS = ["ROMEO:", "한국어", "e\u0301\u200d\U0001f469", "\x00\x85\u2028\ufeff", "  \n\n\t", "<|endoftext|>", "▁"]


def random_model(seed=0, vocab_size=257, std=0.4):
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=vocab_size, context_length=CONTEXT, n_layer=2, n_head=3, n_embd=24)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


@pytest.fixture(scope="module")
def model():
    return random_model()


class Scripted(torch.nn.Module):
    """A model that predicts a given script and records the shapes of its inputs."""

    def __init__(self, script):
        super().__init__()
        self.config = ModelConfig(vocab_size=257, context_length=CONTEXT, n_layer=1, n_head=1, n_embd=1)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.script, self.calls = script, []

    fp8_cache = False
    new_cache = LanguageModel.new_cache

    def parameter_kinds(self):
        return {"anchor": "vector"}

    def features(self, tokens, cache):
        cache.begin(tokens.size(1))
        start = max(cache.lengths)
        cache.commit()
        self.calls.append(tuple(tokens.shape))
        # the token after each position, encoded as a feature
        at = torch.arange(start, start + tokens.size(1)) - self.prompt_length + 1
        wanted = torch.tensor(self.script)[at.clamp(0, len(self.script) - 1)]
        return wanted.float()[None, :, None].expand(tokens.size(0), -1, 1)

    def head(self, features):
        return torch.nn.functional.one_hot(features[..., 0].long(), 257).float() * 100

    def forward(self, tokens, cache=None):
        return self.head(self.features(tokens, cache))


def scripted(text, prompt="p", then="z"):
    script = [*(BYTES.encode(text) if isinstance(text, str) else text), ord(then)]
    model = Scripted(script)
    model.prompt_length = len(BYTES.encode(prompt))
    return model


def uncached(model, prompt, options, index=0, vocab_size=257):
    """The reference: the whole text through the model at each step, one sequence, no cache."""
    tokens = list(prompt)
    processors = build_processors(options, BYTES)
    while len(tokens) - len(prompt) < options.max_tokens and len(tokens) <= CONTEXT:
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[:, -1, :vocab_size]
        logits = apply_processors(logits, processors, [TokenHistory(prompt, tokens[len(prompt) :])])
        noise = None
        if options.temperature > 0:
            noise = gumbel_noise(options.seed, [index], [len(tokens)], torch.arange(vocab_size))
        token = int(sample(logits, noise))
        tokens.append(token)
        if token == BYTES.end_of_text:
            break
    output = tokens[len(prompt) :]
    return output[:-1] if output[-1] == BYTES.end_of_text else output


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.4},
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.8, "top_k": 7, "top_p": 0.9},
        {"temperature": 1.3, "top_p": 0.7, "repetition_penalty": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize("samples", [1, 4])
def test_engine_equals_uncached_reference(model, settings, samples):
    options = GenerationOptions(max_tokens=25, seed=11, num_samples=samples, **settings)
    got = generate(model, BYTES, "ROMEO: what", options)
    expected = [uncached(model, BYTES.encode("ROMEO: what"), options, index) for index in range(samples)]
    assert [one.tokens for one in got] == expected
    assert len(expected[0]) > 3


def test_greedy_text_equals_transformers(tmp_path, model):
    export_model(model, BYTES, tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    for prompt in ODD_PROMPTS[:4]:
        tokens = torch.tensor([BYTES.encode(prompt)])
        out = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=20, pad_token_id=256
        )[0]
        with torch.no_grad():
            top = model(out[None, :-1])[0, tokens.size(1) - 1 :].topk(2).values
        assert (top[:, 0] - top[:, 1]).min() > 1e-4  # no tie that rounding could break
        expected = [token for token in out[tokens.size(1) :].tolist() if token != 256]
        sampled = generate(model, BYTES, prompt, GenerationOptions(max_tokens=20, temperature=0))
        assert sampled[0].tokens == expected


def test_sample_does_not_depend_on_num_samples(model):
    texts = [
        generate(model, BYTES, "once", GenerationOptions(max_tokens=20, seed=5, num_samples=n)) for n in (1, 2, 3, 7)
    ]
    for fewer in texts[:-1]:
        assert [s.tokens for s in fewer] == [s.tokens for s in texts[-1][: len(fewer)]]
    assert len({s.text for s in texts[-1]}) == 7


def test_sequence_that_ends_early_does_not_change_others(model):
    options = GenerationOptions(max_tokens=40, seed=2, num_samples=6, temperature=1.2, stop=("e", "t", "\ufffd\ufffd"))
    together = generate(model, BYTES, "abc", options)
    assert len({len(s.tokens) for s in together}) > 2  # they end at different steps
    free = dataclasses.replace(options, stop=())
    for one in together:
        reference = uncached(model, BYTES.encode("abc"), free, one.index)
        assert reference[: len(one.tokens)] == one.tokens


@pytest.mark.parametrize("prompt", ODD_PROMPTS)
def test_streamed_chunks_join_to_the_text(model, prompt):
    options = GenerationOptions(max_tokens=25, seed=3, num_samples=2)
    whole = generate(model, BYTES, prompt, options)
    chunks = list(stream(model, BYTES, prompt, options))
    for one in whole:
        mine = [chunk for chunk in chunks if chunk.index == one.index]
        assert "".join(chunk.text for chunk in mine) == one.text == BYTES.decode(one.tokens)
        assert [chunk.finish_reason for chunk in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == one.finish_reason


def test_seed_determines_the_text(model):
    def text(seed):
        return generate(model, BYTES, "x", GenerationOptions(max_tokens=20, seed=seed))[0].tokens

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in (0, 1, 2**32, 2**63 - 1)}) == 4
    assert text(None) != text(None)


def test_generation_leaves_torch_generators_unchanged(model):
    before = torch.get_rng_state()
    generate(model, BYTES, "x", GenerationOptions(max_tokens=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_share_one_prefill():
    model = scripted("hello", "prompt")
    generate(model, BYTES, "prompt", GenerationOptions(max_tokens=4, temperature=0, num_samples=5))
    # All but its last token, which is the input of each sample's first decoding step.
    assert model.calls == [(1, 5), (5, 1), (5, 1), (5, 1), (5, 1)]


def test_streaming_is_lazy():
    model = scripted("hello")
    chunks = stream(model, BYTES, "p", GenerationOptions(max_tokens=4, temperature=0))
    assert model.calls == []
    assert next(chunks).text == "h"
    assert len(model.calls) == 1


def only(model, prompt="p", **settings):
    (one,) = generate(model, BYTES, prompt, GenerationOptions(temperature=0, **settings))
    return one


def test_max_tokens_ends_the_text():
    one = only(scripted("hello there"), max_tokens=5)
    assert (one.text, one.finish_reason) == ("hello", "length")


def test_end_of_text_ends_the_text():
    one = only(scripted([*b"bye", 256, *b"more"]), max_tokens=30)
    assert (one.text, one.tokens, one.finish_reason) == ("bye", [*b"bye"], "end_of_text")


def test_stop_string_across_tokens():
    one = only(scripted("aaab and so on"), max_tokens=30, stop=("aab",))
    assert (one.text, one.tokens, one.finish_reason) == ("a", [*b"aaab"], "stop")


def test_incomplete_stop_string_is_text():
    one = only(scripted("aaaa"), max_tokens=4, stop=("aab", "aaaab"))
    assert (one.text, one.finish_reason) == ("aaaa", "length")


def test_stop_string_at_the_last_token_wins_over_length():
    one = only(scripted("abc"), max_tokens=3, stop=("bc",))
    assert (one.text, one.finish_reason) == ("a", "stop")


def test_incomplete_character_at_the_end():
    one = only(scripted("é"), max_tokens=1)
    assert (one.text, one.tokens) == ("\ufffd", [0xC3])


def test_text_ends_with_the_context(model):
    full = generate(model, BYTES, "x" * CONTEXT, GenerationOptions(max_tokens=10, seed=0, top_k=5))[0]
    assert (len(full.tokens), full.finish_reason) == (1, "length")
    model = scripted("y" * 100, "x" * (CONTEXT - 3))
    one = only(model, "x" * (CONTEXT - 3), max_tokens=10)
    assert (one.text, one.finish_reason) == ("yyyy", "length")


def test_prompt_longer_than_the_context_is_an_error(model):
    options = GenerationOptions(max_tokens=5, temperature=0)
    with pytest.raises(GenerationError, match=r"53 tokens.*48.*--truncate"):
        stream(model, BYTES, "ab" * 24 + "xxxxx", options)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [({"max_tokens": 5}, 43), ({"max_tokens": 200}, 24), ({"max_tokens": 200, "overflow": "re-prefill"}, 48)],
    ids=str,
)
def test_truncated_prompt_leaves_space_for_new_tokens(model, asked, kept):
    prompt = "".join(map(chr, range(40, 93)))
    options = GenerationOptions(temperature=0, truncate=True, **asked)
    assert encode_prompt(model, BYTES, prompt, options) == BYTES.encode(prompt[-kept:])
    cut = generate(model, BYTES, prompt, options)
    assert cut == generate(model, BYTES, prompt[-kept:], options)
    assert len(cut[0].tokens) >= min(asked["max_tokens"], 25)
    assert encode_prompt(model, BYTES, prompt[:CONTEXT], options) == BYTES.encode(prompt[:CONTEXT])


def test_empty_prompt_is_an_error_and_none_begins_a_document(model):
    with pytest.raises(GenerationError, match="empty"):
        generate(model, BYTES, "", GenerationOptions())
    options = GenerationOptions(max_tokens=8, seed=4)
    assert generate(model, BYTES, None, options)[0].tokens == uncached(model, [256], options)


def test_invalid_options_are_reported_before_anything_runs():
    model = scripted("hello")
    with pytest.raises(GenerationError, match=r"max_tokens is 0[^\n]*\n.*top_p is 2"):
        stream(model, BYTES, "p", GenerationOptions(max_tokens=0, top_p=2.0))
    assert model.calls == []


def test_vocabulary_padding_is_never_sampled():
    wide = random_model(vocab_size=320)
    with torch.no_grad():
        wide.token_embedding.weight[257:] *= 50  # the padding would almost always win
    options = GenerationOptions(max_tokens=20, seed=1, num_samples=3)
    for one in generate(wide, BYTES, "x", options):
        assert one.tokens == uncached(wide, [ord("x")], options, one.index)


def test_model_can_be_trained_after_generation(model):
    grads = []
    for generates in (False, True):
        one = random_model()
        if generates:
            generate(one, BYTES, "x", GenerationOptions(max_tokens=2))
        one.train()
        one(torch.arange(20)[None]).logsumexp(-1).sum().backward()
        grads.append([p.grad for p in one.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
PROMPTS = ["a", "ROMEO: what", "xy", "a", "some longer words to read", None, "e"]


def test_batched_prompts_equal_single_prompts(model):
    options = GenerationOptions(max_tokens=15, seed=8, num_samples=2, stop=LETTERS)
    alone = [generate(model, BYTES, prompt, options) for prompt in PROMPTS]
    assert generate_many(model, BYTES, PROMPTS, options) == alone
    assert len({len(sample.tokens) for samples in alone for sample in samples}) > 3


def test_waiting_sequences_take_free_slots(model):
    options = GenerationOptions(max_tokens=12, seed=8, stop=LETTERS)
    engine = Engine(model, BYTES, slots=2)
    ids = [engine.submit(encode_prompt(model, BYTES, prompt, options), options) for prompt in PROMPTS]
    tokens = {request: [] for request in ids}
    while not engine.is_idle:
        for chunk in engine.step():
            tokens[chunk.request].append(chunk.token)
    for request, prompt in zip(ids, PROMPTS, strict=True):
        alone = [chunk.token for chunk in stream(model, BYTES, prompt, options)]
        assert tokens[request] == alone


def test_cancelled_request_gets_no_more_tokens(model):
    options = GenerationOptions(max_tokens=30, seed=1)
    engine = Engine(model, BYTES, slots=1)
    first, second = (engine.submit([ord(c)], options) for c in "ab")
    next(engine.step())
    engine.cancel(first)
    chunks = []
    while not engine.is_idle:
        chunks += engine.step()
    assert {chunk.request for chunk in chunks} == {second}


def graph_decoder(*parts):
    if torch.cuda.is_available():
        pytest.skip("tests Triton's interpreter")
    return pytest.importorskip("glassgpt.generation.gpu.graphs").GraphDecoder(*parts)


DECODERS = {"stepwise": StepwiseDecoder, "speculative": SpeculativeDecoding(), "graphs": graph_decoder}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
def test_request_without_possible_tokens_does_not_affect_others(decoder, monkeypatch):
    if decoder is graph_decoder and find_spec("triton"):
        monkeypatch.setattr("glassgpt.generation.gpu.graphs.STEPS_PER_LAUNCH", 2)  # the interpreter is slow
    model = build_model(ModelConfig(vocab_size=257, context_length=24, n_layer=1, n_head=1, n_embd=4)).eval()
    only_two = dict.fromkeys(range(2, 257), -math.inf)
    settings = [{}, {"logit_bias": only_two, "no_repeat_ngram": 1, "num_samples": 2}, {"top_k": 4}]
    options = [GenerationOptions(max_tokens=4, seed=4, **chosen) for chosen in settings]

    def generated(requests):
        engine = Engine(model, BYTES, slots=4, decoder=decoder)
        ids = [engine.submit([7, 8, 7, 8], one) for one in requests]
        tokens, ended = {request: [] for request in ids}, []
        while not engine.is_idle:
            try:
                for chunk in engine.step():
                    tokens[chunk.request].append(chunk.token)
            except RequestError as error:
                ended.append((error.request, str(error).partition(" by the combination")[0]))
        return list(tokens.values()), ended

    texts, ended = generated(options)
    assert ended == [(1, "after 2 new tokens every token is forbidden")]
    assert len(texts[1]) == 2 * 2
    assert [texts[0], texts[2]] == generated([options[0], options[2]])[0]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("simulated"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_cache_that_does_not_fit_memory_gets_fewer_slots(model, error, caplog):
    def out_of_memory(model, vocab_size, slots, capacity, most=2):
        if slots > most:
            raise error
        return StepwiseDecoder(model, vocab_size, slots, capacity)

    options = GenerationOptions(max_tokens=6, seed=3)
    engine = Engine(model, BYTES, slots=12, decoder=out_of_memory)
    requests = [engine.submit(encode_prompt(model, BYTES, prompt, options), options) for prompt in PROMPTS]
    generated = {request: [] for request in requests}
    while not engine.is_idle:
        for chunk in engine.step():
            generated[chunk.request].append(chunk.token)
    alone = [generate(model, BYTES, prompt, options)[0].tokens for prompt in PROMPTS]
    assert [[token for token in tokens if token != 256] for tokens in generated.values()] == alone
    assert "out of memory with 12 sequences at a time; continuing with 1 " in caplog.text
    with pytest.raises(GenerationError, match="out of memory with a single sequence"):
        Engine(model, BYTES, slots=4, decoder=functools.partial(out_of_memory, most=0))


def test_engine_builds_and_uses_a_custom_decoder(model):
    built, decoded = [], []

    class RecordingDecoder(StepwiseDecoder):
        def __init__(self, model, vocab_size, slots, capacity):
            built.append((vocab_size, slots, capacity))
            super().__init__(model, vocab_size, slots, capacity)

        def decode(self, sequences):
            decoded.append(super().decode(sequences))
            return decoded[-1]

    options = GenerationOptions(max_tokens=4, seed=3, stop_tokens=())
    for capacity, expected in ((None, CONTEXT), (20, 20), (999, CONTEXT)):
        engine = Engine(model, BYTES, slots=3, capacity=capacity, decoder=RecordingDecoder)
        assert built.pop() == (257, 3, expected)
    engine.submit(BYTES.encode("ab"), options)
    tokens = [chunk.token for _ in range(9) for chunk in engine.step()]
    assert engine.is_idle
    assert tokens == [token for pairs in decoded for _, token in pairs] == uncached(model, BYTES.encode("ab"), options)


def test_select_decoder_by_device_and_dtype(model, monkeypatch):
    graphs = pytest.importorskip("glassgpt.generation.gpu.graphs", reason="Triton is for Linux")
    monkeypatch.setattr(graphs, "GraphDecoder", lambda *_: "graphs")
    monkeypatch.setattr(decoder_selection, "StepwiseDecoder", lambda *_: "stepwise")

    def chosen(model, device, dtype):
        return decoder_selection.select_decoder(as_if_on(model, device, dtype), 257, 1, 8)

    assert chosen(model, "cuda", torch.bfloat16) == "graphs"
    assert chosen(model, "cuda", torch.float32) == "stepwise"
    assert chosen(model, "cpu", torch.bfloat16) == "stepwise"
    unsupported = build_model(
        dataclasses.replace(model.config, n_embd=9)
    )  # heads of width 3, which the kernels do not support
    assert chosen(unsupported, "cuda", torch.bfloat16) == "stepwise"
    monkeypatch.setattr(decoder_selection, "find_spec", lambda name: None)
    assert chosen(model, "cuda", torch.bfloat16) == "stepwise"


def test_text_ends_with_a_slot_smaller_than_the_context(model):
    options = GenerationOptions(max_tokens=40, seed=1)
    free = uncached(model, BYTES.encode("abcdefgh"), options)
    small = Engine(model, BYTES, slots=2, capacity=12)
    small.submit(BYTES.encode("abcdefgh"), options)
    chunks = [chunk for _ in range(9) for chunk in small.step()]
    assert ([chunk.token for chunk in chunks], chunks[-1].finish_reason) == (free[:5], "length")
    assert small.is_idle
    for prompt, allowed in (
        ("x" * 13, "has 13 tokens; it must have 1 to 12"),
        ("", "has 0 tokens; it must have 1 to 12"),
    ):
        with pytest.raises(GenerationError, match=allowed):
            small.submit(BYTES.encode(prompt), options)
    assert small.is_idle
    for sizes in ({"slots": 0}, {"capacity": 0}):
        with pytest.raises(GenerationError, match="both must be at least 1"):
            Engine(model, BYTES, **sizes)


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_re_prefill_with_the_smallest_slots(model, capacity):
    options = GenerationOptions(max_tokens=9, seed=1, overflow="re-prefill")
    small = Engine(model, BYTES, slots=1, capacity=capacity)
    small.submit(BYTES.encode("a"), options)
    chunks = [chunk for _ in range(99) for chunk in small.step()]
    assert small.is_idle
    seen = BYTES.encode("a")
    for position, chunk in enumerate(chunks, start=1):
        if len(seen) > capacity:
            seen = seen[-max(1, capacity // 2) :]
        with torch.no_grad():
            logits = apply_processors(model(torch.tensor([seen]))[:, -1, :257], build_processors(options, BYTES), [])
        seen.append(chunk.token)
        noise = gumbel_noise(1, [0], [position], torch.arange(257))
        assert int(sample(logits, noise)) == chunk.token


def test_other_errors_are_not_treated_as_out_of_memory(model):
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Engine(model, BYTES, decoder=broken)


def test_re_prefill_continues_after_a_full_context(model):
    prompt, options = "x" * (CONTEXT - 5), GenerationOptions(max_tokens=90, temperature=0, overflow="re-prefill")
    model_tokens = BYTES.encode(prompt)
    seen, expected = list(model_tokens), []
    while len(expected) < 90:
        if len(seen) > CONTEXT:
            seen = seen[-(CONTEXT // 2) :]
        with torch.no_grad():
            token = int(model(torch.tensor([seen]))[0, -1, :257].argmax())
        seen.append(token)
        expected.append(token)
    (one,) = generate(model, BYTES, prompt, options)
    assert one.tokens == expected[: expected.index(256)] if 256 in expected else expected
    assert len(one.tokens) > 10


@pytest.mark.parametrize("temperature", [0, 1])
def test_nan_logits_are_an_error(temperature):
    damaged = random_model()
    damaged.norm.weight.data.fill_(torch.nan)
    with pytest.raises(GenerationError, match=r"logits contain NaN.*doctor"):
        generate(damaged, BYTES, "a", GenerationOptions(temperature=temperature, seed=1))


def test_out_of_memory_changes_no_text(model, monkeypatch, caplog):
    options = GenerationOptions(max_tokens=10, seed=3)
    expected = generate_many(model, BYTES, PROMPTS, options)
    decode = StepwiseDecoder.decode

    def out_of_memory(self, rows):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("simulated")
        return decode(self, rows)

    monkeypatch.setattr(StepwiseDecoder, "decode", out_of_memory)
    assert generate_many(model, BYTES, PROMPTS, options) == expected
    assert "out of memory" in caplog.text
    monkeypatch.setattr(StepwiseDecoder, "decode", lambda self, rows: out_of_memory(self, [*rows] * 4))
    with pytest.raises(GenerationError, match="out of memory with a single"):
        generate(model, BYTES, "a", options)


def test_out_of_memory_warning_reaches_the_terminal(capsys):
    console.show_logged_warnings()
    console.show_logged_warnings()  # still one line per warning
    warn_of_smaller_batch("sequences", 4, 2)
    assert " ".join(capsys.readouterr().err.split()) == (
        "warning: out of memory with 4 sequences at a time; continuing with 2 (same texts)"
    )
