"""Pictures and sounds by openai-python to a running server: `python openai_media.py ADDRESS ASKED`.

ASKED is a JSON file with the name of each picture and sound, which the model has learned to say.
"""

import base64
import json
import sys
from pathlib import Path

import openai

ADDRESS, ASKED = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
QUESTION = {"type": "text", "text": "What is it?"}


def part_of(path):
    """Return a file as a part of a message, as OpenAI's documentation has it."""
    content = base64.b64encode(Path(path).read_bytes()).decode()
    if path.endswith(".png"):
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}
    return {"type": "input_audio", "input_audio": {"data": content, "format": "wav"}}


def ask(client, *parts, **options):
    messages = [{"role": "user", "content": [*parts, QUESTION]}]
    return client.chat.completions.create(model="seeing", messages=messages, temperature=0, max_tokens=8, **options)


def answers(client):
    for path, name in ASKED.items():
        assert ask(client, part_of(path)).choices[0].message.content.strip() == name, path
        stream = ask(client, part_of(path), stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in stream).strip() == name, path


def responses(client):
    for path, name in ASKED.items():
        if path.endswith(".png"):
            url = part_of(path)["image_url"]["url"]
            content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": QUESTION["text"]}]
            given = [{"role": "user", "content": content}]
            answer = client.responses.create(model="seeing", input=given, temperature=0, max_output_tokens=16)
            assert answer.output_text.strip() == name, path


def a_conversation(client):
    """A second question about another picture, after the answer to the first."""
    (first, name), (second, other) = [each for each in ASKED.items() if each[0].endswith(".png")]
    messages = [
        {"role": "user", "content": [part_of(first), QUESTION]}, {"role": "assistant", "content": name},
        {"role": "user", "content": [part_of(second), QUESTION]},
    ]  # fmt: skip
    answer = client.chat.completions.create(model="seeing", messages=messages, temperature=0, max_tokens=8)
    assert answer.usage.prompt_tokens > 2 * 4
    assert answer.choices[0].message.content.strip() in (name, other)


def mistakes(client):
    picture = part_of(next(iter(ASKED)))
    damaged = {"type": "image_url", "image_url": {"url": picture["image_url"]["url"][:-40]}}
    remote = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    silent = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    for part in (damaged, remote, silent):
        assert "messages[0].content[0]" in refused(client, part), part


def refused(client, part):
    """Return the message with which a part is refused."""
    try:
        ask(client, part)
    except openai.BadRequestError as error:
        return str(error)
    raise AssertionError(f"no error: {part}")


client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="none")
for check in (answers, responses, a_conversation, mistakes):
    check(client)
