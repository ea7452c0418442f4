"""The server's pages in a browser: playground and dashboard."""

import json
import math
import re
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from live_server import live_server
from serving_helpers import run_with

from answer_helpers import WordIndex
from glassgpt.serving.document_answers import Documents
from glassgpt.serving.pages import PAGE_FILES, read_page
from pages import check_help_and_theme_keys, controls, listened
from small_models import attentive_model

KEY = "a key of many characters"
PROMPT = "the cat"
HOSTILE = "<img src=x onerror=hurt=1>\u202eא\U0001f469"
SETTINGS = {"max_tokens": 12, "truncate": True, "seed": 5}


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture(scope="module")
def address(model):
    with live_server(model, names=("tiny", "other")) as address:
        yield address


@pytest.fixture
def page(open_page):
    """A page in English, at a telephone's width, that requests nothing from elsewhere."""
    page, asked = open_page(locale="en-US", viewport={"width": 390, "height": 800}), []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert all(url.startswith(("http://127.0.0.1", "data:")) for url in asked), asked


def post(address, path, body):
    request = urllib.request.Request(
        f"{address}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def completion(address, **settings):
    return post(address, "v1/completions", {"prompt": PROMPT, **SETTINGS, "logprobs": 5, **settings})["choices"][0]


def open_at(page, address, **state):
    """Open the page with a state in its address."""
    page.goto("about:blank")
    page.goto(f"{address}/#{'&'.join(f'{name}={quote(json.dumps(value))}' for name, value in state.items())}")


def panes(first, second=None):
    models = ("tiny", "other")
    return [{"model": name, "settings": each or {}} for name, each in zip(models, (first, second), strict=True)]


def finished(page, at=0):
    """Wait for the answer in a pane, and return its text, prompt included."""
    pane = page.locator(f"#pane-{at}-body")
    pane.locator(".note", has_text="seed").last.wait_for()
    return pane.locator(".said").last.text_content()


@pytest.mark.parametrize("language", ["en", "ko"])
def test_controls_have_names_and_an_answer_is_announced(page, address, language):
    open_at(page, address, language=language, prompt=PROMPT, panes=panes({"max_tokens": 5}))
    page.locator("#send").click()
    page.locator("#status", has_text=":").wait_for(state="attached")
    said = page.locator("#pane-0-body .generated").all_text_contents()
    assert page.locator("#status").text_content() == f"{ {'en': 'Answer', 'ko': '답'}[language] }: {''.join(said)}"
    page.locator("#pane-0-settings").evaluate(
        "settings => settings.querySelectorAll('details').forEach(each => { each.open = true; })"
    )
    page.locator("#pane-0-settings > summary").click()
    found = controls(page)
    assert ("spinbutton", "top_k") in found
    assert [each for each in found if not each[1] or "undefined" in each[1]] == []


def test_page_files_need_no_key_but_everything_else_does(model):
    async def ask(client):
        for path, (_, media_type) in PAGE_FILES.items():
            reply = await client.get(path)
            assert (reply.status, reply.headers["content-type"]) == (200, media_type)
            assert "script-src 'self'" in reply.headers["content-security-policy"]
        assert (await client.get("/page/none.js")).status == 401
        assert (await client.get("/v1/models")).status == 401
        assert (await client.get("/page/none.js", headers={"authorization": f"Bearer {KEY}"})).status == 404

    run_with(model, ask, api_keys=(KEY,))


def test_modules_import_only_what_is_served_and_nothing_is_loaded_from_elsewhere():
    for path in PAGE_FILES:
        text = read_page(path).decode()
        assert "//" not in re.sub(
            r'^\s*//.*|"http://www.w3.org/2000/svg"|; // .*|, // .*|\{ // .*', "", text, flags=re.M
        ), path
        for name in re.findall(r'from "\./(\S+)"', text):
            assert f"/page/{name}" in PAGE_FILES, (path, name)


def test_completion_is_streamed_with_the_probability_of_each_token(page, address):
    wanted = completion(address, temperature=0.8, top_k=30)
    open_at(page, address, prompt=PROMPT, seed="5", panes=panes({**SETTINGS, "temperature": 0.8, "top_k": 30}))
    page.locator("#send").click()
    assert finished(page) == PROMPT + wanted["text"]
    tokens = page.locator("#pane-0-body .generated")
    assert tokens.count() == len(wanted["logprobs"]["tokens"])
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.locator(".detail", has_text="token 3").wait_for()
    chance = math.exp(wanted["logprobs"]["token_logprobs"][2])
    assert f"{100 * chance:.1f} %" in page.locator(".detail .note").inner_text()
    assert page.locator(".detail tbody tr").count() == len(wanted["logprobs"]["top_logprobs"][2])
    page.locator("#pane-0-body .generated:not(:empty)").last.hover()  # some tokens are the beginning of a character
    page.locator(".detail:not(:has-text('token 3:'))").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_explanation_shows_the_candidates_before_and_after_each_processor(page, address):
    settings = {**SETTINGS, "temperature": 0.7, "top_k": 3}
    wanted = completion(address, **settings, explain=8, logprobs=None)["explanation"]
    open_at(page, address, prompt=PROMPT, seed="5", panes=panes(settings))
    page.locator("#send").click()
    finished(page)
    page.locator(".explain").click()
    page.locator(".detail th", has_text="top_k").wait_for()
    assert page.locator(".detail th").all_inner_texts()[1:] == wanted["stages"]
    kept = page.locator(".detail tbody tr").filter(has_not_text=re.compile("–$"))
    assert kept.count() == 3
    chosen = page.locator(".detail tr.chosen td").all_inner_texts()[1:]
    assert chosen == [f"{100 * math.exp(each):.1f} %" for each in wanted["steps"][0]["chosen"]["logprobs"]]
    page.locator("#pane-0-body code", has_text="glassgpt inspect").wait_for()


@pytest.mark.slow
def test_two_settings_and_models_answer_the_same_prompt_with_the_same_seed(page, address):
    both = ({**SETTINGS, "temperature": 0.0}, {**SETTINGS, "temperature": 1.5})
    open_at(page, address, prompt=PROMPT, compare=True, panes=panes(*both))
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.locator("#send").click()
    found = [finished(page, at) for at in (0, 1)]
    assert [each["model"] for each in asked] == ["tiny", "other"]
    assert asked[0]["seed"] == asked[1]["seed"]  # a random one
    for at, settings in enumerate(both):
        wanted = completion(address, **{**settings, "seed": asked[at]["seed"]})
        assert found[at] == PROMPT + wanted["text"]


def test_chat_sends_the_conversation_and_streams_the_answer(page, address):
    open_at(page, address, mode="chat", seed="5", panes=panes(SETTINGS))
    asked = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.locator("#prompt").fill("Hello")
    page.keyboard.press("Enter")
    first = finished(page)
    assert page.locator("#prompt").input_value() == ""
    page.locator("#prompt").fill("Again")
    page.keyboard.press("Enter")
    page.locator("#pane-0-body .answer").nth(1).locator(".note", has_text="seed").wait_for()
    assert asked[1]["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Again"},
    ]
    body = {"messages": asked[0]["messages"], **SETTINGS}
    assert first == post(address, "v1/chat/completions", body)["choices"][0]["message"]["content"]


@pytest.mark.slow
def test_escape_stops_an_answer_and_frees_the_server(page, address):
    endless = {**SETTINGS, "max_tokens": 100_000, "overflow": "re-prefill", "ignore_eos": True}
    open_at(page, address, prompt=PROMPT, panes=panes(endless))
    page.locator("#send").click()
    page.locator("#pane-0-body .generated").nth(3).wait_for()
    assert page.locator("#send").inner_text() == "Stop"
    page.keyboard.press("Escape")
    page.locator("#pane-0-body", has_text="stopped").wait_for()
    page.locator("#send", has_text="Continue this text").wait_for()
    page.locator("#view-dashboard").click()
    page.locator("#card-running b", has_text=re.compile("^0$")).wait_for()
    assert page.locator("#card-generated b").inner_text() != ""


@pytest.mark.slow
def test_settings_come_from_the_server_and_all_have_korean_descriptions(page, address):
    page.goto(address)
    page.locator("#pane-0-settings > summary").click()
    schema = json.load(urllib.request.urlopen(f"{address}/openapi.json"))["components"]["schemas"]["Completion"]
    code = """async (schema) => {
        const [{ wordsFor }, { settingsByGroup, kindOf }] = [await import("./page/words.js"), await import("./page/settings.js")];
        const groups = settingsByGroup(schema);
        const { settings, groups: titles } = wordsFor("ko");
        const fields = [...groups.values()].flat();
        return { kinds: Object.fromEntries(fields.map(([name, each]) => [name, kindOf(each)])), korean: Object.keys(settings),
            missing: [...groups.keys()].filter((name) => !titles[name]) };
    }"""
    found = page.evaluate(code, schema)
    assert set(found["korean"]) == set(found["kinds"])
    assert found["missing"] == []
    kinds = {"temperature": "number", "truncate": "yes or no", "overflow": "choice", "stop": "lines", "regex": "text"}
    kinds |= {"stop_token_ids": "numbers", "logit_bias": "json", "json_schema": "json", "temperature_schedule": "json"}
    assert kinds.items() <= found["kinds"].items()
    assert sorted(page.locator("#pane-0-settings label > code").all_text_contents()) == sorted(found["kinds"])


@pytest.mark.slow
def test_settings_that_cannot_be_read_are_not_sent_and_the_servers_refusal_is_shown(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    open_at(page, address, prompt=PROMPT, panes=panes(SETTINGS))
    page.locator("#pane-0-settings > summary").click()
    page.locator("#pane-0-settings summary", has_text="Words and format").click()
    page.locator("#pane-0-logit_bias").fill("{")
    page.locator("#send").click()
    page.locator("#error", has_text="logit_bias").wait_for()
    page.locator("#pane-0-logit_bias").fill('{"9999": 1}')
    page.locator("#send").click()
    page.locator("#pane-0-body .failed", has_text="logit_bias").wait_for()
    page.locator("#pane-0-logit_bias").fill("")
    page.locator("#pane-0-temperature").fill("0.5")
    page.locator("#send").click()
    finished(page)
    assert '"temperature":0.5' in page.evaluate("decodeURIComponent(location.hash)")
    context.close()


def test_hostile_text_is_displayed_as_text(page, address):
    open_at(page, address, panes=panes({"max_tokens": 20, "truncate": True}))
    for _ in ("completion", "chat"):
        page.locator("#prompt").fill(HOSTILE)
        page.locator("#send").click()
        finished(page)
        assert HOSTILE in page.locator("#pane-0-body").text_content()
        page.locator("#pane-0-body .generated").first.press("End")
        page.locator("#mode-1").click()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_api_key_is_asked_for_and_kept_in_this_tab_only(browser, model):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusals
    with live_server(model, api_keys=(KEY,)) as address:
        open_at(page, address, prompt=PROMPT, panes=panes(SETTINGS))
        page.locator("#key").fill("wrong")
        page.keyboard.press("Enter")
        page.locator("#key-dialog", has_text="did not accept").wait_for()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        page.locator("#pane-0").wait_for()
        page.locator("#send").click()
        assert finished(page).startswith(PROMPT)
        assert KEY not in page.evaluate("decodeURIComponent(location.href) + JSON.stringify(localStorage)")
        assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    context.close()


@pytest.mark.slow
def test_dashboard_shows_load_and_what_was_rejected(page, address):
    completion(address)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(f"{address}/v1/models", headers={"origin": "http://elsewhere"}))
    open_at(page, address, view="dashboard", language="ko")
    page.locator("#rejected tr", has_text="다른 사이트의 페이지").wait_for()
    assert page.locator("#models tbody td").first.inner_text() == "tiny"
    assert re.fullmatch(r"[\d.]+ m?s", page.locator("#card-first b").inner_text())
    assert re.fullmatch(r"[\d.]+ %", page.locator("#card-cache b").inner_text())
    page.locator("#card-generated polyline[points*=' ']").wait_for(state="attached")  # the second sample
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_quantiles_are_those_of_prometheus(page, address):
    page.goto(address)
    code = """async () => {
        const { quantile, parseMetrics, buckets } = await import("./page/metrics.js");
        const text = 'glassgpt:x_bucket{le="1.0",model_name="a"} 2.0\\nglassgpt:x_bucket{le="2.0",model_name="a"} 6.0\\n# HELP\\nglassgpt:x_bucket{le="+Inf",model_name="a"} 8.0';
        const now = buckets(parseMetrics(text), "x");
        return [quantile(0.5, now), quantile(0.99, now), quantile(0.5, now, now), quantile(0.5, now, [[1, 2], [2, 2], [Infinity, 2]])];
    }"""
    assert page.evaluate(code) == [1.5, 2, None, 1.75]


def test_both_languages_define_the_same_texts(page, address):
    page.goto(address)
    code = """async () => {
        const { wordsFor } = await import("./page/words.js");
        const same = ["settings", "groups", "stages"]; // as the server describes them, in English
        const namesOf = (words) => Object.entries(words).map(([name, each]) =>
            [name, Array.isArray(each) || typeof each !== "object" || same.includes(name) ? typeof each : namesOf(each)]);
        return [namesOf(wordsFor("en")), namesOf(wordsFor("ko"))];
    }"""
    english, korean = page.evaluate(code)
    assert english == korean


@pytest.mark.slow
def test_keys_language_and_theme(page, address):
    page.goto(address)
    page.locator("#pane-0").wait_for()
    page.locator("h1").click()
    page.keyboard.press("c")
    page.locator("#pane-1").wait_for()
    page.keyboard.press("m")
    page.locator("#mode-1[aria-checked=true]").wait_for()
    page.keyboard.press("2")
    page.locator("#card-running").wait_for()
    page.keyboard.press("1")
    page.keyboard.press("/")
    page.keyboard.type("c2")  # is text, not a shortcut
    assert page.locator("#prompt").input_value() == "c2"
    check_help_and_theme_keys(page)
    page.locator("#language").click()
    page.locator("#view-dashboard", has_text="서버 상태").wait_for()


@pytest.mark.slow
def test_stopped_server_is_reported(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    open_at(page, address, prompt=PROMPT, panes=panes(SETTINGS))
    page.locator("#pane-0").wait_for()
    context.set_offline(True)
    page.locator("#send").click()
    page.locator("#pane-0-body .failed", has_text="no longer responds").wait_for()
    context.close()


def test_quotation_is_marked_in_its_passage(page):
    passage = f"The old bridge \U0001f309 was built {HOSTILE} in 1932."
    documents = {"tiny+notes": Documents(WordIndex(passage), threshold=0.0)}
    model = attentive_model(context_length=512)
    with live_server(model, names=("tiny", "tiny+notes"), documents=documents) as address:
        open_at(page, address, mode="chat", panes=[{"model": "tiny+notes", "settings": {}}] * 2)
        page.locator("#prompt").fill("When was the old bridge built?")
        page.locator("#send").click()
        marked = page.locator("#pane-0-body .source mark")
        marked.wait_for()
        quotation = marked.text_content()
        assert page.locator("#pane-0-body .source blockquote").text_content() == passage
        assert page.locator("#pane-0-body .message:not(.user) .said").first.text_content() == f"“{quotation}” [1]"
        assert page.locator("#pane-0-body .source figcaption").text_content().startswith("[1] document 0")
        assert page.evaluate("window.hurt") is None
