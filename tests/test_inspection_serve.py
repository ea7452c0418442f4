"""The page's server answers its own page and nobody else; a saved page carries everything and nothing that runs."""

import json
import math
import re
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from glassgpt.errors import GenerationError, InspectionError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import serve as room
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.trace import trace
from test_inspection_trace import BYTES, GPT2, TEXT
from test_model import shaken

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=1>"


@pytest.fixture(scope="module")
def model():
    return shaken(GPT2)


@pytest.fixture(scope="module")
def address(model):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    found = []
    ready = threading.Event()

    def announce(where):
        found.append(where)
        ready.set()

    desk = room.Desk(model, BYTES, TEXT, GenerationOptions())
    threading.Thread(target=room.serve, args=(desk, announce), daemon=True).start()
    assert ready.wait(30)
    return found[0]


def answered(address, path="", body=None, **headers):
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


def test_figures_are_the_models(address, model):
    status, headers, body = answered(address, "trace", {"text": None, "options": {"top_k": 3}})
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    told = json.loads(body)
    assert told["overview"]["text"] == TEXT
    assert len(told["overview"]["next"]["next.top_k"]) == 3
    status, headers, raw = answered(address, f"array?id={told['id']}&name=blocks.1.attention.weights")
    shape = json.loads(headers["X-Shape"])
    expected = trace(model, BYTES, TEXT)["blocks.1.attention.weights"]
    assert np.array_equal(np.frombuffer(raw, "<f4").reshape(shape), expected.numpy())


def test_an_ablation_is_told(address, model):
    change = {"kind": "head", "layer": 1, "head": 1}
    told = json.loads(answered(address, "trace", {"text": TEXT, "interventions": [change]})[2])
    _, _, raw = answered(address, f"array?id={told['id']}&name=logits")
    expected = trace(model, BYTES, TEXT).intervene(ScaleHead(1, 1))["logits"]
    assert np.array_equal(np.frombuffer(raw, "<f4"), expected.flatten().numpy())
    assert max(told["overview"]["divergence"]) > 0


@pytest.mark.parametrize("name", ["", "page.css", *room.MODULES])
def test_the_pages_files(address, name):
    status, headers, body = answered(address, name)
    assert status == 200
    assert body.decode() == room.page_file(name or "index.html")
    assert headers["Content-Type"].startswith(("text/html", "text/css", "text/javascript"))


def test_nobody_else_is_answered(address):
    assert answered(address, Host="evil.example")[0] == 403
    assert answered(address, Origin="http://evil.example")[0] == 403
    assert answered(address, "trace", {"text": "a"}, Origin="null")[0] == 403
    assert answered(address, Origin=re.match(r"http://[^/]+", address)[0])[0] == 200
    root = re.match(r"http://[^/]+/", address)[0]
    for path in ("", "wrong/", "wrong/page.js", "wrong/array?id=1&name=logits"):
        assert answered(root, path)[0] in (403, 404)
    for path in ("../pyproject.toml", "%2e%2e/serve.py", "..%2fserve.py", "nothing.js"):
        assert answered(address, path)[0] in (403, 404)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "a" * 49}, "context"),
        ({"text": "a" * 900_000}, "at most 100,000"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"text": 3}, "has a text"),
        ([], "JSON object"),
        (b"{", "JSON object"),
        (b"[" * 100_000, "JSON object"),
        ({"text": "a", "options": []}, "JSON object"),
        ({"text": "a", "options": {"top_k": "3"}}, "'top_k' cannot be set here"),
        ({"text": "a", "options": {"regex": "x"}}, "'regex' cannot be set here"),
        ({"text": "a", "options": {"top_p": 7}}, "top_p is 7"),
        ({"text": "a", "options": {"top_k": math.nan}}, "'top_k' cannot be set here"),
        ({"text": "a", "options": {"top_k": 10**400}}, "'top_k' cannot be set here"),
        ({"text": "a", "interventions": [3]}, "list of interventions"),
        ({"text": "a", "interventions": [{"kind": "head", "layer": 9, "head": 0}]}, "no block 9"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_answered_is_said(address, question, message):
    status, _, body = answered(address, "trace", question)
    assert status == 400
    assert message in json.loads(body)["error"]


def test_an_old_view_is_forgotten(model):
    desk = room.Desk(model, BYTES, TEXT, GenerationOptions())
    first = desk.ask({"text": "a"})["id"]
    assert desk.array(first, "logits")[1] == (1, 257)
    for _ in range(2 * room.TRACES_KEPT):
        desk.ask({"text": "a"})
    with pytest.raises(InspectionError, match="too old"):
        desk.array(first, "logits")
    with pytest.raises(GenerationError, match="top_k"):
        desk.ask({"text": "a", "options": {"top_k": -1}})


def test_a_saved_page_carries_the_figures(model, tmp_path):
    import base64

    traced = trace(model, BYTES, HOSTILE[:40])
    room.save_page(traced, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    held = re.search(r'<script type="application/json" id="saved">(.*?)</script>', page, re.DOTALL)[1]
    assert "<" not in held
    told = json.loads(held)
    assert told["overview"]["text"] == traced.text
    kept = told["arrays"]["blocks.2.attention.weights"]
    values = np.frombuffer(base64.b64decode(kept["values"]), "<f4").reshape(kept["shape"])
    assert np.array_equal(values, traced["blocks.2.attention.weights"].numpy())
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "import " not in page.split('<script type="module">')[1].split("\n", 3)[0]


def test_a_page_that_would_be_too_large_is_not_saved(model, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MOST_SAVED", 100)
    with pytest.raises(InspectionError, match="give a shorter text"):
        room.save_page(trace(model, BYTES, TEXT), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_folder_that_is_not_there_is_said(model, tmp_path):
    with pytest.raises(InspectionError, match="cannot be written .*--save"):
        room.save_page(trace(model, BYTES, "a"), tmp_path / "nowhere" / "page.html")


def test_a_taken_port_is_said(model, address):
    port = int(re.search(r":(\d+)/", address)[1])
    with pytest.raises(InspectionError, match="choose another with --port"):
        room.serve(room.Desk(model, BYTES, TEXT, GenerationOptions()), print, port)
