"""Every shape of openai-python against a running server: `python openai_shapes.py ADDRESS`."""

import asyncio
import json
import sys

import openai

ADDRESS = sys.argv[1]
MESSAGES = [{"role": "system", "content": "x"}, {"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}


def completions(client):
    echoed = client.completions.create(
        model="tiny", prompt="ROMEO:", max_tokens=8, seed=1, logprobs=2, echo=True, n=2, extra_body={"top_k": 5}
    )
    assert [choice.text.startswith("ROMEO:") for choice in echoed.choices] == [True, True]
    assert echoed.usage.completion_tokens <= 16
    assert echoed.choices[0].logprobs.text_offset[:3] == [0, 1, 2]
    for prompt, count in ((["a", "b"], 2), ([65, 66], 1), ([[65], [66, 67]], 2)):
        assert len(client.completions.create(model="tiny", prompt=prompt, max_tokens=2).choices) == count
    stream = client.completions.create(
        model="tiny", prompt="a", max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    assert list(stream)[-1].usage.prompt_tokens == 1


def chat(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=9, logprobs=True, top_logprobs=2, seed=4
    )
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9, stream=True, seed=4)
    assert "".join(part.choices[0].delta.content or "" for part in stream) == answer.choices[0].message.content
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=60, response_format=form)
    assert json.loads(answer.choices[0].message.content).keys() == {"a"}


def responses(client):
    assert client.responses.create(model="tiny", input="hi", max_output_tokens=9).output_text
    content = [{"type": "input_text", "text": "hi"}]
    stream = client.responses.create(
        model="tiny", input=[{"role": "user", "content": content}], max_output_tokens=5, stream=True
    )
    kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def the_rest(client):
    assert [model.id for model in client.models.list()] == [client.models.retrieve("tiny").id] == ["tiny"]
    embeddings = client.embeddings.create(model="tiny", input=["a", "b"]).data
    assert len(embeddings[0].embedding) == len(embeddings[1].embedding) > 1
    tools = [{"type": "function", "function": {"name": "f"}}]
    for call, status in (
        (lambda: client.chat.completions.create(model="tiny", messages=MESSAGES, tools=tools), 400),
        (lambda: client.completions.create(model="nobody", prompt="a"), 404),
        (lambda: client.completions.create(model="tiny", prompt="a", temperature=-1), 400),
    ):
        error = raised(call)
        assert error.status_code == status
        assert error.request_id


def raised(call):
    """Return the error that a call raises."""
    try:
        call()
    except openai.APIStatusError as error:
        return error
    raise AssertionError("no error")


async def concurrent():
    client = openai.AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key="none")
    calls = [client.completions.create(model="tiny", prompt="a", max_tokens=8, seed=3) for _ in range(20)]
    assert len({answer.choices[0].text for answer in await asyncio.gather(*calls)}) == 1


client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="none")
for check in (completions, chat, responses, the_rest):
    check(client)
asyncio.run(concurrent())
