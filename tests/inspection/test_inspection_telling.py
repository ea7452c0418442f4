"""The text that the tour begins with: where it is from, and how it is chosen."""

import shutil

import pytest
from inspection_helpers import BYTES, GPT2
from page_helpers import OPTIONS, open_at, panel, serve

import glassgpt
from glassgpt.api import held_out_dataset
from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.chat.dataset import open_dataset
from glassgpt.inspection.analysis import token_losses
from glassgpt.inspection.repetitions import repeated_passages
from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.telling import TEXTS, choose_text
from glassgpt.inspection.trace import trace
from planted import planted
from small_models import shaken

FILLER = "Rain fell on the hills. A cold wind blew there. Nobody was out. "
PLANTED = "Zoe Quill met Otto. She said that Zoe Quill met Otto again. "


def share_of(found):
    """Return the largest share of a head's attention from the last token to what followed its earlier occurrences."""
    last = found.tokens[-1]
    keys = [at + 1 for at, token in enumerate(found.tokens[:-1]) if token == last]
    layers = range(found.model.config.n_layer)
    return max(float(found[f"blocks.{at}.attention.weights"][:, -1, keys].sum(-1).max()) for at in layers)


def test_text_with_the_largest_share_of_those_that_the_model_knows_is_chosen():
    model, tokenizer = planted()
    texts = ("kfmbqzxkfmbq", "abcdefgh", "mbqxmbq", "abcabcabca")
    traces = {text: trace(model, tokenizer, text) for text in texts}
    loss = {text: float(token_losses(found).sum()) / len(text) for text, found in traces.items()}
    known = [text for text in texts if loss[text] <= 2 * min(loss.values())]
    assert len(known) < len(texts)
    found = choose_text(model, tokenizer, texts=texts)
    assert found[0].text == max(known, key=lambda text: share_of(traces[text]))
    assert {each.text for each in found if each.is_known} == set(known)
    for each in found:
        weights = traces[each.text][f"blocks.{each.layer}.attention.weights"][each.head, -1]
        keys = [at + 1 for at, letter in enumerate(each.text[:-1]) if letter == each.text[-1]]
        assert each.share == pytest.approx(float(weights[keys].sum()), abs=1e-6)
        assert each.loss == pytest.approx(loss[each.text])


def test_texts_that_cannot_be_traced_are_left_out():
    model, tokenizer = planted()
    assert [each.text for each in choose_text(model, tokenizer, texts=("a" * 5000, "kfmbqzxkfmbq"))] == ["kfmbqzxkfmbq"]
    assert choose_text(model, tokenizer, texts=("a" * 5000,)) == []
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset whose validation text repeats a name once, among other sentences."""
    folder = tmp_path_factory.mktemp("repetitions")
    (folder / "train.txt").write_text(FILLER * 50, encoding="utf-8")
    (folder / "validation.txt").write_text(PLANTED + "The hills were green, and no one spoke of it.", encoding="utf-8")
    sources = {"sources": (str(folder / "train.txt"),), "validation_sources": (str(folder / "validation.txt"),)}
    prepare(PrepareOptions(**sources, out=folder / "data", tokenizer="bytes", workers=1))
    return open_dataset(folder / "data")


def test_passage_ends_where_the_rare_words_are_repeated(dataset):
    first, *_ = repeated_passages(dataset, 8, 256)
    assert (PLANTED + " ").find(first) >= 0
    again = PLANTED.index("Zoe Quill met Otto again")
    end = PLANTED.index(first) + len(first)
    assert again < end < again + len("Zoe Quill met Otto") + 1
    assert PLANTED[end] == " "
    assert repeated_passages(dataset, 8, 256) == repeated_passages(dataset, 8, 256)
    assert len(repeated_passages(dataset, 1, 256)) == 1
    assert all(len(each) < 8 for each in repeated_passages(dataset, 8, 8))


def test_passages_of_the_validation_text_are_tried(nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    found = choose_text(loaded.model, loaded.tokenizer, held_out_dataset(nano_run, loaded.tokenizer))
    own = [each for each in found if each.source == "validation"]
    assert 1 <= len(own) <= 8
    assert found == choose_text(loaded.model, loaded.tokenizer, held_out_dataset(nano_run, loaded.tokenizer))
    assert {each.text for each in found if each.source == "built-in"} <= {*TEXTS}  # what fits into the context


def test_damaged_dataset_is_reported_and_not_used(nano_run, tmp_path, run_main, monkeypatch):
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(nano_run, run, symlinks=True)
    shutil.copytree(held_out_dataset(nano_run, glassgpt.load(nano_run, device="cpu").tokenizer).folder, data)
    config = run / "config.toml"
    text = config.read_text(encoding="utf-8")
    old = next(line for line in text.splitlines() if line.startswith("data = "))
    config.write_text(text.replace(old, f'data = "{data}"'), encoding="utf-8")
    shard = next(data.glob("validation*.bin"))
    shard.write_bytes(shard.read_bytes()[:-2])
    served = []
    monkeypatch.setattr("glassgpt.cli.inspection.serve_page", lambda service, **_: served.append(service))
    code, _, errors = run_main("inspect", run, "--tour")
    assert code == 0
    assert "no text is chosen from the run's dataset" in " ".join(errors.split())
    overview = served[0].trace({})["overview"]
    assert overview["text"] in TEXTS
    assert {each["source"] for each in overview["candidates"]} == {"built-in"}


def test_page_shows_the_choice_and_traces_another_candidate(page):
    model, tokenizer = planted()
    found = choose_text(model, tokenizer, texts=("kfmbqzxkfmbq", "mbqxmbq", "abcabcabca"))
    service = InspectionService([LoadedRun("planted", model, tokenizer)], found[0].text, OPTIONS, found)
    open_at(page, serve(service))
    panel(page, "tokens")
    page.locator("#candidates summary", has_text="chosen from 3").click()
    known = [each for each in found if each.is_known]
    assert page.locator("#candidates tbody tr").count() == len(known)
    assert page.locator("#candidates button[aria-pressed=true]").inner_text() == found[0].text
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#candidates button", has_text=known[1].text).click()
    page.locator("#candidates button[aria-pressed=true]", has_text=known[1].text).wait_for()
    assert page.locator("#prompt").input_value() == known[1].text
    assert page.locator("#at-head").inner_text() == f"head {known[1].head}"


def test_model_without_a_repetition_has_no_share():
    assert choose_text(shaken(GPT2), BYTES, texts=("abc",))[0].share == 0
