"""`glassgpt chat`: a conversation with a run, and with a server."""

import io
import json
import socketserver
import threading

import pytest
from live_server import live_server
from serving_helpers import BYTES

from glassgpt.api.chat import LocalChat
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.runs import save_as_run
from glassgpt.api.serving import load_weights
from glassgpt.cli import chat as command
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.generation.cpu import gpt2_step
from glassgpt.generation.cpu.packed_product import instruction_level
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.serving.chat_client import RemoteChat, ServerError
from glassgpt.serving.chat_session import SETTINGS, ChatSession, Message
from small_models import attentive_model

KEY = "a key of many characters"


class Scripted:
    """A backend whose answers consist of given pieces; an exception among them is raised."""

    name, context_length = "scripted", 64

    def __init__(self, *pieces):
        self.pieces, self.asked, self.n_closed = pieces, [], 0

    def answer(self, messages, settings):
        self.asked.append((list(messages), dict(settings)))
        try:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.n_closed += 1


@pytest.fixture
def session():
    return ChatSession(Scripted("one", " two"))


def test_conversation_grows_by_both_messages_and_keeps_the_system_message_first(session):
    session.command("/system Be brief.")
    assert "".join(session.ask("first")) == "one two"
    assert "".join(session.ask("second")) == "one two"
    messages, settings = session.backend.asked[1]
    assert [(each.role, each.text) for each in messages] == [
        ("system", "Be brief."), ("user", "first"), ("assistant", "one two"), ("user", "second"),
    ]  # fmt: skip
    assert settings == {"max_tokens": 32, "truncate": True, "seed": session.seed}
    session.command("/reset")
    session.command("/system")
    list(session.ask("third"))
    assert [(each.role, each.text) for each in session.backend.asked[2][0]] == [("user", "third")]


def test_given_seed_is_used_and_a_random_one_is_reported(session):
    list(session.ask("a"))
    assert str(session.seed) in session.command("/settings")
    session.command("/set seed 7")
    list(session.ask("b"))
    assert session.seed == session.backend.asked[1][1]["seed"] == 7


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("temperature 0.8", 0.8),
        ("top-k 40", 40),
        ("stop END", "END"),
        ('stop ["a", "b"]', ("a", "b")),
        ("regex [0-9]+", "[0-9]+"),
        ("regex 12", "12"),
        ('logit_bias {"5": -100}', {"5": -100.0}),
        ("temperature_schedule [[0, 1.5], [50, 0.5]]", ((0, 1.5), (50, 0.5))),
    ],
)
def test_set_takes_json_or_text(session, words, value):
    session.command(f"/set {words}")
    name = words.split()[0].replace("-", "_")
    assert session.settings[name] == value
    session.command(f"/set {name}")  # back to the default
    assert name not in session.settings


def test_set_without_a_value_restores_the_default_of_the_chat(session):
    session.command("/set max_tokens 5")
    assert session.command("/set max_tokens") == "max_tokens = 32"
    assert session.settings["max_tokens"] == 32


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sett", "did you mean /set"),
        ("/set", "needs a name"),
        ("/set tempratur 1", "did you mean temperature"),
        ("/set temp 1", "did you mean temperature"),
        ("/set temperature hot", "temperature is 'hot'; it must be a number"),
        ("/set temperature -1", "temperature is -1"),
        ("/set n 2", "unknown setting n"),
        ("/save", "needs a file"),
        ("/help none", "unknown setting none"),
    ],
)
def test_invalid_commands_are_one_line(session, line, message):
    before = dict(session.settings)
    with pytest.raises(UsageError, match=message) as raised:
        session.command(line)
    assert "\n" not in str(raised.value)
    assert session.settings == before


def test_every_setting_is_listed_and_explained(session):
    listed = session.command("/settings")
    for name, field in SETTINGS.items():
        assert name in listed
        assert field.help in session.command(f"/help {name}")
    assert all(each.help in session.command("/help") for each in session.COMMANDS)


def test_stopped_answer_keeps_what_there_is_and_closes_the_backend(session):
    answer = session.ask("x")
    assert next(answer) == "one"
    answer.close()
    assert session.messages == [Message("user", "x"), Message("assistant", "one")]
    assert session.backend.n_closed == 1


def test_failed_answer_leaves_the_conversation_as_it_was():
    session = ChatSession(Scripted(GlassGPTError("busy")))
    with pytest.raises(GlassGPTError, match="busy"):
        list(session.ask("x"))
    assert session.messages == []


def test_transcript_is_saved_as_text_or_json_and_never_over_another_file(session, tmp_path):
    list(session.ask("Wer? \u00e4"))
    text, data = tmp_path / "chat.md", tmp_path / "chat.json"
    session.command(f"/save {text}")
    session.command(f"/save {data}")
    assert text.read_text() == "## user\n\nWer? ä\n\n## assistant\n\none two\n\n"
    saved = json.loads(data.read_text())
    assert saved["messages"] == [
        {"role": "user", "content": "Wer? ä"}, {"role": "assistant", "content": "one two"},
    ]  # fmt: skip
    assert saved["seed"] == session.seed
    session.command(f"/save {data}")  # its own file is replaced
    other = tmp_path / "thesis.md"
    other.write_text("precious")
    with pytest.raises(UsageError, match="already exists"):
        session.command(f"/save {other}")
    with pytest.raises(UsageError, match="cannot be written"):
        session.command(f"/save {tmp_path}/none/chat.md")
    assert other.read_text() == "precious"


# The terminal


@pytest.fixture
def typed(monkeypatch):
    """Type lines as a user at a terminal would; an exception is raised instead of a line."""

    def type_lines(*lines):
        waiting = [*lines, None]

        def read_line(prompt=""):
            line = waiting.pop(0)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(command.console, "read_line", read_line)

    return type_lines


def test_ctrl_c_stops_an_answer_but_not_the_chat(typed, capsys):
    backend = Scripted("one", KeyboardInterrupt(), "never")
    session = ChatSession(backend)
    typed("hello", KeyboardInterrupt(), "again", "/quit", "not read")
    command._converse(session, is_interactive=True)
    assert capsys.readouterr().out == "one …\none …\n"
    assert [message.text for message in session.messages] == ["hello", "one", "again", "one"]
    assert len(backend.asked) == 2
    assert session.is_over


def test_errors_are_printed_and_the_chat_continues(typed, capsys, session):
    typed("/set temperature hot", "  ", "//etc is a folder")
    command._converse(session, is_interactive=True)
    captured = capsys.readouterr()
    assert captured.out == "one two\n"
    assert "error: temperature is 'hot'" in captured.err
    assert session.messages[0].text == "/etc is a folder"


def test_model_output_cannot_control_the_terminal(typed, capsys):
    typed("x")
    command._converse(ChatSession(Scripted("\x1b[2Jgone")), is_interactive=True)
    assert capsys.readouterr().out == "\\x1b[2Jgone\n"


def test_history_of_lines_is_private(monkeypatch, tmp_path):
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    readline.clear_history()
    with command._history():
        readline.add_history("hello there")
    file = tmp_path / "glassgpt" / "chat_history"
    assert "hello" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    readline.clear_history()
    with command._history():
        assert readline.get_history_item(1) == "hello there"
    readline.clear_history()


# A run and a server


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture(scope="module")
def address(model):
    with live_server(model, api_keys=(KEY,), names=("tiny", "other")) as address:
        yield address


def chat_lines(monkeypatch, run_main, *arguments, lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return run_main("chat", *arguments)


def test_run_and_server_give_the_same_answers(model, address, monkeypatch, run_main):
    monkeypatch.setenv("GLASSGPT_API_KEY", f"{KEY}\n")
    lines = ("/set seed 5", "/set max_tokens 12", "/set top_k 20", "Who are you?", "And now?")
    code, out, err = chat_lines(monkeypatch, run_main, address, lines=lines)
    assert code == 0, err
    local = ChatSession(LocalChat("tiny", LoadedModel(model, BYTES, 0), TRANSCRIPT))
    for line in lines[:3]:
        local.command(line)
    answers = ["".join(local.ask(line)) for line in lines[3:]]
    assert out == "".join(f"{command.console.visible(answer)}\n" for answer in answers)
    assert len(out) > 20


def test_chat_with_a_run(model, monkeypatch, run_main, tmp_path):
    save_as_run(model, BYTES, tmp_path / "run")
    file = tmp_path / "c.json"
    lines = ("/set max_tokens 8", "hello", f"/save {file}")
    code, out, err = chat_lines(monkeypatch, run_main, tmp_path / "run", lines=lines)
    assert code == 0, err
    assert out == f"{command.console.visible(json.loads(file.read_text())['messages'][1]['content'])}\n"


@pytest.mark.parametrize(
    ("arguments", "lines", "code", "message"),
    [
        (("none",), (), 2, "none does not exist"),
        (("localhost:8000",), (), 2, "http://localhost:8000"),
        (("http://",), (), 2, "is not the URL of a server"),
        (("http://127.0.0.1:1",), (), 1, "cannot be reached"),
        (("ADDRESS", "--name", "third"), (), 2, "choose tiny, other"),
        (("ADDRESS",), ("/set temperature hot",), 2, "temperature is 'hot'"),
        (("ADDRESS",), ("/nothing", "not sent"), 2, "unknown command /nothing"),
        (("ADDRESS",), ("/set logit_bias {\"9999\": 1}", "x"), 1, "logit_bias"),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_an_exit_code(arguments, lines, code, message, address, monkeypatch, run_main):
    monkeypatch.setenv("GLASSGPT_API_KEY", KEY)
    given = [address if each == "ADDRESS" else each for each in arguments]
    found, out, err = chat_lines(monkeypatch, run_main, *given, lines=lines)
    assert message in err
    assert (found, out.strip()) == (code, "")
    assert "Traceback" not in err


def test_key_that_http_cannot_send_is_named(address, monkeypatch, run_main):
    monkeypatch.setenv("GLASSGPT_API_KEY", "열쇠")
    code, _, err = chat_lines(monkeypatch, run_main, address, lines=())
    assert code == 2
    assert "printable ASCII" in err


def test_missing_key_is_named(address, monkeypatch, run_main):
    monkeypatch.delenv("GLASSGPT_API_KEY", raising=False)
    code, _, err = chat_lines(monkeypatch, run_main, address, lines=())
    assert code == 1
    assert "set GLASSGPT_API_KEY" in err


def stub(*responses):
    """The address of a server that sends these bytes, one response per connection."""
    waiting = list(responses)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(waiting.pop(0))

    server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/v1"


OK = b"HTTP/1.1 200 OK\r\n\r\n"
MODELS = OK + b'{"data": [{"id": "m"}]}'


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (OK + b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "before the answer was complete"),
        (OK + b'data: {"error": {"message": "no\\nmemory"}}\n\ndata: [DONE]\n\n', "no memory"),
        (OK + b"data: x\n\n", "not JSON"),
        (b"HTTP/1.1 429 Too Many\r\nretry-after: 3\r\n\r\n" + b'{"error": {"message": "full"}}', "full .try again in 3 s"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "502 Bad Gateway"),
        (b"garbage\r\n\r\n", "cannot be reached"),
    ],
)  # fmt: skip
def test_broken_answers_are_named(response, message):
    server, address = stub(MODELS, response)
    chat = RemoteChat(address)
    assert (chat.name, chat.context_length) == ("m", 1024)
    with pytest.raises(ServerError, match=message):
        list(chat.answer([Message("user", "x")], {}))
    server.shutdown()
    server.server_close()


def test_redirects_are_not_followed():
    elsewhere, other = stub(MODELS)
    server, address = stub(f"HTTP/1.1 302 Found\r\nlocation: {other}/models\r\n\r\n".encode())
    with pytest.raises(ServerError, match="302 Found"):
        RemoteChat(address, api_key=KEY)
    for each in (server, elsewhere):
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize("response", [OK + b"<html>", OK + b"{}", OK + b'{"data": [1]}'])
def test_what_is_not_an_api_is_named(response):
    server, address = stub(response)
    with pytest.raises(ServerError, match="OpenAI-compatible"):
        RemoteChat(address)
    server.shutdown()
    server.server_close()


def test_a_runs_identity_consists_of_plain_strings(model, tmp_path):
    """/v1/models sends it as JSON; torch's version is a subclass of str, which msgspec refuses."""
    save_as_run(model, BYTES, tmp_path / "run")
    identity = load_weights(tmp_path / "run", "best", "cpu", "float32", 1).identity
    assert {type(value) for value in identity.values()} == {str}


@pytest.mark.skipif(not instruction_level(8), reason="no C compiler, or a processor without AVX2")
def test_the_fingerprint_tells_steps_in_c_from_steps_in_pytorch(tmp_path, monkeypatch):
    shape = ModelConfig(vocab_size=BYTES.vocab_size, context_length=16, n_layer=1, n_head=1, n_embd=16)
    save_as_run(build_model(shape).eval(), BYTES, tmp_path / "run")

    def load():
        return load_weights(tmp_path / "run", "best", "cpu", "int8", 1)

    in_c = load()
    monkeypatch.setattr(gpt2_step, "_library", lambda: None)
    in_pytorch = load()
    assert (in_c.identity["blocks"], in_pytorch.identity["blocks"]) == ("C", "PyTorch")
    assert in_c.identity["kernel"] == in_pytorch.identity["kernel"]
    assert in_c.fingerprint != in_pytorch.fingerprint
