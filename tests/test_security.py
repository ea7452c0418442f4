"""Claims of docs/security.md: each names tests that exist, and those that belong to no other file are here."""

import ast
import asyncio
import http.server
import json
import os
import re
import shutil
import socket
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from glassgpt.cli.command_list import COMMANDS
from glassgpt.config import load_config
from glassgpt.data.download import download
from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import CheckpointError, DataError, UnsafeFileError, UsageError
from glassgpt.interchange.huggingface import DOWNLOADED
from glassgpt.training import checkpoint as ck
from glassgpt.training.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
CLAIMS = re.findall(r"^\| (S\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "src").rglob("*.py"))}


def defined_tests(path: Path) -> set[str]:
    return {
        node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    }


# The page


def test_claims_are_numbered_and_each_names_tests():
    assert [number for number, _, _ in CLAIMS] == [f"S{n}" for n in range(1, len(CLAIMS) + 1)]
    assert len(CLAIMS) == PAGE.count("\n| S")


@pytest.mark.parametrize(("number", "claim", "tests"), CLAIMS, ids=[number for number, _, _ in CLAIMS])
def test_tests_of_a_claim_exist(number, claim, tests):
    names = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert names
    assert tests.count("`") == 2 * len(names)
    for file, name in names:
        assert name.startswith("test_")
        assert name in defined_tests(ROOT / "tests" / file), f"{number}: {file}::{name}"


def test_every_command_is_listed_with_its_claims():
    rows = re.findall(r"^\| `glassgpt ([a-z -]+)` \| .+ \| (.+) \|$", PAGE, re.MULTILINE)
    commands = [command.name for command in COMMANDS]
    assert [name for name, _ in rows] == commands, "add a row to docs/security.md, in this order"
    known = {number for number, _, _ in CLAIMS}
    mentioned = {number for _, claims in rows for number in re.findall(r"S\d+", expanded(claims))}
    assert mentioned <= known
    assert known - mentioned == set(
        re.findall(r"S\d+", expanded(re.search(r"^Every command: (.+)\.$", PAGE, re.MULTILINE)[1]))
    )


def test_korean_page_has_the_same_claims_commands_and_tests():
    korean = (ROOT / "docs" / "security.ko.md").read_text(encoding="utf-8")
    numbers = re.compile(r"^\| (?:S\d+|`glassgpt [a-z -]+`) \||`[\w/]+\.py::\w+`|S\d+", re.MULTILINE)
    pages = [numbers.findall(expanded(page)) for page in (PAGE, korean.replace("~", " to "))]
    assert pages[0] == pages[1], "add the row to docs/security.ko.md, too"


def expanded(claims: str) -> str:
    """Return claims with ranges such as `S3 to S5` written out."""
    return re.sub(r"S(\d+) to S(\d+)", lambda m: " ".join(f"S{n}" for n in range(int(m[1]), int(m[2]) + 1)), claims)


# The source code


RELEVANT = ("weights_only", "shell", "allow_pickle", "trust_remote_code", "local_files_only", "use_safetensors")


def calls(tree):
    """Yield the dotted name of each call and those of its keyword arguments that matter here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), {e.arg: ast.unparse(e.value) for e in node.keywords if e.arg in RELEVANT}


FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__|os\.(system|popen|exec\w+|spawn\w+)|(pickle|cPickle|dill|marshal|shelve|joblib)\.\w+"
    r"|yaml\.\w+|runpy\.\w+|torch\.hub\.\w+|torch\.jit\.load|torch\.package\.\w+)"
)


def dangerous_calls(called) -> list[str]:
    """Return the names of calls that unpickle, evaluate text, start a shell or let another library run remote code."""
    found = []
    for name, keywords in called:
        is_auto = name.startswith("Auto") and name.endswith(".from_pretrained")
        if (
            FORBIDDEN.fullmatch(name)
            or (name == "torch.load" and keywords.get("weights_only") != "True")
            or keywords.get("shell", "False") != "False"
            or keywords.get("allow_pickle", "False") != "False"
            or (is_auto and keywords.get("trust_remote_code") != "False")
            or (is_auto and keywords.get("local_files_only") != "True")
            or (name.startswith("AutoModel") and keywords.get("use_safetensors") != "True")
        ):
            found.append(name)
    return found


def test_source_has_no_call_that_runs_data():
    found = {str(path): [*calls(tree)] for path, tree in SOURCES.items()}
    assert {path: bad for path, called in found.items() if (bad := dangerous_calls(called))} == {
        str(ROOT / "src/glassgpt/code/launcher.py"): ["os.execvp"],  # S48: what the user asked to run, in isolation
        # Over the pipes between a process and those that it has started, never from a file or the network.
        str(ROOT / "src/glassgpt/data/processes.py"): ["pickle.load", "pickle.dumps"],
        str(ROOT / "src/glassgpt/data/process_worker.py"): [
            "pickle.load",
            "pickle.dumps",
            "pickle.loads",
            "pickle.dumps",
        ],
    }
    assert sum(name == "torch.load" for called in found.values() for name, _ in called) == 1


@pytest.mark.parametrize(
    "line",
    ["eval('1')", "pickle.loads(x)", "torch.load(p)", "torch.load(p, weights_only=False)", "subprocess.run(c, shell=True)",
     "np.load(p, allow_pickle=True)", "AutoModel.from_pretrained(f, local_files_only=True, trust_remote_code=False)"],
)  # fmt: skip
def test_check_of_the_source_finds_what_it_forbids(line):
    assert len(dangerous_calls(calls(ast.parse(line)))) == 1


def imported(tree) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_few_files_can_open_connections():
    network = ("socket", "urllib.request", "http.client", "http.server", "ssl", "ftplib", "requests", "httpx", "huggingface_hub", "fsspec",
               "datasets", "uvicorn", "websockets", "asyncio.streams")  # fmt: skip
    package = ROOT / "src" / "glassgpt"
    found = {
        str(path.relative_to(package))
        for path, tree in SOURCES.items()
        if any(name == each or name.startswith(f"{each}.") for name in imported(tree) for each in network)
        and not path.is_relative_to(package / "serving")  # a server; see docs/serving.md
    }
    assert found == {
        "data/blocks/ray_tasks.py", "data/download.py", "data/remote/store.py", "data/sources.py", "interchange/huggingface.py", "inspection/server.py", "inspection/connections.py",
    }  # fmt: skip


def test_few_files_start_programs():
    package = ROOT / "src" / "glassgpt"
    starting = {str(path.relative_to(package)) for path, tree in SOURCES.items() if "subprocess" in imported(tree)}
    assert starting == {
        "code/isolation.py",
        "data/processes.py",
        "data/tokenizers/worker.py",
        "generation/cpu/native.py",
        "sweep/trial_run.py",
    }


# Commands


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_commands_open_no_connection(no_network, nano_run, grammar_data, tmp_path, run_main, monkeypatch):
    """Every command that was not given a name on the network, with a listening socket forbidden too."""
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text("the king said that it was night. " * 200)
    on_cpu = ("--device", "cpu")
    monkeypatch.setitem(sys.modules, "transformers", None)  # slow to import; S2 is about what it may do
    tiny = ("--train.max-steps", 1, "--train.eval-tokens", 64, "--train.device", "cpu", "--model.n-layer", 1)
    for words in (
        ("prepare", text, "--out", tmp_path / "data", "--tokenizer", "bytes"),
        ("tokenize", "abc", "--tokenizer", "bytes"),
        ("train", "nano", "--data", grammar_data, "--out", run, *tiny),
        ("generate", nano_run, "--prompt", "a", "--max-tokens", 2, *on_cpu),
        ("evaluate", nano_run, *on_cpu),
        ("inspect", nano_run, "--prompt", "a", "--text", *on_cpu),
        ("inspect", nano_run, "--prompt", "a", "--save", tmp_path / "page.html", *on_cpu),
        ("doctor", nano_run),
        ("compress", nano_run, "--int8", "--out", tmp_path / "compressed"),
        ("export", nano_run, tmp_path / "exported"),
        ("import", tmp_path / "exported", "--out", tmp_path / "imported"),
        ("model", "nano"), ("config", "list"), ("config", "show", "nano"),
    ):  # fmt: skip
        code, _, err = run_main(*words)
        assert code == 0, (words, err)
        assert "connection was opened" not in err


class Redirects(http.server.BaseHTTPRequestHandler):
    target = ""

    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", self.target)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def redirecting():
    """A server on this machine that redirects everything to `Redirects.target`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["file://", "data:text/plain,"])
def test_server_cannot_redirect_a_download_to_a_local_file(redirecting, scheme, tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(Redirects, "target", f"{scheme}{tmp_path / 'secret.txt'}")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(DataError, match="cannot download"):
        download(f"{redirecting}/book.txt", tmp_path / "scratch", PrepareObserver())
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("path", ["/", "/..", "/a/../..", "/%2e%2e%2fup.txt", "/book.txt"])
def test_download_stays_in_its_folder(path, tmp_path, monkeypatch):
    import io
    import urllib.request

    class Response(io.BytesIO):
        def __init__(self, content):
            super().__init__(content)
            self.headers = {}

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Response(b"text"))
    (tmp_path / "scratch").mkdir()
    saved = download(f"http://host{path}", tmp_path / "scratch", PrepareObserver())
    assert saved.parent == tmp_path / "scratch"
    assert saved.read_bytes() == b"text"
    assert [each.name for each in tmp_path.iterdir()] == ["scratch"]


def test_hub_downloads_hold_no_code_and_no_pickles():
    assert {Path(pattern).suffix for pattern in DOWNLOADED} == {".json", ".txt", ".safetensors", ".jinja"}


def test_scripts_of_hosted_datasets_are_not_run(tmp_path, monkeypatch):
    from glassgpt.data.sources import _hosted_source

    monkeypatch.delenv("HF_DATASETS_TRUST_REMOTE_CODE", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", object())
    _hosted_source("hf:someone/something", None)
    assert os.environ.pop("HF_DATASETS_TRUST_REMOTE_CODE") == "0"


# Files


@pytest.fixture
def copy(nano_run, tmp_path):
    return RunFolder(shutil.copytree(nano_run, tmp_path / "copy"))


def test_tokenizer_and_configuration_of_a_folder_are_not_read_through_links(copy, tmp_path):
    for file, read in ((copy.tokenizer, load_tokenizer), (copy.config, load_config)):
        file.rename(tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
        with pytest.raises(UnsafeFileError, match=f"{file.name} is a symbolic link"):
            read(copy.path)


@pytest.mark.parametrize("name", ["optimizer.pt", "average.safetensors"])
def test_file_that_the_manifest_does_not_list_is_damage(copy, name, tmp_path):
    checkpoint = ck.list_checkpoints(copy)[-1]
    (checkpoint / name).unlink(missing_ok=True)
    (checkpoint / "manifest.json").unlink()
    ck.write_manifest(checkpoint)
    assert ck.find_damage(checkpoint) is None
    (checkpoint / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"damaged: manifest.json does not list {name}"):
        ck.find_checkpoint(copy, checkpoint.name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_umask_decides_who_may_read_what_is_written(tmp_path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private", b"")
        os.umask(0o022)
        write_atomically(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "shared": 0o644}


def test_saved_page_can_neither_load_nor_send_anything(tmp_path, nano_run, run_main):
    file = tmp_path / "page.html"
    code, _, err = run_main("inspect", nano_run, "--prompt", "a", "--save", file, "--device", "cpu")
    assert code == 0, err
    head = file.read_text(encoding="utf-8").partition("<style>")[0]
    assert "default-src 'none'" in re.search(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', head)[1]
    assert "connect-src" not in head


# The page of inspect


def test_page_is_served_on_this_machine_only(monkeypatch):
    pytest.importorskip("uvicorn")
    from glassgpt.inspection import connections, server

    bound, announced = [], []
    monkeypatch.setattr(connections, "run_server", lambda app, listener, seconds: bound.append(listener.getsockname()))
    server.serve(None, announced.append)
    assert bound[0][0] == "127.0.0.1"
    host, key = re.fullmatch(r"http://([\w.:]+)/([\w-]+)/", announced[0]).groups()
    assert host == f"127.0.0.1:{bound[0][1]}"
    assert len(key) >= 32


@pytest.mark.parametrize(
    ("path", "status"), [("/key/", 200), ("/wrong/", 403), ("/key/trace", 400), ("/key/none.js", 404)]
)
def test_every_answer_of_the_page_forbids_what_it_does_not_need(path, status):
    pytest.importorskip("starlette")
    from glassgpt.inspection.server import create_app

    found = {}

    async def receive():
        return {"type": "http.request", "body": b"[]", "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            found["status"] = message["status"]
            found.update({name.decode().lower(): value.decode() for name, value in message["headers"]})

    scope = {
        "type": "http", "method": "POST" if path.endswith("trace") else "GET", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "headers": [(b"host", b"127.0.0.1:1")],
    }  # fmt: skip
    asyncio.run(create_app(SimpleNamespace(trace=None), "key", ("127.0.0.1:1",))(scope, receive, send))
    assert found["status"] == status
    policy = found["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ):
        assert part in policy
    assert (found["referrer-policy"], found["x-content-type-options"], found["cache-control"]) == (
        "no-referrer",
        "nosniff",
        "no-store",
    )


# The server of serve


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_server_without_a_key_is_for_this_machine_only(host):
    pytest.importorskip("uvicorn")
    from glassgpt.serving.run import ServerSettings

    ServerSettings(host=host).check()
    for reachable in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="so it needs keys"):
            ServerSettings(host=reachable).check()
        ServerSettings(host=reachable, api_keys=("k" * 32,)).check()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/models", {"host": "localhost:8000", "authorization": "Bearer right"}, 200),
        (
            "/v1/models",
            {"host": "localhost:8000", "authorization": "Bearer right", "origin": "http://localhost:8000"},
            200,
        ),
        ("/health", {"host": "localhost"}, 200),
        ("/", {"host": "localhost"}, 200),  # the page, which asks for the key
        ("/page/main.js", {"host": "localhost"}, 200),
        ("/page/../metrics", {"host": "localhost"}, 401),
        ("/metrics", {"host": "localhost"}, 401),
        ("/v1/models", {"host": "localhost"}, 401),
        ("/v1/models", {"host": "localhost", "authorization": "Bearer wrong"}, 401),
        ("/v1/models", {"host": "localhost", "authorization": "Basic right"}, 401),
        ("/v1/models", {"host": "evil.example", "authorization": "Bearer right"}, 403),
        ("/health", {"host": "evil.example"}, 403),
        ("/v1/models", {"host": "localhost", "authorization": "Bearer right", "origin": "http://evil.example"}, 403),
        ("/health", {"host": "localhost", "origin": "null"}, 403),
    ],
)
def test_server_refuses_foreign_requests_and_wrong_keys(path, headers, status, monkeypatch):
    from glassgpt.serving import json_codec
    from glassgpt.serving.guards import Guards

    monkeypatch.setattr(json_codec, "encode", lambda body: json.dumps(body).encode())  # it needs an extra
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    guards = Guards(application, SimpleNamespace(rejected=lambda code: None), ("localhost",), ("right", "other"))
    asyncio.run(guards(scope, None, send))
    assert sent[0]["status"] == status
    assert b"content-security-policy" in dict(sent[0]["headers"])
