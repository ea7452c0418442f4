"""`glassgpt serve BASE ADAPTER …`: adapters that share the weights and the batches of their base."""

import asyncio
import json
from functools import partial

import pytest
from serving_helpers import Client

from glassgpt import api
from glassgpt.api.serving import load_weights
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.serving import run as server
from glassgpt.serving.app import create_app
from glassgpt.serving.context import ServerContext
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.recording import Recorder
from glassgpt.serving.served_model import ServedModel
from glassgpt.training.checkpoint import find_checkpoint, verify
from glassgpt.training.run_folder import RunFolder

SLOTS = 4


@pytest.fixture(scope="module")
def second_adapter(adapter_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("second") / "run"
    api.train(adapter_config(seed=5, lora__rank=2, lora__targets="mlp", train__max_steps=6), out)
    return out


@pytest.fixture(scope="module")
def sources(base_run, adapter_run, second_adapter):
    runs = [
        api.NamedRun(name, run, "best")
        for name, run in (("one", adapter_run), ("base", base_run), ("two", second_adapter))
    ]
    return api.model_sources(runs, device="cpu", precision="float32", slots=SLOTS)


@pytest.fixture(scope="module")
def weights(sources):
    return sources[0].load()


def test_adapters_are_recognized_and_share_the_weights(sources, weights):
    assert [(source.name, [*source.adapters]) for source in sources] == [("base", ["one", "two"])]
    held = {tensor.data_ptr() for tensor in weights.model.parameters()}
    for adapted in weights.adapters.values():
        assert {tensor.data_ptr() for tensor in adapted.model.parameters()} == held
        assert adapted.identity["weights"] == weights.identity["weights"]
    assert len({each.fingerprint for each in (weights, *weights.adapters.values())}) == 3


def test_each_checkpoint_is_read_once_for_its_checksum(base_run, adapter_run, second_adapter, monkeypatch):
    read, checksum = [], verify._sha256
    monkeypatch.setattr(verify, "_sha256", lambda path: read.append(path) or checksum(path))
    runs = [("base", base_run), ("one", adapter_run), ("two", second_adapter)]
    named = [api.NamedRun(name, run, "best") for name, run in runs]
    (source,) = api.model_sources(named, device="cpu", precision="float32", slots=SLOTS)
    assert source.load().adapters.keys() == {"one", "two"}
    assert len(read) == len(set(read))
    assert sum(path.name == "model.safetensors" for path in read) == 3


def test_base_that_has_changed_since_it_was_recognized_is_refused(adapter_run):
    checkpoint = find_checkpoint(RunFolder(adapter_run), "best")
    with pytest.raises(CheckpointError, match="does not adapt the weights in"):
        load_weights(adapter_run, "best", "cpu", "float32", SLOTS, {"one": checkpoint})


def test_runs_that_share_nothing_are_served_as_before(base_run, adapter_run, tmp_path):
    one, two = (
        api.model_sources(
            [api.NamedRun(name, run, "best") for name, run in given], device="cpu", precision="auto", slots=1
        )
        for given in ([("adapter", adapter_run)], [("a", base_run), ("b", base_run)])
    )
    assert [(source.name, source.adapters) for source in (*one, *two)] == [("adapter", {}), ("a", {}), ("b", {})]


def test_adapters_of_a_run_that_is_followed_are_merged(base_run, adapter_run):
    runs = [api.NamedRun("base", base_run, "best"), api.NamedRun("one", adapter_run, "best")]
    followed = api.model_sources(runs, device="cpu", precision="auto", slots=1, follow=True)
    assert [(source.name, source.adapters) for source in followed] == [("base", {}), ("base:one", {})]
    assert all(source.newest is not None for source in followed)


def test_names_must_differ(base_run, adapter_run):
    runs = [
        api.NamedRun("base", base_run, "best"),
        api.NamedRun("base:one", base_run, "best"),
        api.NamedRun("one", adapter_run, "best"),
    ]
    with pytest.raises(UsageError, match="two models are called base:one; give them names"):
        api.model_sources(runs, device="cpu", precision="auto", slots=1)


def served(sources, weights, work, recorder=None):
    """Run `await work(client)` with a server of the sources."""

    async def main():
        limits, metrics = ServerLimits(), Metrics(lambda: [(name, *each.counts()) for name, each in models.items()])
        models = {}
        models |= server.start_models(
            sources[0],
            weights,
            partial(ServedModel, slots=SLOTS, limits=limits, metrics=metrics),
            asyncio.get_running_loop(),
        )
        await asyncio.to_thread(next(iter(models.values())).current.thread.is_ready.wait, 30)
        context = ServerContext(models, limits, metrics, recorder)
        try:
            return await work(Client(create_app(context)))
        finally:
            for model in models.values():
                await asyncio.to_thread(model.stop)
            context.executor.shutdown()

    return asyncio.run(main())


def body(model, prompt, **changes):
    return {"model": model, "prompt": prompt, "max_tokens": 8, "seed": 3, "logprobs": 2, "temperature": 1.0, **changes}


MODELS = ("base", "base:one", "base:two")
BODIES = [body(model, prompt, echo=prompt == "12") for prompt in ("12", "hello") for model in MODELS]


def test_texts_and_log_probabilities_do_not_depend_on_the_neighbors(sources, weights, tmp_path):
    recorder = Recorder(tmp_path / "answers.jsonl")

    async def work(client):
        alone = [(await client.post("/v1/completions", each)).json for each in BODIES]
        together = await asyncio.gather(*(client.post("/v1/completions", each) for each in BODIES))
        models = (await client.get("/v1/models")).json["data"]
        unknown = (await client.post("/v1/completions", body("one", "a"))).json
        metrics = (await client.get("/metrics")).body.decode()
        embedded = [(await client.post("/v1/embeddings", {"model": name, "input": "12"})).json for name in MODELS]
        return alone, [reply.json for reply in together], models, unknown, metrics, embedded

    alone, together, models, unknown, metrics, embedded = served(sources, weights, work, recorder)
    recorder.close()
    assert [each["choices"] for each in together] == [each["choices"] for each in alone]
    assert len({json.dumps(each["choices"]) for each in alone[:3]}) == 3
    assert [(each["id"], each.get("parent")) for each in models] == [
        ("base", None),
        ("base:one", "base"),
        ("base:two", "base"),
    ]
    assert "choose base, base:one, base:two" in unknown["error"]["message"]
    assert all(f'num_requests_running{{model_name="{name}"}} 0.0' in metrics for name in MODELS)
    assert len({str(each["data"][0]["embedding"]) for each in embedded}) == 3

    replayed = [*api.replay(tmp_path / "answers.jsonl", device="cpu", precision="float32")]
    assert len(replayed) == 2 * len(BODIES)
    assert {(each.differences, each.changes) for each in replayed} == {((), ())}


def test_adapter_gives_the_text_of_its_merged_run(sources, weights, adapter_run, run_main):
    async def work(client):
        return (await client.post("/v1/completions", body("base:one", "12", temperature=0.0))).json

    code, out, _ = run_main("generate", adapter_run, "--prompt", "12", "--max-tokens", 8, "--temperature", 0, "--json")
    assert (code, json.loads(out)["text"]) == (0, served(sources, weights, work)["choices"][0]["text"])


def test_queue_is_that_of_the_shared_engine(weights):
    from glassgpt.serving.served_model import ModelVersion

    version = ModelVersion(weights, thread=None)
    other = version.with_adapter(weights.adapters["one"])
    job = type("Job", (), {"n_sequences": 3, "started": 0.0})()
    other.jobs.add(job)
    assert (version.load, other.load, version.n_sequences) == (3, 3, 0)
    assert (other.n_running(4), other.n_running(2), version.n_running(2)) == (3, 0, 0)
    job.started = 1.0
    assert other.n_running(2) == 2


def test_command_names_the_adapters(base_run, adapter_run, run_main, monkeypatch):
    monkeypatch.setattr(server, "serve", lambda sources, settings, announce: announce(str([s.name for s in sources])))
    code, _, err = run_main("serve", f"base={base_run}", f"book={adapter_run}", "--device", "cpu")
    assert code == 0
    assert "book is an adapter of base, whose weights it shares; request it as base:book" in " ".join(err.split())


def test_adapter_that_was_replaced_cannot_be_replayed(base_run, adapter_run, tmp_path):
    record = {
        "version": 1, "request": "r", "run": str(adapter_run), "checkpoint": "best", "prompt": [1], "options": {}, "seed": 1,
        "identity": {"slots": "1", "adapter": "0"}, "scored": None, "scores": None, "samples": [],
    }  # fmt: skip
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(record) + "\n")
    assert "adapter was 0, is" in " ".join(next(iter(api.replay(file, device="cpu"))).changes)
    with pytest.raises(UsageError, match="is not an adapter"):
        next(iter(api.replay(file, base_run, device="cpu")))


RECORD = {
    "version": 1, "request": "r", "run": "x", "checkpoint": "best", "prompt": [1], "options": {}, "seed": 1,
    "identity": {"slots": "1"}, "scored": None, "scores": None, "samples": [],
}  # fmt: skip


def test_one_run_cannot_stand_for_a_base_and_an_adapter(base_run, adapter_run, tmp_path):
    base = RECORD | {"run": str(base_run)}
    adapter = RECORD | {"run": str(adapter_run), "identity": {"slots": "1", "adapter": "0"}}
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(base) + "\n" + json.dumps(adapter) + "\n")
    assert len([*api.replay(file, device="cpu")]) == 2
    for run in (base_run, adapter_run):
        with pytest.raises(UsageError, match="line 2 was answered by an adapter and line 1 by a model without one"):
            next(iter(api.replay(file, run, device="cpu")))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"identity": "x"}, "identity is x"),
        ({"identity": {}}, "'slots'"),
        ({"identity": {"slots": "many"}}, "many"),
        ({"identity": {"slots": "0"}}, "slots of at least 1"),
        ({"identity": {"slots": "1", "weights": 3}}, "identity is not one of text values"),
        ({"run": None}, "run is None"),
        ({"prompt": "text"}, "prompt is text"),
        ({"prompt": [-1]}, "prompt is not a list of tokens"),
        ({"samples": [{}], "logprobs": None, "ignore_eos": False}, "a sample has not the keys"),
        ({"samples": [1], "logprobs": None, "ignore_eos": False}, "line 2 is not a record"),
        ({"samples": [{}]}, "'logprobs'"),
    ],
)
def test_wrong_record_is_found_before_the_first_is_replayed(changes, problem, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD | changes) + "\n")
    with pytest.raises(UsageError, match=problem) as caught:
        next(iter(api.replay(file, device="cpu")))
    assert str(caught.value).startswith("line 2 is not a record of glassgpt serve --record: ")


def test_weights_without_adapters_are_loaded_as_before(base_run):
    assert load_weights(base_run, "best", "cpu", "float32", 1).adapters == {}
