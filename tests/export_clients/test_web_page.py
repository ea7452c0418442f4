"""The exported page in Chromium, and exported tokenizers in JavaScript; `make test-export` installs transformers.js."""

import functools
import http.server
import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from glassgpt import api
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.data.tokenizers.bpe import PATTERNS
from glassgpt.interchange.check_prompts import PROMPTS
from glassgpt.interchange.formats.web import FILES, library_folder
from glassgpt.interchange.tokenizer_files import write_tokenizer_files
from small_models import LLAMA, attentive_model

NODE_MODULES = Path(__file__).parents[2] / ".venv-export" / "node_modules"
if not library_folder(NODE_MODULES):
    pytest.skip("runs in make test-export", allow_module_level=True)
pytestmark = pytest.mark.slow
MODERN = {"arch": "modern", "bias": False, "n_head": 4, "n_kv_head": 2, "window": 8, "n_embd": 48}
PRUNED = {"arch": "gpt2", "n_head": 2, "head_dim": 10}
CORPUS = [
    "It's 1,234.5 o'clock; I'LL see.\n\nnaïve café 한국어 문장 語彙   blanks\t\ttabs\r\n \U0001f600 x = [1, 22, 333]\n"
    * 20
]


@pytest.fixture
def serve():
    """Serve folders on this computer, and record every path that is requested; `stop(address)` ends a server."""
    servers = {}

    def start(folder):
        paths = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                paths.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        servers[address] = server
        return address, paths

    def stop(address):
        server = servers.pop(address)
        server.shutdown()
        server.server_close()

    start.stop = stop
    yield start
    for address in list(servers):
        stop(address)


def opened(open_page, address):
    """Open an exported page and wait until its model is loaded; return it and what it requests."""
    page = open_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector("main[aria-busy=false]", timeout=120_000)
    return page, requests


def generated(page, prompt, **settings):
    """Generate with a page and return the text without the prompt."""
    page.locator("details").evaluate("element => element.open = true")
    page.fill("#prompt", prompt)
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))
    page.click("#start")
    page.wait_for_selector("main[aria-busy=false]", timeout=120_000)
    return page.evaluate("document.getElementById('text').lastChild.data")


@pytest.mark.parametrize("weights", ["float32", "int8", "int4"])
def test_page_generates_the_text_that_python_does_and_requests_nothing_else(
    nano_run, tmp_path, open_page, serve, weights
):
    api.export(nano_run, tmp_path / "page", format="web", weights=weights, library=NODE_MODULES, check=True)
    address, paths = serve(tmp_path / "page")
    page, requests = opened(open_page, address)
    python = api.load(nano_run, device="cpu", precision="float32")
    found = generated(page, "The cat", max_new_tokens=40, temperature=0)
    expected = python.generate("The cat", max_tokens=40, temperature=0)
    if weights == "float32":
        assert found == expected
    else:
        assert found[:4] == expected[:4]
        assert page.evaluate("document.getElementById('status').textContent").startswith("40 ")
    assert [path.name for path in (tmp_path / "page" / "model" / "onnx").iterdir()] == [FILES[weights]]
    assert all(url.startswith((address, "data:", "blob:")) for url in requests)
    assert not [path for path in paths if "code 404" in path]
    files = {
        path.relative_to(tmp_path / "page").as_posix() for path in (tmp_path / "page").rglob("*") if path.is_file()
    }
    assert {each.split("?")[0].lstrip("/") or "index.html" for each in paths} <= files


@pytest.mark.parametrize("shape", [MODERN, LLAMA | {"tied_head": False}, PRUNED], ids=lambda shape: shape["arch"])
def test_other_architectures_run_in_the_page(shape, tmp_path, open_page, serve):
    model, tokenizer = attentive_model(**shape), load_tokenizer("bytes")
    # Only letters have large logits, so that every token is a character.
    head = getattr(model, "lm_head", model.token_embedding)
    head.weight.data[:97] *= 0.01
    head.weight.data[123:] *= 0.01
    api.save_as_run(model, tokenizer, tmp_path / "run")
    api.export(tmp_path / "run", tmp_path / "page", format="web", library=NODE_MODULES)
    address, _ = serve(tmp_path / "page")
    page, _ = opened(open_page, address)
    expected = api.load(tmp_path / "run", device="cpu", precision="float32").generate(
        "abc", max_tokens=20, temperature=0
    )
    assert generated(page, "abc", max_new_tokens=20, temperature=0) == expected


def test_page_streams_and_applies_settings(nano_run, tmp_path, open_page, serve):
    api.export(nano_run, tmp_path / "page", format="web", library=NODE_MODULES)
    address, _ = serve(tmp_path / "page")
    page, _ = opened(open_page, address)
    page.evaluate(
        """() => {
            window.sizes = new Set();
            new MutationObserver(() => window.sizes.add(document.getElementById("text").textContent.length))
                .observe(document.getElementById("text"), { characterData: true, subtree: true });
        }"""
    )
    assert len(generated(page, "", max_new_tokens=30, temperature=0.7, top_k=5)) > 10
    assert len(page.evaluate("[...window.sizes]")) > 3
    assert "30 " in page.inner_text("#status")
    assert generated(page, "The", max_new_tokens=20, temperature=1, top_k=1) == generated(page, "The", temperature=0)


@pytest.fixture(scope="module")
def long_page(tmp_path_factory):
    """The folder of a page whose model can write some thousand tokens."""
    folder = tmp_path_factory.mktemp("long")
    model = attentive_model(context_length=4096)
    api.save_as_run(model, load_tokenizer("bytes"), folder / "run")
    api.export(folder / "run", folder / "page", format="web", library=NODE_MODULES)
    return folder / "page"


def test_page_stops_when_it_is_asked_to_and_writes_again(long_page, open_page, serve):
    address, _ = serve(long_page)
    page, _ = opened(open_page, address)
    page.locator("details").evaluate("element => element.open = true")
    page.fill("#prompt", "abc")
    page.fill("#max_new_tokens", "4000")
    page.click("#start")
    ends = time.monotonic() + 60
    while not (count := page.inner_text("#status").split()[0]).isdigit() or int(count) <= 10:
        assert time.monotonic() < ends
        page.wait_for_timeout(20)
    page.click("#stop")
    page.wait_for_selector("main[aria-busy=false]", timeout=10_000)
    assert 10 < int(page.inner_text("#status").split()[0]) < 2000
    assert len(generated(page, "abc", max_new_tokens=5, temperature=0)) > 0
    assert page.inner_text("#status").startswith("5 ")


@pytest.mark.parametrize("name", ["", "index.html", "?from=elsewhere"])
def test_page_opens_and_writes_without_a_network_once_it_was_open(name, nano_run, tmp_path, open_page, serve):
    api.export(nano_run, tmp_path / "page", format="web", library=NODE_MODULES)
    address, _ = serve(tmp_path / "page")
    page, _ = opened(open_page, address + name)
    assert "without a network" in page.inner_text("#status")
    expected = generated(page, "The cat", max_new_tokens=20, temperature=0)
    serve.stop(address)
    page.reload()
    page.wait_for_selector("main[aria-busy=false]", timeout=120_000)
    assert generated(page, "The cat", max_new_tokens=20, temperature=0) == expected


@pytest.mark.parametrize("below", ["", "models/mine/"], ids=["root", "folder"])
def test_page_keeps_its_own_files_and_leaves_the_rest_of_the_host_alone(below, nano_run, tmp_path, open_page, serve):
    site = tmp_path / "site"
    (site / below).parent.mkdir(parents=True, exist_ok=True)
    api.export(nano_run, site / below, format="web", library=NODE_MODULES)
    for folder in (site, site / below):
        (folder / "other.json").write_text('"first"')
    address, _ = serve(site)
    page, _ = opened(open_page, address + below)
    assert "without a network" in page.inner_text("#status")
    read = "name => fetch(name).then((response) => response.json())"
    assert [page.evaluate(read, name) for name in ("other.json", "/other.json")] == ["first", "first"]
    kept = page.evaluate(
        """async () => (await Promise.all((await caches.keys()).map(async (name) =>
            (await (await caches.open(name)).keys()).map((request) => request.url)))).flat()"""
    )
    files = {path.relative_to(site / below).as_posix() for path in (site / below).rglob("*") if path.is_file()} - {
        "other.json"
    }
    assert {url.removeprefix(address + below).split("?")[0] or "index.html" for url in kept} <= files
    assert len(kept) > 8
    expected = generated(page, "The cat", max_new_tokens=10, temperature=0)
    serve.stop(address)
    page.reload()
    page.wait_for_selector("main[aria-busy=false]", timeout=120_000)
    assert generated(page, "The cat", max_new_tokens=10, temperature=0) == expected


def test_page_does_not_promise_copies_that_could_not_be_kept(nano_run, tmp_path, open_page, serve):
    api.export(nano_run, tmp_path / "page", format="web", library=NODE_MODULES)
    worker = tmp_path / "page" / "offline.js"
    full = "Cache.prototype.put = () => Promise.reject(new Error('no space left'));\n"
    worker.write_text(full + worker.read_text(encoding="utf-8"), encoding="utf-8")
    address, _ = serve(tmp_path / "page")
    page, _ = opened(open_page, address)
    page.wait_for_function("document.getElementById('status').textContent === 'Ready.'", timeout=10_000)


def test_page_shows_a_new_model_as_soon_as_the_host_has_it(nano_run, tmp_path, open_page, serve):
    api.export(nano_run, tmp_path / "page", format="web", library=NODE_MODULES)
    address, _ = serve(tmp_path / "page")
    page, _ = opened(open_page, address)
    settings = json.loads((tmp_path / "page" / "page.json").read_text())
    (tmp_path / "page" / "page.json").write_text(json.dumps(settings | {"name": "another model"}))
    page.reload()
    page.wait_for_selector("main[aria-busy=false]", timeout=120_000)
    assert page.inner_text("#name") == "another model"


JAVASCRIPT = """
import { Tokenizer } from "@huggingface/tokenizers";
import fs from "node:fs";
const [folder, texts] = process.argv.slice(2);
const read = (name) => JSON.parse(fs.readFileSync(name, "utf-8"));
const tokenizer = new Tokenizer(read(`${folder}/tokenizer.json`), read(`${folder}/tokenizer_config.json`));
console.log(JSON.stringify(read(texts).map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids)));
"""


@pytest.mark.parametrize("name", ["bytes", "gpt2", *PATTERNS])
def test_tokenizer_gives_the_same_ids_in_javascript(name, tmp_path):
    tokenizer = (
        train_tokenizer("bpe:600", CORPUS, name) if name in PATTERNS and name != "gpt2" else load_tokenizer(name)
    )
    write_tokenizer_files(tokenizer, 64, tmp_path)
    texts = [*PROMPTS, *CORPUS, "it'\u017f we'Ll ٣٤٥ １２３４ \u3000x\u2028 \n \n", "   ", "a  \n"]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = NODE_MODULES.resolve().parent / "ids.mjs"  # node resolves packages from where the script is
    script.write_text(JAVASCRIPT)
    done = subprocess.run(["node", script, tmp_path, tmp_path / "texts.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text, ids in zip(texts, json.loads(done.stdout), strict=True):
        assert ids == tokenizer.encode(text), text
