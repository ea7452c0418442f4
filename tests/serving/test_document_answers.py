"""The chat model that answers from documents, over HTTP and beside the model that it shares its thread with."""

import asyncio

import pytest
from serving_helpers import BYTES, run_with

from answer_helpers import WordIndex
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.serving.document_answers import NO_ANSWER, Documents
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.run import ModelSource, start_models
from glassgpt.serving.served_model import ServedModel, Weights
from small_models import attentive_model

BRIDGE = "The old bridge was built in 1932."
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model():
    return attentive_model(context_length=512)


def asked(question="When was the old bridge built?", **fields):
    return {"model": "tiny+notes", "messages": [{"role": "user", "content": question}], **fields}


def ask(model, *bodies, threshold=0.0, path=PATH):
    """Return the replies of a server whose second model answers from documents."""

    async def work(client):
        return [await client.post(path, body) for body in bodies]

    documents = {"tiny+notes": Documents(WordIndex(BRIDGE, "A tower."), threshold=threshold)}
    return run_with(model, work, names=("tiny", "tiny+notes"), documents=documents)


def test_answer_has_sources_and_a_stream_has_the_same(model):
    whole, stream = ask(model, asked(), asked(stream=True))
    answer = whole.json
    [source] = answer["sources"]
    assert source["source"] == "document 0"
    quotation = source["quotation"]
    assert BRIDGE[quotation["start"] : quotation["end"]] == quotation["text"] != ""
    assert answer["choices"][0]["message"]["content"] == f"“{quotation['text']}” [1]"
    assert not answer["abstains"]
    first, last = stream.events
    assert first["choices"][0]["delta"]["content"] == answer["choices"][0]["message"]["content"]
    assert last["sources"] == answer["sources"]
    assert stream.body.endswith(b"data: [DONE]\n\n")


def test_search_takes_no_time_of_the_event_loop(model):
    class Index(WordIndex):
        def search(self, question, limit=5):
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return super().search(question, limit)

    async def work(client):
        return await client.post(PATH, asked())

    documents = {"tiny+notes": Documents(Index(BRIDGE), threshold=0.0)}
    answer = run_with(model, work, names=("tiny", "tiny+notes"), documents=documents)
    assert answer.json["sources"][0]["source"] == "document 0"


def test_stream_can_have_the_usage(model):
    whole, stream = ask(model, asked(), asked(stream=True, stream_options={"include_usage": True}))
    first, last, usage = stream.events
    assert first["usage"] is last["usage"] is None
    assert (usage["choices"], usage["usage"]) == ([], whole.json["usage"])


def test_answer_that_is_not_there_is_said(model):
    unsure, nothing = ask(model, asked(), asked("xyzzy"), threshold=1.0)
    assert unsure.json["abstains"]
    assert unsure.json["choices"][0]["message"]["content"] == NO_ANSWER
    assert unsure.json["sources"][0]["quotation"] is None
    assert nothing.json["sources"] == []


def test_what_an_answer_from_documents_cannot_have_is_refused(model):
    replies = ask(model, asked(logprobs=True), asked(n=2), asked(" "), asked(response_format={"type": "json_object"}))
    assert [reply.status for reply in replies] == [400] * 4
    assert "logprobs is not supported by tiny+notes" in replies[0].json["error"]["message"]
    assert "must be a question" in replies[2].json["error"]["message"]
    [completion] = ask(model, {"model": "tiny+notes", "prompt": "x"}, path="/v1/completions")
    assert completion.status == 400
    assert "use /v1/chat/completions" in completion.json["error"]["message"]


def test_models_say_how_many_passages_they_answer_from(model):
    async def work(client):
        return (await client.get("/v1/models")).json["data"]

    plain, quoting = run_with(
        model, work, names=("tiny", "tiny+notes"), documents={"tiny+notes": Documents(WordIndex(BRIDGE, "A tower."))}
    )
    assert "passages" not in plain
    assert quoting["passages"] == 2


def test_model_shares_the_thread_of_its_weights(model):
    async def main():
        limits, metrics = ServerLimits(), Metrics(list)
        source = ModelSource("tiny", lambda: None, TRANSCRIPT, documents={"notes": Documents(WordIndex(BRIDGE))})
        weights = Weights(model, BYTES, 7, {}, "runs/tiny")
        models = start_models(
            source,
            weights,
            lambda name, template: ServedModel(name, template, 2, limits, metrics),
            asyncio.get_running_loop(),
        )
        assert list(models) == ["tiny", "tiny+notes"]
        assert models["tiny"].current.thread is models["tiny+notes"].current.thread
        await asyncio.to_thread(models["tiny"].stop)

    asyncio.run(main())
