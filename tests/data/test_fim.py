"""Fill-in-the-middle: nothing is lost, sentinels are never text, and batches are a function of seed and position."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data import TokenArray, load_tokenizer, train_tokenizer
from glassgpt.data.batches import Batches
from glassgpt.data.code.batches import FIMBatches, FIMTokens
from glassgpt.data.code.config import FIMConfig
from glassgpt.data.code.fim import FIMTransform, split_lines, split_text
from glassgpt.data.code.sentinels import OTHER_NAMES, SENTINELS, Sentinels, with_sentinels
from glassgpt.data.tokenizers import tokenizer_from_json
from glassgpt.errors import WrongTokenizerError

SOURCE = 'def greet(name):\n    """Say hello, 안녕 — ½."""\n    return f"hello {name}"\n\n\n'
TOKENIZER = with_sentinels(train_tokenizer("bpe:400", [SOURCE * 50]))
IDS = Sentinels.of(TOKENIZER)
ALWAYS = FIMConfig(rate=1.0)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def restored(window, ids=IDS):
    """Return the documents of a window in reading order, as texts, by undoing PSM and SPM."""
    documents = []
    for piece in np.split(window, np.flatnonzero(window == ids.end)):
        body = [int(token) for token in piece if token != ids.end]
        if ids.prefix not in body:
            documents.append(TOKENIZER.decode(body))
            continue
        assert body[0] == ids.prefix
        suffix_at, middle_at = body.index(ids.suffix), body.index(ids.middle)
        before, suffix, after = body[1:suffix_at], body[suffix_at + 1 : middle_at], body[middle_at + 1 :]
        documents.append(TOKENIZER.decode(before) + TOKENIZER.decode(after) + TOKENIZER.decode(suffix))
    return documents


def window_of(documents):
    parts = [[IDS.end, *TOKENIZER.encode(text)] for text in documents]
    return np.array([token for part in parts for token in part], dtype=np.int64)


@given(texts, st.integers(0, 2**32))
def test_parts_joined_are_the_text(text, seed):
    for split in (split_text, split_lines):
        assert "".join(split(text, np.random.default_rng(seed))) == text


def test_the_middle_is_a_few_whole_lines():
    text = "".join(f"line {number}\n" for number in range(20))
    generator = np.random.default_rng(0)
    parts = [split_lines(text, generator) for _ in range(2000)]
    for prefix, middle, suffix in parts:
        assert not prefix.endswith("\n")
        assert middle.startswith("\n")
        assert suffix.startswith("\n")
    counts = np.bincount([middle.count("\n") for _, middle, _ in parts])
    assert counts[1] / len(parts) == pytest.approx(0.5, abs=0.05)
    assert counts[2] / len(parts) == pytest.approx(0.25, abs=0.05)
    assert {prefix.count("\n") for prefix, _, _ in parts} == set(range(19))


def test_a_share_of_the_gaps_is_of_lines():
    window = window_of(["ab cd\n" * 40])

    def are_lines(share):
        config = FIMConfig(rate=1.0, spm_share=0.0, line_share=share)
        found = [FIMTransform(TOKENIZER, config, seed)(np.concatenate([window, window]), 0) for seed in range(60)]
        bodies = [list(map(int, each)) for each in found if IDS.middle in each]
        middles = [TOKENIZER.decode(body[body.index(IDS.middle) + 1 :]) for body in bodies]
        return sum(text.startswith("\n") for text in middles) / len(middles)

    assert are_lines(1.0) == 1.0
    assert 0.3 < are_lines(0.5) < 0.8
    assert are_lines(0.0) < 0.5


def test_every_cut_occurs():
    generator = np.random.default_rng(0)
    lengths = {tuple(map(len, split_text("abc", generator))) for _ in range(500)}
    assert lengths == {(a, b - a, 3 - b) for a in range(4) for b in range(a, 4)}


@given(st.lists(texts, min_size=1, max_size=4), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_documents_that_fit_are_restored_from_a_rearranged_window(documents, seed):
    window = window_of(documents)
    # Followed by a long document, so that what the others grow by falls outside of the window.
    window = np.concatenate([window, window_of(["x y " * 200])])
    changed = FIMTransform(TOKENIZER, ALWAYS, seed)(window, 7)
    assert len(changed) == len(window)
    assert restored(changed)[1 : len(documents) + 1] == documents
    untouched = FIMTransform(TOKENIZER, FIMConfig(rate=0.0), seed)(window, 7)
    assert np.array_equal(untouched, window)


@pytest.mark.parametrize("spm_share", [0.0, 1.0])
def test_forms_are_those_of_the_paper(spm_share):
    window = window_of([SOURCE, "z" * 300])
    changed = FIMTransform(TOKENIZER, FIMConfig(1.0, spm_share), 3)(window, 0).tolist()
    first = changed[: changed.index(IDS.end, 1)]
    assert first[:2] == [IDS.end, IDS.prefix]
    assert (first[2] == IDS.suffix) == (spm_share == 1.0)
    assert first.index(IDS.suffix) < first.index(IDS.middle)


def test_a_middle_at_the_end_of_a_window_is_ended():
    """Without end-of-text after it, a model would not learn where a middle stops."""
    window = np.array(TOKENIZER.encode(SOURCE * 20)[:128], dtype=np.int64)
    ended = 0
    for start in range(50):
        changed = FIMTransform(TOKENIZER, ALWAYS, 0)(window, start)
        assert len(changed) == len(window)
        if IDS.middle in changed:
            assert changed[-1] == IDS.end
            ended += 1
    assert ended > 30


def test_windows_may_begin_and_end_inside_a_character():
    ids = [token for char in "안녕" * 30 for token in char.encode()]
    tokenizer = with_sentinels(train_tokenizer("bpe:257", ["x"]))
    byte_of = {tokenizer.token_bytes(token): token for token in range(256)}
    window = np.array([byte_of[bytes([each])] for each in ids], dtype=np.int64)[1:-1]
    changed = [FIMTransform(tokenizer, ALWAYS, 1)(window, start) for start in range(20)]
    assert all(len(each) == len(window) for each in changed)
    middle = Sentinels.of(tokenizer).middle
    rearranged = [each.tolist() for each in changed if middle in each]
    assert len(rearranged) > 10
    for each in rearranged:  # the parts are cut between characters
        assert "\ufffd" not in tokenizer.decode(each[each.index(middle) + 1 : -1])


def test_special_tokens_never_come_from_text():
    text = "".join(SENTINELS) + SOURCE
    assert not set(TOKENIZER.encode(text)) & set(TOKENIZER.special_tokens.values())
    assert not set(TOKENIZER.encode_batch([text, text])[0].tolist()) & set(TOKENIZER.special_tokens.values())
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_sentinels_follow_all_other_ids_and_are_saved():
    plain = train_tokenizer("bpe:400", [SOURCE * 50])
    assert [TOKENIZER.special_tokens[name] for name in SENTINELS] == [plain.vocab_size + at for at in range(3)]
    assert TOKENIZER.end_of_text == plain.end_of_text
    assert TOKENIZER.encode(SOURCE) == plain.encode(SOURCE)
    again = tokenizer_from_json(TOKENIZER.to_json())
    assert again.special_tokens == TOKENIZER.special_tokens
    assert with_sentinels(again) is again


@pytest.mark.parametrize("form", ["<fim_{}>", "<fim-{}>"])
def test_special_tokens_of_other_models_are_known(form):
    plain = train_tokenizer("bpe:400", [SOURCE * 50])
    imported = plain.with_special_tokens([form.format(part) for part in ("suffix", "prefix", "middle")])
    ids = Sentinels.of(imported)
    assert imported.decode([*ids.psm([], [])]) == "".join(form.format(part) for part in ("prefix", "suffix", "middle"))
    assert with_sentinels(imported) is imported


def test_the_hole_of_deepseek_coder_is_between_prefix_and_suffix():
    tokenizer = train_tokenizer("bpe:400", [SOURCE * 50]).with_special_tokens(OTHER_NAMES[2])
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    assert tokenizer.decode(Sentinels.of(tokenizer).psm(a, b)) == "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>"
    partly = train_tokenizer("bpe:400", [SOURCE * 50]).with_special_tokens(OTHER_NAMES[2][:2])
    with pytest.raises(WrongTokenizerError, match="--format code"):
        Sentinels.of(partly)


def test_other_tokenizers_are_refused():
    with pytest.raises(WrongTokenizerError, match="bpe:SIZE"):
        with_sentinels(load_tokenizer("bytes"))
    with pytest.raises(WrongTokenizerError, match="--format code"):
        Sentinels.of(load_tokenizer("bytes"))


@pytest.fixture(scope="module")
def tokens():
    ids = np.concatenate([window_of([SOURCE * (1 + at % 4), f"# file {at}\n"]) for at in range(80)])
    return TokenArray([ids.astype(np.uint16)])


def test_batches_are_the_same_after_seeking_and_differ_between_epochs(tokens):
    rearranged = FIMTokens(tokens, TOKENIZER, FIMConfig(rate=0.5))
    through = FIMBatches(rearranged, 64, seed=5)
    batches = [through.next(4) for _ in range(40)]
    other = FIMBatches(rearranged, 64, seed=5)
    other.seek(4 * 33)
    assert all(torch.equal(a, b) for a, b in zip(other.next(4), batches[33], strict=True))
    inputs, targets = batches[0]
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    plain = Batches(tokens, 64, seed=5)
    same = [torch.equal(a[0], plain.next(4)[0]) for a in batches]
    assert not all(same)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_the_rate_is_the_share_of_rearranged_pieces(tokens, rate):
    batches = FIMBatches(FIMTokens(tokens, TOKENIZER, FIMConfig(rate)), 256, seed=1)
    inputs, _ = batches.next(60)
    middles = int((inputs == IDS.middle).sum())
    pieces = int((inputs == IDS.end).sum())
    assert rate - 0.15 < middles / pieces <= rate + 0.1
