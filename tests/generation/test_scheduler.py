"""The order of prefills and decoding steps; what they compute is the subject of the decoders' tests."""

import weakref

import pytest
import torch
from decoded_sequences import numbers, random_model

from glassgpt.errors import GenerationError
from glassgpt.generation.engine import decoding
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.memory import ShrinkingScheduler
from glassgpt.generation.engine.scheduler import Scheduler
from glassgpt.generation.gpu.graphs import GraphDecoder
from glassgpt.model.config import ModelConfig

V = 13


@pytest.fixture(scope="module")
def model():
    return random_model(ModelConfig(vocab_size=V, context_length=24, n_layer=2, n_head=2, n_embd=8))


class Recording:
    """Records the prompts of each prefill, and the number of sequences of each decoding step."""

    def __init__(self, *given):
        super().__init__(*given)
        self.events = []

    def prefill(self, prompts, adapters):
        self.events.append(("prefill", *map(len, prompts)))
        return super().prefill(prompts, adapters)

    def decode(self, sequences):
        self.events.append(("decode", len(sequences)))
        return super().decode(sequences)


class Recorder(Recording, StepwiseDecoder):
    pass


@torch.inference_mode()
def run(model, sequences, slots=8, decoder=Recorder, scheduler=Scheduler, max_prefills=None, **limits):
    made = decoder(model, V, slots, 24)
    made.max_prefills = max_prefills or made.max_prefills
    scheduler = scheduler(model, made, **limits)
    for sequence in sequences:
        scheduler.add(sequence)
    while not scheduler.is_idle:
        for sequence, _ in scheduler.step():
            if sequence.is_full:
                scheduler.finish(sequence)
    return made, [sequence.output_ids for sequence in sequences]


def waiting(count, limit=3, n_tokens=4):
    return [numbers(V, [number % V, *[1] * (n_tokens - 1)], limit=limit) for number in range(count)]


def test_waiting_prompts_are_prefilled_before_the_next_decoding_step_up_to_a_limit(model):
    made, _ = run(model, waiting(5), max_prefills=3)
    assert made.events[:6] == [*[("prefill", 3)] * 3, ("decode", 3), *[("prefill", 3)] * 2]
    assert made.events[6:] == [("decode", 5), ("decode", 5), ("decode", 2)]


def test_number_of_prefills_between_decoding_steps_is_the_decoders(model, monkeypatch):
    graphs = pytest.importorskip("glassgpt.generation.gpu.graphs", reason="Triton is for Linux")
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 1)

    class GraphRecorder(Recording, GraphDecoder):
        pass

    made, _ = run(model, waiting(5, limit=1), decoder=GraphRecorder)
    assert made.events[:6] == [*[("prefill", 3)] * 4, ("decode", 4), ("prefill", 3)]
    made, _ = run(model, waiting(3))  # steps of single tokens
    assert made.events[:5] == [("prefill", 3), ("decode", 1), ("prefill", 3), ("decode", 2), ("prefill", 3)]


def test_a_full_decoder_prefills_when_a_slot_is_free(model):
    made, _ = run(model, waiting(3, limit=2), slots=2, max_prefills=4)
    assert made.events == [*[("prefill", 3)] * 2, *[("decode", 2)] * 2, ("prefill", 3), *[("decode", 1)] * 2]


def test_decoding_continues_between_the_chunks_of_a_long_prompt(model, monkeypatch):
    monkeypatch.setattr(decoding, "PREFILL_CHUNK", 4)
    sequences = [*waiting(1), *waiting(1, n_tokens=14), *waiting(1)]
    made, _ = run(model, sequences, max_prefills=9)
    chunks = ["decode"] * 3  # 13 tokens before the last one are four chunks
    assert [name for name, *_ in made.events] == [
        "prefill",
        "prefill",
        *chunks,
        "prefill",
        "decode",
        "decode",
        "decode",
    ]


@pytest.mark.parametrize("decoder", [StepwiseDecoder, GraphDecoder])
@pytest.mark.parametrize("limits", [{"max_prefills": 4}, {"max_prefill_tokens": 9, "max_prefills": 2}])
def test_texts_do_not_depend_on_the_number_of_prefills(model, decoder, limits):
    pytest.importorskip("triton", reason="Triton is for Linux")

    def sequences():
        return [numbers(V, [n + 1] * (n % 4 + 1), limit=n % 3 + 3) for n in range(9)]

    expected = run(model, sequences(), slots=4, decoder=StepwiseDecoder)[1]
    assert run(model, sequences(), slots=4, decoder=decoder, **limits)[1] == expected


def test_memory_of_a_prefill_is_free_when_the_next_one_starts(model):
    pytest.importorskip("triton", reason="Triton is for Linux")

    class Watcher(GraphDecoder):
        def __init__(self, *given):
            super().__init__(*given)
            self.caches, self.n_alive = [], []

        def prefill(self, prompts, adapters):
            prefill = super().prefill(prompts, adapters)
            self.n_alive.append(sum(cache() is not None for cache in self.caches))
            self.caches.append(weakref.ref(prefill.cache))
            return prefill

    made, _ = run(model, waiting(4), decoder=Watcher, max_prefills=4)
    assert made.n_alive == [0, 0, 0, 0]


@pytest.mark.parametrize(("method", "call"), [("prefill", 2), ("insert", 4)])
def test_out_of_memory_in_a_prefill_loses_and_repeats_no_sequence(model, method, call):
    calls = []

    class Failing(StepwiseDecoder):
        pass

    def fails_once(self, *given):
        calls.append(given)
        if len(calls) == call:
            raise torch.OutOfMemoryError("simulated")
        return getattr(StepwiseDecoder, method)(self, *given)

    setattr(Failing, method, fails_once)
    expected = run(model, waiting(6), slots=4, max_prefill_tokens=8, max_prefills=2)[1]
    limits = {"max_prefill_tokens": 8, "max_prefills": 2, "scheduler": ShrinkingScheduler}
    assert run(model, waiting(6), slots=4, decoder=Failing, **limits)[1] == expected
    assert len(calls) > call


@pytest.mark.parametrize("n_cancelled", [1, 3])
def test_out_of_memory_does_not_bring_back_cancelled_sequences(model, n_cancelled):
    sequences = waiting(3)

    class Failing(Recorder):
        def prefill(self, prompts, adapters):
            prefill = super().prefill(prompts, adapters)
            if len(self.events) == 1:
                for sequence in sequences[:n_cancelled]:
                    sequence.is_finished = True  # as `Scheduler.finish` does
                raise torch.OutOfMemoryError("simulated")
            return prefill

    made, outputs = run(
        model, sequences, decoder=Failing, max_prefill_tokens=12, scheduler=ShrinkingScheduler
    )  # fmt: skip
    assert outputs[:n_cancelled] == [[]] * n_cancelled
    prefilled = sum(len(event) - 1 for event in made.events[1:] if event[0] == "prefill")
    assert prefilled == 3 - n_cancelled


def failing(decoder, method, is_short):
    """A decoder whose method runs out of memory if the function says so, given the number of the call, and what it freed."""

    class Failing(decoder):
        n_calls, n_freed = 0, 0

        def free_memory(self):
            super().free_memory()
            self.n_freed += 1

    def fails(self, *given):
        self.n_calls += 1
        if is_short(self.n_calls):
            raise torch.OutOfMemoryError("simulated")
        return getattr(decoder, method)(self, *given)

    setattr(Failing, method, fails)
    return Failing


def test_number_of_sequences_grows_again_after_memory_ran_out(model):
    decoder = failing(Recorder, "insert", lambda call: call == 8)
    made, _ = run(model, waiting(30), decoder=decoder, scheduler=ShrinkingScheduler, max_prefills=8)
    active = [count for name, count in made.events if name == "decode"]  # each sequence gets three tokens
    assert active == [count for count in (4, 5, 6, 7, 8) for _ in range(3)]
    assert made.n_freed == 1


@pytest.mark.parametrize("method", ["prefill", "insert", "decode"])
def test_a_single_sequence_gets_another_try_with_what_the_decoder_freed(model, method):
    sequences = waiting(1)
    expected = run(model, waiting(1))[1]
    made, outputs = run(
        model, sequences, decoder=failing(Recorder, method, lambda call: call == 1), scheduler=ShrinkingScheduler
    )  # fmt: skip
    assert (outputs, made.n_freed) == (expected, 1)
    with pytest.raises(GenerationError, match="out of memory with a single sequence"):
        run(model, waiting(1), decoder=failing(Recorder, method, bool), scheduler=ShrinkingScheduler)


def test_out_of_memory_in_a_launch_loses_no_pending_tokens(model, monkeypatch):
    graphs = pytest.importorskip("glassgpt.generation.gpu.graphs", reason="Triton is for Linux")
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    expected = run(model, waiting(2, limit=5), decoder=StepwiseDecoder)[1]
    decoder = failing(GraphDecoder, "_run_graph", lambda call: call == 2)
    made, outputs = run(model, waiting(2, limit=5), decoder=decoder, scheduler=ShrinkingScheduler, max_prefills=2)
    assert (outputs, made.n_freed) == (expected, 1)
