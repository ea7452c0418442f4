"""The HTTP server of the page and the exported page: data, refused requests, and safety."""

import json
import math
import re
import shutil
import signal
import socket
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from inspection_helpers import BYTES, GPT2, TEXT
from page_helpers import serve as serve_in_thread

import glassgpt
from forked import ForkedCommand
from glassgpt.cli.inspection import serve_page
from glassgpt.errors import InspectionError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import page_files, server, static_page
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.service import (
    ADJUSTABLE_OPTIONS,
    CACHED_TRACES,
    ExpiredTraceError,
    InspectionService,
    LoadedRun,
)
from glassgpt.inspection.trace import trace
from glassgpt.training.run_folder import RunFolder
from small_models import shaken

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=1>"


@pytest.fixture(scope="module")
def model():
    return shaken(GPT2)


def service_for(model):
    return InspectionService([LoadedRun("shaken", model, BYTES)], TEXT, GenerationOptions(top_k=3))


@pytest.fixture(scope="module")
def address(model):
    return serve_in_thread(service_for(model))


def fetch(address, path="", body=None, **headers):
    """Status, headers and body."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        address + path, data, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_responses_contain_the_values_of_the_trace(address, model):
    status, headers, body = fetch(address, "trace", {"text": None})
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    result = json.loads(body)
    assert result["overview"]["text"] == TEXT
    assert result["overview"]["options"]["top_k"] == 3
    status, headers, raw = fetch(address, f"array?id={result['id']}&name=blocks.1.attention.weights")
    shape = json.loads(headers["X-Shape"])
    expected = trace(model, BYTES, TEXT)["blocks.1.attention.weights"]
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(shape), expected.numpy())
    status, headers, raw = fetch(address, f"array?id={result['id']}&name=blocks.1.attention.weights&index=2,7")
    assert np.array_equal(np.frombuffer(raw, "<f4"), expected[2, 7].numpy())
    choice = json.loads(fetch(address, "detail", {"id": result["id"], "what": "choice", "options": {"top_k": 2}})[2])
    assert choice["possible"][choice["stages"].index("top_k")] == 2


def test_trace_with_an_ablation(address, model):
    change = {"kind": "head", "layer": 1, "head": 1}
    result = json.loads(fetch(address, "trace", {"text": TEXT, "interventions": [change]})[2])
    _, _, raw = fetch(address, f"array?id={result['id']}&name=logits")
    expected = trace(model, BYTES, TEXT).intervene(ScaleHead(1, 1))["logits"]
    assert np.array_equal(np.frombuffer(raw, "<f4"), expected.flatten().numpy())
    losses = json.loads(fetch(address, "detail", {"id": result["id"], "what": "losses"})[2])
    assert max(losses["divergence"]) > 0


@pytest.mark.parametrize("name", ["", "page.css", *page_files.PAGE_MODULES])
def test_files_of_the_page_are_served(address, name):
    status, headers, body = fetch(address, name)
    assert status == 200
    assert body.decode() == page_files.read_page_file(name or "index.html")
    assert headers["Content-Type"].startswith(("text/html", "text/css", "text/javascript"))


def test_modules_import_earlier_modules_and_use_every_import():
    """`page_files` relies on this when it joins the modules."""
    folder = resources.files("glassgpt.inspection") / "page"
    assert sorted(page_files.PAGE_MODULES) == sorted(
        file.name for file in folder.iterdir() if file.name.endswith(".js")
    )
    exported = {}
    for name in page_files.PAGE_MODULES:
        code = page_files.read_page_file(name)
        imports = re.findall(r'^import \{ (.*) \} from "\./(.*)";$', code, re.MULTILINE)
        assert len(imports) == code.count("import ")
        for names, module in imports:
            for each in names.split(", "):
                assert each in exported[module], (name, each)
                assert len(re.findall(rf"\b{each}\b", code)) > 1, (name, each)
        exported[name] = re.findall(r"^export (?:async )?(?:function|const|class) (\w+)", code, re.MULTILINE)
        assert len(exported[name]) == code.count("export ")


def test_foreign_hosts_origins_and_keys_are_refused(address):
    assert fetch(address, Host="evil.example")[0] == 403
    assert fetch(address, Origin="http://evil.example")[0] == 403
    assert fetch(address, "trace", {"text": "a"}, Origin="null")[0] == 403
    assert fetch(address, Origin=re.match(r"http://[^/]+", address)[0])[0] == 200
    root = re.match(r"http://[^/]+/", address)[0]
    for path in ("", "wrong/", "wrong/page.js", "wrong/array?id=1&name=logits"):
        assert fetch(root, path)[0] in (403, 404)
    for path in ("../pyproject.toml", "%2e%2e/serve.py", "..%2fserve.py", "nothing.js"):
        assert fetch(address, path)[0] in (403, 404)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "a" * 49}, "context"),
        ({"text": "a" * 900_000}, "at most 100,000"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"text": 3}, "text must be a string"),
        ([], "JSON object"),
        (b"{", "JSON object"),
        (b"[" * 100_000, "JSON object"),
        ({"text": "a", "options": {}}, "unknown field 'options'"),
        ({"text": "a", "written": [257]}, "257"),
        ({"text": "a", "written": ["b"]}, "list of token ids"),
        ({"text": "a", "written": [1] * 48}, "49 tokens"),
        ({"text": "a", "run": 1}, "run must be from 0 to 0, not 1"),
        ({"text": "a", "run": [1] * 100_000}, "not [1, 1, 1, 1, 1, 1, ...]"),
        ({"x" * 100_000: 1}, "unknown field 'xxx"),
        ({"text": "a", "step": 3}, "no checkpoints"),
        ({"text": "a", "step": True}, "step an integer"),
        ({"text": "a", "written": [10**30]}, "outside the vocabulary"),
        ({"text": "a", "interventions": [{"kind": "head", "layer": 0, "head": [[[]]]}]}, "head (int)"),
        ({"text": "a", "interventions": [3]}, "interventions a list"),
        ({"text": "a", "interventions": [{"kind": "head", "layer": 9, "head": 0}]}, "no block 9"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_trace_request_gets_an_error(address, body, message):
    status, _, response = fetch(address, "trace", body)
    assert status == 400
    assert message in json.loads(response)["error"]
    assert len(response) < 1000
    assert_korean(*fetch(address, "trace", body, Accept_Language="ko"), 400)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"options": []}, "JSON object"),
        ({"options": {"top_k": "3"}}, "'top_k' cannot be set here"),
        ({"options": {"regex": "x"}}, "'regex' cannot be set here"),
        ({"options": {"top_p": 7}}, "top_p is 7"),
        ({"options": {"top_k": math.nan}}, "'top_k' cannot be set here"),
        ({"options": {"top_k": 10**400}}, "'top_k' cannot be set here"),
        ({"what": "weather"}, "must be one of sizes, components"),
        ({"what": None}, "needs a what"),
        ({"what": "lens"}, "lens takes depth, first, not no arguments"),
        ({"what": "lens", "arguments": {"depth": 4, "first": 0}}, "from 0 to 3"),
        ({"what": "lens", "arguments": {"depth": True, "first": 0}}, "from 0 to 3"),
        ({"what": "sample", "arguments": {"seed": -1}}, "takes a seed"),
        ({"what": "change"}, "no interventions"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_detail_request_gets_an_error(address, asked, message):
    key = json.loads(fetch(address, "trace", {})[2])["id"]
    status, _, body = fetch(address, "detail", {"id": key, "what": "choice", **asked})
    assert status == 400
    assert message in json.loads(body)["error"]
    assert_korean(*fetch(address, "detail", {"id": key, "what": "choice", **asked}, Accept_Language="ko"), 400)


@pytest.mark.parametrize("query", ["&index=1;2", "&index=99", "&index=0,0,0,0", "&name=nothing"])
def test_invalid_array_request_gets_an_error_in_either_language(address, query):
    key = json.loads(fetch(address, "trace", {})[2])["id"]
    path = f"array?id={key}&name=logits{query}"
    status, _, body = fetch(address, path)
    assert status == 400
    assert re.search("[a-z]{3} [a-z]", json.loads(body)["error"])
    assert_korean(*fetch(address, path, Accept_Language="ko-KR,ko;q=0.9"), 400)


def assert_korean(status, headers, body, expected):
    """Assert that a request was refused in Korean, with at most names and values in Latin letters."""
    assert status == expected
    error = json.loads(body)["error"]
    assert re.search("[가-힣]", error), error
    assert not re.search("[a-z]{3,} [a-z]{2,} [a-z]{2,} [a-z]", error), error


def test_missing_pages_are_answered_in_the_language_of_the_browser(address):
    root = re.match(r"http://[^/]+/", address)[0]
    for where, path, status in (
        (address, "x.js", 404),
        (root, "wrong/", 403),
        (root, "", 404),
        (address, "trace", 404),
    ):
        for language, said in (("en", "there is nothing at this address"), ("ko", "이 주소에는 아무것도 없습니다")):
            found, headers, body = fetch(where, path, Accept_Language=language)
            assert (found, body.decode().startswith(said)) == (status, True), (path, found, body)
            assert headers["X-Content-Type-Options"] == "nosniff"


def test_checkpoint_of_a_run_that_is_gone_is_refused_in_either_language(nano_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(nano_run, folder, symlinks=True)
    loaded = glassgpt.load(folder, device="cpu")
    service = InspectionService(
        [LoadedRun("nano", loaded.model, loaded.tokenizer, RunFolder(folder))], "the king", GenerationOptions()
    )
    where = serve_in_thread(service)
    shutil.rmtree(folder)
    status, _, body = fetch(where, "trace", {"step": 1})
    assert status == 400
    assert "step-000001" in json.loads(body)["error"]
    assert_korean(*fetch(where, "trace", {"step": 1}, Accept_Language="ko"), 400)
    assert fetch(where, "trace", {})[0] == 200  # the loaded model is still there


def test_expired_trace_is_reported(model, address):
    service = service_for(model)
    first = service.trace({"text": "a"})["id"]
    assert service.tensor_bytes(first, "logits")[1] == (1, 257)
    for other in range(CACHED_TRACES):
        service.trace({"text": "b" * (other + 1)})
    with pytest.raises(ExpiredTraceError, match="no longer in memory"):
        service.tensor_bytes(first, "logits")
    assert service.trace({"text": "a"})["id"] == first  # the id is valid again after the trace is requested again
    assert fetch(address, "array?id=x&name=logits")[0] == 410
    assert fetch(address, "array?id=x&name=logits&index=1;2")[0] == 400


def test_static_page_contains_the_data(model, tmp_path):
    import base64

    traced = trace(model, BYTES, HOSTILE[:40])
    static_page.save_page(traced, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    held = re.search(r'<script type="application/json" id="saved">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in held
    result = json.loads(held)
    assert result["overview"]["text"] == traced.text
    kept = result["arrays"]["blocks.2.attention.weights"]
    values = np.frombuffer(base64.b64decode(kept["values"]), "<f4").reshape(kept["shape"])
    assert np.array_equal(values, traced["blocks.2.attention.weights"].numpy())
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"^(import|export) ", page, re.MULTILINE)
    assert result["left_out"] == {"en": [], "ko": []}
    assert result["details"]["lens/2/0"]["likeliest"]


def test_too_large_static_page_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(static_page, "MAX_SAVED_VALUES", 100)
    with pytest.raises(InspectionError, match="use a shorter text"):
        static_page.save_page(trace(model, BYTES, TEXT), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_static_page_lists_what_is_left_out(model, tmp_path, monkeypatch):
    traced = trace(model, BYTES, TEXT, GenerationOptions(top_k=3))
    attention = (9 + 3) * len(traced) ** 2  # of nine heads, and three masks
    monkeypatch.setattr(static_page, "MAX_SAVED_VALUES", attention + 3 * len(traced) * 24)
    static_page.save_page(traced, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    held = json.loads(re.search(r'id="saved">(.*?)</script>', page, re.DOTALL)[1])
    assert held["left_out"]["en"] == [", ".join(group) for group in static_page.GROUPS[1:]]
    assert "embedding.token" in held["arrays"]
    assert held["overview"]["options"]["top_k"] == 3
    assert held["overview"]["written"] == 0


def test_missing_folder_is_an_error(model, tmp_path):
    with pytest.raises(InspectionError, match="cannot be written .*--save"):
        static_page.save_page(trace(model, BYTES, "a"), tmp_path / "nowhere" / "page.html")


def test_port_in_use_is_an_error(model, address):
    port = int(re.search(r":(\d+)/", address)[1])
    with pytest.raises(InspectionError, match="choose another with --port"):
        server.serve(service_for(model), print, port)


class FakeBrowser:
    """A browser that opens, or fails to."""

    def __init__(self, opens):
        self.opens, self.opened = opens, []

    def open(self, address):
        file = Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path))
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)]
        self.opened.append((address, modes, file.read_text(encoding="utf-8")))
        return self.opens


@pytest.mark.parametrize(
    ("found", "is_said"),
    [(FakeBrowser(True), False), (FakeBrowser(False), True), (webbrowser.GenericBrowser("true"), True), (None, True)],
)
def test_address_is_printed_without_a_browser(model, monkeypatch, capsys, found, is_said):
    def get():
        if found is None:
            raise webbrowser.Error("could not locate runnable browser")
        return found

    monkeypatch.setattr(webbrowser, "get", get)
    monkeypatch.setattr(server, "serve", lambda service, announce, port: announce(f"http://127.0.0.1:{port}/key/"))
    serve_page(service_for(model), port=4321)
    said = " ".join(capsys.readouterr().err.split())
    assert "page served at http://127.0.0.1:4321/key/" in said
    assert ("ssh -L 4321:127.0.0.1:4321 HOST" in said) == is_said
    if isinstance(found, FakeBrowser):
        ((address, modes, page),) = found.opened
        assert address.startswith("file:///")
        assert "key" not in address  # every user can read the browser's command line
        assert modes == [0o600, 0o700]
        assert 'content="0; url=http://127.0.0.1:4321/key/"' in page
        assert not Path(urllib.request.url2pathname(urllib.parse.urlsplit(address).path)).exists()


def test_command_serves_two_runs(nano_run):
    pytest.importorskip("uvicorn")
    arguments = ("--compare", nano_run, "--no-browser", "--prompt", "the king")
    process = ForkedCommand("inspect", nano_run, *arguments, environment={"COLUMNS": "300"})
    try:
        address = process.wait_for("stderr", r"http://127\S+/\S+/")[0]
        result = json.loads(fetch(address, "trace", {"run": 1})[2])["overview"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert result["text"] == "the king"
    assert result["runs"] == [str(nano_run)] * 2
    assert len(result["steps"]) >= 2


EXTREMES = (5e-324, 1e-320, 1e-38, 1e-37, 1e-30, 1e30, 1e38, 1e300)


@pytest.mark.parametrize("name", ADJUSTABLE_OPTIONS)
def test_extreme_options_get_an_answer_or_an_error(address, name):
    key = json.loads(fetch(address, "trace", {})[2])["id"]
    for value in EXTREMES:
        for what, arguments in (("choice", {}), ("sample", {"seed": 0})):
            asked = {"id": key, "what": what, "arguments": arguments, "options": {name: value}}
            status, _, body = fetch(address, "detail", asked)
            assert status in (200, 400), (what, value)
            json.loads(body, parse_constant=pytest.fail)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /x HTTP/1.1\r\nHost: x\r\n\r\nGET /"])
def test_half_open_connection_is_closed(address_with_short_deadline, sent):
    with socket.create_connection(address_with_short_deadline, timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while part := _receive(connection):
            received += part
    assert received.count(b"HTTP/1.1") == (1 if b"Host" in sent else 0)


def _receive(connection):
    try:
        return connection.recv(4096)
    except ConnectionResetError:  # also closed
        return b""


def test_half_sent_body_is_answered(address_with_short_deadline, monkeypatch):
    host, port = address_with_short_deadline
    with socket.create_connection((host, port), timeout=10) as connection:
        head = f"POST {address_with_short_deadline.path}trace HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9\r\n\r\n{{"
        connection.sendall(head.encode())
        received = b""
        while b"not complete after 0.3 seconds" not in received:
            received += connection.recv(4096)
            assert received.startswith(b"HTTP/1.1 400")


class Address(tuple):
    """Host and port of a server, and the path of its page."""

    path: str


@pytest.fixture
def address_with_short_deadline(model, monkeypatch):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    found, ready = [], threading.Event()
    threading.Thread(
        target=server.serve, args=(service_for(model), lambda at: (found.append(at), ready.set())), daemon=True
    ).start()
    assert ready.wait(30)
    parts = urllib.parse.urlsplit(found[0])
    where = Address((parts.hostname, parts.port))
    where.path = parts.path
    return where


SERVER = """
import resource, signal, sys, torch
from inspection_helpers import BYTES, GPT2, TEXT
from glassgpt import console
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import server
from glassgpt.inspection.service import InspectionService, LoadedRun
from small_models import shaken
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
console.show_logged_warnings()
service = InspectionService([LoadedRun("shaken", shaken(GPT2), BYTES)], TEXT, GenerationOptions())
service.trace({})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
server.REQUEST_SECONDS = 60
try:
    server.serve(service, lambda address: print(address, flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_too_many_connections_and_ctrl_c_in_the_middle_of_a_request(tmp_path):
    """In a separate process: it limits its file descriptors and is interrupted."""
    pytest.importorskip("uvicorn")
    (tmp_path / "server.py").write_text(SERVER)
    process = ForkedCommand(script=tmp_path / "server.py")
    try:
        address = process.wait_for("stdout", r"(http://\S+)\n")[1]
        parts = urllib.parse.urlsplit(address)
        clients = [socket.create_connection((parts.hostname, parts.port), timeout=10) for _ in range(90)]
        assert fetch(address)[0] == 200  # the idle connections were closed
        half_sent = socket.create_connection((parts.hostname, parts.port), timeout=10)
        half_sent.sendall(
            f"POST {parts.path}trace HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 99\r\n\r\n".encode()
        )
        time.sleep(0.2)  # until the server has begun to read the body
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    for client in (*clients, half_sent):
        client.close()
    assert out.splitlines() == [address, "interrupted"], err[:3000]
    assert err.count("too many open connections") == 1, err[:3000]
    assert err.count("\n") == 1, err[:3000]
