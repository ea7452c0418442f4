"""Pictures and sounds in a chat of the terminal: with a run, and with a server."""

import pytest
from live_server import live_server
from multimodal_helpers import picture, sound
from named_media import NAMES
from test_media_serving import png, wav

from glassgpt import api
from glassgpt.api.chat import LocalChat
from glassgpt.api.serving import load_weights
from glassgpt.data.chat.chat_template import TRANSCRIPT, ChatTemplate
from glassgpt.errors import GenerationError, UsageError
from glassgpt.serving.chat_client import RemoteChat
from glassgpt.serving.chat_session import ChatSession

NO_TEXTS = {"system": "", "user": "", "assistant": ""}
BARE = ChatTemplate(before=NO_TEXTS, after=NO_TEXTS)
"""Nothing but the message, as in the documents that the run was trained on."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.png").write_bytes(png(picture(1)))
    (folder / "b.wav").write_bytes(wav(sound(0, 300)))
    return folder


def answer(backend, files, n_messages=1):
    session = ChatSession(backend)
    session.command("/set temperature 0")
    session.command("/set max_tokens 5")
    assert session.command(f"/image {files / 'a.png'}") == "a.png goes with the next message"
    session.command(f"/audio {files / 'b.wav'}")
    found = "".join(session.ask("a blue"))
    assert not session.attached
    assert [one.modality for one in session.messages[0].media] == ["image", "audio"]
    return found


def test_a_run_and_its_server_say_the_same_of_a_picture(named_run, files):
    loaded = api.load(named_run, device="cpu")
    local = answer(LocalChat("named", loaded, TRANSCRIPT), files)
    assert loaded.decoding_model.get_submodule("token_embedding").n_added == 0
    with live_server(load_weights(named_run, "best", "cpu", "float32", 2)) as address:
        assert answer(RemoteChat(address), files) == local


@pytest.mark.parametrize("kind", [0, 1])
def test_the_picture_is_what_is_answered_about(named_run, tmp_path, kind):
    (tmp_path / "a.png").write_bytes(png(picture(kind)))
    session = ChatSession(LocalChat("named", api.load(named_run, device="cpu"), BARE))
    for command in ("/set temperature 0", "/set max_tokens 12", f"/image {tmp_path / 'a.png'}"):
        session.command(command)
    assert "".join(session.ask("")) == NAMES[kind]


@pytest.mark.parametrize("has_picture", [False, True])
def test_a_typed_begin_token_is_no_picture(named_run, files, has_picture):
    loaded = api.load(named_run, device="cpu")
    session = ChatSession(LocalChat("named", loaded, TRANSCRIPT))
    session.command("/set max_tokens 2")
    if has_picture:
        session.command(f"/image {files / 'a.png'}")
    assert "".join(session.ask("a <|image|>")) is not None  # as text
    session.command("/reset")
    session.command("/set parse_special_tokens true")
    if has_picture:
        session.command(f"/image {files / 'a.png'}")
    with pytest.raises(
        GenerationError, match="each picture and sound once" if has_picture else "without what it begins"
    ):
        list(session.ask("a <|image|> bird"))
    assert session.messages == []
    assert loaded.decoding_model.get_submodule("token_embedding").n_added == 0
    assert "".join(session.ask("a bird")) is not None  # the chat continues


def test_mistakes_are_reported(named_run, files):
    loaded = api.load(named_run, device="cpu")
    session = ChatSession(LocalChat("named", loaded, TRANSCRIPT))
    with pytest.raises(UsageError, match="/image needs a file, such as /image a.png"):
        session.command("/image")
    with pytest.raises(UsageError, match="none.png is not a file"):
        session.command("/image none.png")
    session.command(f"/image {files / 'b.wav'}")
    with pytest.raises(GenerationError, match="not a picture"):
        list(session.ask("a"))
    assert session.messages == []
    session.command("/reset")
    assert session.attached == []
