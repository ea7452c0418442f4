"""`glassgpt serve` as a process: real sockets, limits of connections, signals, and `glassgpt replay`."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from forked import ForkedCommand


def post(address, body, path="/v1/completions"):
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def raw(port, data, seconds=5):
    """Send bytes and return what comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        received = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


@pytest.fixture(scope="module")
def server(nano_run, tmp_path_factory):
    """A server as a process, its port, and the file of its answers."""
    record = tmp_path_factory.mktemp("serve") / "answers.jsonl"
    process = ForkedCommand(
        "serve", f"tiny={nano_run}", "--port", "0", "--record", record,
        "--header-seconds", "0.5", "--drain-seconds", "90", "--max-header-bytes", "4096", "--slots", "4",
    )  # fmt: skip
    port = int(process.wait_for("stderr", r"serving tiny at http://127\.0\.0\.1:(\d+)")[1])
    yield process, port, record
    process.kill()
    process.communicate()


def test_server_from_start_to_drain(server, nano_run, run_main):  # one test, because starting takes seconds
    process, port, record = server
    address = f"http://127.0.0.1:{port}"

    with urllib.request.urlopen(address + "/v1/models", timeout=30) as response:
        described = json.load(response)["data"][0]
    assert described["id"] == "tiny"
    assert described["identity"]["device"] == "cpu"

    # The text of `glassgpt generate`.
    body = {"prompt": "the ", "max_tokens": 20, "temperature": 0.9, "top_p": 0.9, "seed": 5}
    answer = post(address, body)
    flags = ["--max-tokens", 20, "--temperature", 0.9, "--top-p", 0.9, "--seed", 5, "--json"]
    code, out, _ = run_main("generate", nano_run, "--prompt", "the ", *flags)
    assert (code, json.loads(out)["text"]) == (0, answer["choices"][0]["text"])

    # Headers that are too large or too slow end their connection, and no other.
    assert raw(port, b"GET /health HTTP/1.1\r\nhost: x\r\na: " + b"a" * 9000).startswith(b"HTTP/1.1 431 ")
    began = time.monotonic()
    assert raw(port, b"GET /health HTTP/1.1\r\nhost:") == b""
    assert 0.3 < time.monotonic() - began < 4
    assert raw(port, b"GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 403 "
    )
    large = b'{"prompt": "' + b"a" * 9000 + b'"}'
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(large)}"
    assert raw(port, head.encode() + b"\r\nconnection: close\r\n\r\n" + large).startswith(b"HTTP/1.1 400 ")

    # SIGTERM lets the running stream finish and refuses new requests.
    endless = {"prompt": "a", "max_tokens": 600, "overflow": "re-prefill", "stream": True}
    request = urllib.request.Request(
        address + "/v1/completions", json.dumps(endless).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        assert stream.readline().startswith(b"data: ")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(address + "/health", timeout=5)
        assert stream.read().endswith(b"data: [DONE]\n\n")
    process.communicate(timeout=90)
    assert process.returncode == 0

    code, out, err = run_main("replay", record)
    assert (code, out) == (0, "2 of 2 answers are the same to the bit\n"), err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--host", "0.0.0.0"), "needs keys: give a file with --api-key FILE"),
        (("--slots", "0"), "it must be at least 1"),
        (("--port", "70000"), "--port must be from 1 to 65535"),
        (("--max-prompts", "0"), "max_prompts is 0; it must be an integer of at least 1"),
        (("--api-key", "/nowhere/keys"), "cannot be read"),
    ],
)
def test_usage_errors(nano_run, run_main, flags, message):
    code, _, err = run_main("serve", nano_run, *flags)
    assert code in (1, 2)
    assert message in " ".join(err.split())


def test_names_of_models_are_distinct(nano_run, run_main):
    code, _, err = run_main("serve", nano_run, nano_run)
    assert code == 2
    assert "NAME=FOLDER" in err


def test_keys_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    from glassgpt.cli.serve import read_api_keys

    file = tmp_path / "keys"
    file.write_text(f"{'a' * 16}\n\n {'b' * 16} \n")
    assert read_api_keys(file) == ("a" * 16, "b" * 16)
    monkeypatch.setenv("GLASSGPT_API_KEY", "c" * 16)
    assert read_api_keys(None) == ("c" * 16,)
