"""Beam search against transformers and against exhaustive search; contrastive search against its formula."""

import copy
import dataclasses
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.generate import generate, generate_many
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.search.beam import BeamCandidate, Hypothesis, beam_search, select_from_banks
from glassgpt.generation.search.context import SearchContext
from glassgpt.generation.search.contrastive import contrastive_search
from glassgpt.generation.search.coverage import coverage_score, record_attention
from glassgpt.generation.search.forced_words import ForcedWordsState, forced_words_state
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions
from glassgpt.interchange.huggingface import export_model
from glassgpt.model.attention import attention_weights
from small_models import CONTEXT, LLAMA, attentive_model

BYTES = load_tokenizer("bytes")
END = BYTES.end_of_text
STOPS = (62, 97, 155, 200, 220)
PROMPTS = ["a", "ROMEO: what", "xy", None, "some longer words to read"]
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def model():
    return attentive_model()


@pytest.fixture(scope="module")
def ending():
    """A model that often ends its texts, so that complete ones compete with running ones."""
    model = attentive_model(seed=4)
    with torch.no_grad():
        model.token_embedding.weight[END] += 0.35 * torch.randn(24, generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture(scope="module")
def theirs(ending, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    export_model(ending, BYTES, folder)
    return GPT2LMHeadModel.from_pretrained(folder).eval()


def transformers_beams(theirs, prompt, **asked):
    tokens = torch.tensor([[END] if prompt is None else BYTES.encode(prompt)])
    out = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        eos_token_id=asked.pop("eos_token_id", END),
        pad_token_id=END,
        return_dict_in_generate=True,
        output_scores=True,
        **asked,
    )
    texts = []
    for row in out.sequences[:, tokens.size(1) :].tolist():
        texts.append(row[: row.index(END)] if END in row else row)
    return texts, out.sequences_scores.tolist()


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 1.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_equals_transformers(ending, theirs, early_stopping, length_penalty, beams):
    search = BeamOptions(beams=beams, length_penalty=length_penalty, early_stopping=early_stopping, best=beams)
    options = GenerationOptions(max_tokens=9, **GREEDY)
    ours = beam_search(ending, BYTES, PROMPTS, options, search)
    for prompt, found in zip(PROMPTS, ours, strict=True):
        texts, scores = transformers_beams(
            theirs,
            prompt,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            max_new_tokens=9,
        )
        assert [one.tokens for one in found] == texts
        assert [one.score for one in found] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_early_stopping_modes_give_different_texts(ending):
    """Otherwise the test above could not distinguish them."""
    options = GenerationOptions(max_tokens=9, **GREEDY)
    found = [
        [
            [one.tokens for one in texts]
            for texts in beam_search(
                ending, BYTES, PROMPTS, options, BeamOptions(5, length_penalty=2.5, early_stopping=stopping, best=5)
            )
        ]
        for stopping in (True, False, "never")
    ]
    assert found[0] != found[1] != found[2] != found[0]
    assert len({len(tokens) for texts in found[0] for tokens in texts}) > 3


def test_processors_act_on_log_probabilities_as_in_transformers(ending, theirs):
    asked = {"repetition_penalty": 1.7, "no_repeat_ngram": 2, "min_tokens": 4}
    search = BeamOptions(beams=4, best=3)
    options = GenerationOptions(max_tokens=12, **asked, **GREEDY)
    for prompt in PROMPTS[:3]:
        (found,) = beam_search(ending, BYTES, [prompt], options, search)
        texts, scores = transformers_beams(
            theirs,
            prompt,
            num_beams=4,
            num_return_sequences=3,
            repetition_penalty=1.7,
            no_repeat_ngram_size=2,
            min_new_tokens=4,
            max_new_tokens=12,
        )
        assert [one.tokens for one in found] == texts
        assert [one.score for one in found] == pytest.approx(scores, rel=1e-4)


def test_stop_tokens_end_beams(ending, theirs):
    options = GenerationOptions(max_tokens=10, stop_tokens=STOPS, **GREEDY)
    for prompt, found in zip(
        PROMPTS, beam_search(ending, BYTES, PROMPTS, options, BeamOptions(4, best=4)), strict=True
    ):
        texts, scores = transformers_beams(
            theirs, prompt, num_beams=4, num_return_sequences=4, max_new_tokens=10, eos_token_id=[END, *STOPS]
        )
        cut = [[*itertools.takewhile(lambda token: token not in STOPS, text)] for text in texts]
        assert [[token for token in one.tokens if token not in STOPS] for one in found] == cut
        assert [one.score for one in found] == pytest.approx(scores, rel=1e-4)


def test_stop_strings_end_beams_like_stop_tokens(model):
    """If there were no more of them than candidates, all beams could end at once."""
    letters = [chr(token) for token in range(32, 127)]
    strings = GenerationOptions(max_tokens=10, stop=tuple(letters), **GREEDY)
    tokens = GenerationOptions(max_tokens=10, stop_tokens=tuple(map(ord, letters)), **GREEDY)
    search = BeamOptions(4, best=4)
    ended, by_token = (beam_search(model, BYTES, PROMPTS, asked, search) for asked in (strings, tokens))
    for one, other in zip(itertools.chain(*ended), itertools.chain(*by_token), strict=True):
        assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
        assert one.score == pytest.approx(other.score)
        assert not set(one.text) & set(letters)
    assert {one.finish_reason for one in itertools.chain(*ended)} >= {"stop", "length"}


def test_one_beam_is_greedy(ending):
    options = GenerationOptions(max_tokens=12, **GREEDY)
    for prompt in PROMPTS:
        ((one,),) = beam_search(ending, BYTES, [prompt], options, BeamOptions(beams=1))
        (greedy,) = generate(ending, BYTES, prompt, options)
        assert (one.tokens, one.text, one.finish_reason) == (greedy.tokens, greedy.text, greedy.finish_reason)


def test_batched_prompts_equal_single_prompts(ending):
    options = GenerationOptions(max_tokens=10, **GREEDY)
    search = BeamOptions(beams=6, groups=3, diversity=0.7, best=4)
    together = beam_search(ending, BYTES, PROMPTS, options, search)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = beam_search(ending, BYTES, [prompt], options, search)
        assert [one.tokens for one in alone] == [one.tokens for one in found]
        assert [one.score for one in alone] == pytest.approx([one.score for one in found], rel=1e-4)


LETTERS = [ord(c) for c in "abc"]


def only_letters(logits, histories):
    """A vocabulary of four, so that all texts can be listed."""
    allowed = torch.zeros(logits.size(1), dtype=torch.bool)
    allowed[[*LETTERS, END]] = True
    return logits.masked_fill(~allowed, -math.inf)


def all_texts(model, prompt, longest, vocabulary=(*LETTERS, END)):
    """Every text over the letters that ends or is cut, with its log-probability; with a separate call of the model for each."""
    found = {}

    def follow(output, total):
        if len(output) == longest or (output and output[-1] == END):
            found[tuple(output)] = total
            return
        with torch.no_grad():
            log_probs = model(torch.tensor([[*prompt, *output]]))[0, -1].double().log_softmax(-1)
        for token in vocabulary:
            follow([*output, token], total + float(log_probs[token]))

    follow([], 0.0)
    return found


def ranked(texts, length_penalty=1.0, best=5):
    scored = sorted(((total / len(text) ** length_penalty, text) for text, total in texts.items()), reverse=True)
    return [([token for token in text if token != END], score) for score, text in scored[:best]]


@pytest.fixture(scope="module")
def listed(ending):
    return all_texts(ending, BYTES.encode("xy"), 5)


EXHAUSTIVE = GenerationOptions(max_tokens=5, processors=(only_letters,), **GREEDY)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_exhaustive_search_finds_the_best_texts(ending, listed, length_penalty):
    search = BeamOptions(beams=400, length_penalty=length_penalty, early_stopping="never", best=5)
    (found,) = beam_search(ending, BYTES, ["xy"], EXHAUSTIVE, search)
    assert [(one.tokens, one.score) for one in found] == [
        (tokens, pytest.approx(score, rel=1e-4)) for tokens, score in ranked(listed, length_penalty)
    ]


FORCED = [("ab",), ("a", "cb"), ("abc", "ca"), ("bb", "b"), ("aa", "ab"), ("cab",)]
SPACE = ord(" ")


@pytest.mark.parametrize("search", [BeamOptions(beams=2), ContrastiveOptions()], ids=["beams", "contrastive"])
def test_nan_logits_are_named(search):
    model = attentive_model()
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[0, 0] = math.nan
    run = beam_search if isinstance(search, BeamOptions) else contrastive_search
    with pytest.raises(GenerationError, match="logits contain NaN"):
        run(model, BYTES, ["a", "xy"], GenerationOptions(max_tokens=3, **GREEDY), search)


def holds(text, words, prompt=""):
    """Return whether each word begins a word of a text, by a regular expression."""
    whole = prompt + bytes(token for token in text if token != END).decode(errors="replace")
    return all(re.compile(rf"(?<!\w){word}").search(whole, len(prompt)) for word in words)


def letters_and_space(logits, histories):
    allowed = torch.zeros(logits.size(1), dtype=torch.bool)
    allowed[[*LETTERS, SPACE, END]] = True
    return logits.masked_fill(~allowed, -math.inf)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        *(("xy", words) for words in [("ab",), ("a", "cb"), ("bb", "b"), ("cab",)]),
        *(("xy ", words) for words in [("ab", "ca"), ("aa", "ab"), ("abc",)]),
    ],
    ids=str,
)
def test_exhaustive_search_finds_the_best_texts_with_forced_words(ending, prompt, words):
    search = BeamOptions(beams=400, early_stopping="never", best=4, force=words)
    options = dataclasses.replace(EXHAUSTIVE, processors=(letters_and_space,))
    (found,) = beam_search(ending, BYTES, [prompt], options, search)
    texts = all_texts(ending, BYTES.encode(prompt), 5, (*LETTERS, SPACE, END))
    expected = ranked({text: total for text, total in texts.items() if holds(text, words, prompt)}, best=4)
    assert [(one.tokens, one.score) for one in found] == [
        (tokens, pytest.approx(score, rel=1e-4)) for tokens, score in expected
    ]


@pytest.mark.parametrize("words", FORCED, ids=str)
@pytest.mark.parametrize(("beams", "early_stopping"), [(1, "never"), (2, True), (5, "never")])
def test_few_beams_contain_the_forced_words(ending, words, beams, early_stopping):
    """Even one, and even where there is just space for them."""
    needed = forced_words_state(words, BYTES).after_prompt(BYTES.encode("inside")).needed
    for space in (needed, needed + 3):
        options = GenerationOptions(max_tokens=space, **GREEDY)
        search = BeamOptions(beams=beams, force=words, early_stopping=early_stopping, best=beams)
        for prompt, found in zip(PROMPTS, beam_search(ending, BYTES, PROMPTS, options, search), strict=True):
            assert found
            assert all(holds(one.tokens, words, prompt or "") for one in found)


def test_forced_words_with_multi_letter_tokens():
    tokenizer = train_tokenizer("bpe:300", ["the cat sat on the mat and the dog sat there too " * 20])
    model = attentive_model(vocab_size=tokenizer.vocab_size)
    words = ("the dog", "cat")
    options = GenerationOptions(max_tokens=12, **GREEDY)
    for found in beam_search(model, tokenizer, ["the", "and"], options, BeamOptions(6, best=3, force=words)):
        assert all(word in one.text for one in found for word in words)
        assert len({one.text for one in found}) == 3


@given(
    words=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    text=st.text("ab ", max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_forced_words_state_tracks_missing_words_and_has_a_next_token(words, text):
    state = forced_words_state(words, BYTES)
    for token in BYTES.encode(text):
        state = state.after(token)
    assert (not state.missing) == holds(text.encode(), words)
    assert not any(holds(text.encode(), [word.text.decode()]) for word in state.missing)
    while state.missing:
        nearer = min((state.after(token) for token in state.next_tokens), key=lambda after: after.needed)
        assert nearer.needed < state.needed
        state = nearer
    assert state.needed == 0


@pytest.mark.parametrize(
    ("prompt", "written", "is_contained"),
    [
        ("the", "storm", False),
        ("the", " storm", True),
        ("the ", "storm", True),
        (None, "storm", True),
        ("", "“storm", True),
        ("the", "\nstorm", True),
        ("the", "storm-storm", True),
        ("그", "storm", False),
        ("a", "1storm", False),
        ("the", " thunderstorm", False),
        ("the", " stormy", True),
        ("the st", "orm", False),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "bpe:300"])
def test_forced_word_begins_a_word(prompt, written, is_contained, kind):
    tokenizer = train_tokenizer(kind, ["the storm and a thunderstorm, stormy weather"]) if ":" in kind else BYTES
    state = forced_words_state(["storm"], tokenizer)
    state = state.after_prompt([tokenizer.end_of_text] if prompt is None else tokenizer.encode(prompt))
    for token in tokenizer.encode(written):
        state = state.after(token)
    assert (not state.missing) == is_contained


def test_forced_word_counts_however_it_is_divided_into_tokens():
    tokenizer = train_tokenizer("bpe:300", ["the storm and the stormy sea, stormy storm"] * 9)
    state = forced_words_state(["storm"], tokenizer)
    for byte in b" sto":
        state = state.after(tokenizer.encode(chr(byte))[0])
    assert state.missing
    assert not state.after(tokenizer.encode("rm")[0]).after(tokenizer.encode("m")[0]).missing


@pytest.mark.parametrize(
    ("word", "separate"), [("폭풍", True), ("storm", True), ("猫", False), ("ねこ", False), ("!", False)]
)
def test_scripts_without_spaces_need_none_before_a_forced_word(word, separate):
    state = forced_words_state([word], BYTES).after_prompt(BYTES.encode("그" if separate else "那"))
    for token in BYTES.encode(word):
        state = state.after(token)
    assert bool(state.missing) == separate


def test_banks_share_the_beams():
    """A text that starts a forced word early is kept among the beams, however improbable it is."""

    def candidate(merit, missing):
        state = ForcedWordsState(BYTES, forced_words_state("abcdefg"[:missing], BYTES).missing)
        return BeamCandidate(Hypothesis((), merit, 0, state), merit, is_complete=False)

    free = [candidate(-float(i), 2) for i in range(5)]
    begun, done = [candidate(-50.0, 1), candidate(-60.0, 1)], [candidate(-99.0, 0)]
    assert [one.rank_score for one in select_from_banks([*free, *begun, *done], 5)] == [0.0, -1.0, -50.0, -60.0, -99.0]
    assert [one.rank_score for one in select_from_banks([*free, *begun], 3)] == [0.0, -50.0, -60.0]
    assert select_from_banks(free, 3) == free[:3]


def naive_groups(model, prompt, options, search, vocabulary):
    """Vijayakumar et al. 2016, algorithm 1, without cache or batch: incomplete and complete texts of each group."""
    size = search.beams // search.groups
    running = [[((), 0.0)] for _ in range(search.groups)]
    complete = [[] for _ in range(search.groups)]
    for length in range(1, options.max_tokens + 1):
        taken = []
        for g in range(search.groups):
            candidates = []
            for text, total in running[g]:
                with torch.no_grad():
                    log_probs = model(torch.tensor([[*prompt, *text]]))[0, -1].log_softmax(-1)
                for token in vocabulary:
                    value = total + float(log_probs[token])
                    merit = value - search.diversity * taken.count(token)
                    candidates.append((merit, (*text, token), value))
            candidates.sort(reverse=True)
            ends = [one for one in candidates[:size] if one[1][-1] == END or length == options.max_tokens]
            complete[g] += [(value / len(text) ** search.length_penalty, text) for _, text, value in ends]
            complete[g] = sorted(complete[g], reverse=True)[:size]
            going = [] if length == options.max_tokens else [one for one in candidates if one[1][-1] != END]
            running[g] = [(text, value) for _, text, value in going[:size]]
            if search.early_stopping is True and len(complete[g]) == size:
                running[g] = []
            taken += [text[-1] for text, _ in running[g]]
    merged = sorted(set(itertools.chain.from_iterable(complete)), reverse=True)
    return [([token for token in text if token != END], score) for score, text in merged[: search.best]]


@pytest.mark.parametrize(("beams", "groups"), [(2, 2), (6, 3), (8, 2), (6, 2)])
@pytest.mark.parametrize("diversity", [0.0, 0.8, 5.0])
def test_diverse_groups_follow_the_paper(ending, beams, groups, diversity):
    search = BeamOptions(beams, groups=groups, diversity=diversity, best=beams, early_stopping=True)
    for prompt in PROMPTS[:3]:
        (found,) = beam_search(ending, BYTES, [prompt], EXHAUSTIVE, search)
        expected = naive_groups(ending, BYTES.encode(prompt), EXHAUSTIVE, search, (*LETTERS, END))
        assert [(one.tokens, one.score) for one in found] == [
            (tokens, pytest.approx(score, rel=1e-4)) for tokens, score in expected
        ]


def test_diversity_makes_groups_differ(model):
    options = GenerationOptions(max_tokens=8, **GREEDY)

    def first_tokens(diversity):
        search = BeamOptions(beams=4, groups=4, diversity=diversity, best=4)
        (found,) = beam_search(model, BYTES, ["ROMEO"], options, search)
        return {one.tokens[0] for one in found}

    assert len(first_tokens(0.0)) == 1  # four times the same greedy text, told once
    assert len(first_tokens(50.0)) == 4


@pytest.mark.parametrize("text", ["ROMEO: what", "ab", None])
@pytest.mark.parametrize("shape", [{}, {"arch": "modern", "bias": False, "window": 4}, LLAMA], ids=str)
def test_coverage_penalty_follows_the_formula(text, shape):
    """The mean of all layers' and heads' attention, from a model with explicit attention, without a cache."""
    model, beta = attentive_model(**shape), 0.4
    prompt = [END] if text is None else BYTES.encode(text)
    options = GenerationOptions(max_tokens=6, **GREEDY)
    (found,) = beam_search(model, BYTES, [text], options, BeamOptions(3, coverage_penalty=beta, best=3))
    for one in found:
        output = [*one.tokens, *([END] if one.finish_reason == "end_of_text" else [])]
        attention = full_attention(model, [*prompt, *output[:-1]])  # (T, T)
        got = attention[len(prompt) - 1 :, : len(prompt)].sum(dim=0)
        coverage = sum(math.log(min(max(float(weight), 1.2e-38), 1.0)) for weight in got)
        assert one.score == pytest.approx(one.log_probability / len(output) + beta * coverage, rel=1e-4)


def test_coverage_penalty_changes_the_result(model):
    options = GenerationOptions(max_tokens=6, **GREEDY)
    plain, strong = (
        beam_search(model, BYTES, ["ab cd ef"], options, BeamOptions(8, coverage_penalty=weight))
        for weight in (0.0, 1.0)
    )
    assert plain[0][0].tokens != strong[0][0].tokens


def full_attention(model, tokens):
    seen = []

    def wrap(attend):
        def recording(q, k, v, mask, dropout, window=0):
            seen.append(attention_weights(q, k.repeat_interleave(q.size(1) // k.size(1), 1), mask, window))
            return attend(q, k, v, mask, dropout, window)

        return recording

    recorded = copy.deepcopy(model)
    for block in recorded.blocks:
        block.attention.attend = wrap(block.attention.attend)
    with torch.no_grad():
        recorded(torch.tensor([tokens]))
    return torch.stack(seen).mean(dim=(0, 2))[0]


def test_recording_copy_shares_weights_and_leaves_the_model_unchanged(model):
    recorded, _ = record_attention(model)
    assert all(a is b for a, b in zip(model.parameters(), recorded.parameters(), strict=True))
    assert model.blocks[0].attention.attend is not recorded.blocks[0].attention.attend
    assert coverage_score(torch.tensor([1.0, 3.0])) == 0
    assert math.isfinite(coverage_score(torch.tensor([0.0, 1.0])))


def test_out_of_memory_changes_no_text(ending, monkeypatch, caplog):
    options, search = GenerationOptions(max_tokens=6, **GREEDY), BeamOptions(3)
    expected = beam_search(ending, BYTES, PROMPTS, options, search)
    prefill = SearchContext.prefill

    def out_of_memory(self, prompts):
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("simulated")
        return prefill(self, prompts)

    monkeypatch.setattr(SearchContext, "prefill", out_of_memory)
    assert [[one.tokens for one in found] for found in beam_search(ending, BYTES, PROMPTS, options, search)] == [
        [one.tokens for one in found] for found in expected
    ]
    assert "out of memory with 5 prompts at a time; continuing with 2 " in caplog.text


def test_beams_follow_a_regex(model):
    pytest.importorskip("llguidance")
    options = GenerationOptions(max_tokens=20, regex="([a-c]{2} ){2}[0-9]!", **GREEDY)
    (found,) = beam_search(model, BYTES, ["x"], options, BeamOptions(5, best=5))
    assert len(found) == 5
    assert all(re.fullmatch("([a-c]{2} ){2}[0-9]!", one.text) for one in found)


def naive_contrastive(model, prompt, alpha, k, count):
    """Su et al. 2022, equation 5, the whole text through the model for each candidate."""
    text = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            p = model(torch.tensor([text]))[0, -1, : BYTES.vocab_size].softmax(-1)
        scores = {}
        for token in p.topk(k).indices.tolist():
            with torch.no_grad():
                h = torch.nn.functional.normalize(model.features(torch.tensor([[*text, token]]))[0], dim=-1)
            scores[token] = (1 - alpha) * float(p[token]) - alpha * float((h[:-1] @ h[-1]).max())
        text.append(max(scores, key=scores.get))
        if text[-1] == END:
            return text[len(prompt) : -1]
    return text[len(prompt) :]


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.0, 5), (0.6, 1), (1.0, 3)])
def test_contrastive_search_follows_the_formula(model, alpha, k):
    options = GenerationOptions(max_tokens=15, **GREEDY)
    found = contrastive_search(model, BYTES, PROMPTS, options, ContrastiveOptions(alpha, k))
    for prompt, one in zip(PROMPTS, found, strict=True):
        tokens = [END] if prompt is None else BYTES.encode(prompt)
        assert one.tokens == naive_contrastive(model, tokens, alpha, k, 15)
    greedy = [texts[0].tokens for texts in generate_many(model, BYTES, PROMPTS, options)]
    assert ([one.tokens for one in found] == greedy) == (alpha == 0 or k == 1)


def test_contrastive_search_stops_at_stop_tokens(model):
    endless = contrastive_search(
        model, BYTES, PROMPTS, GenerationOptions(max_tokens=20, **GREEDY), ContrastiveOptions()
    )
    stop = endless[1].tokens[4]
    options = GenerationOptions(max_tokens=20, stop_tokens=(stop,), **GREEDY)
    found = contrastive_search(model, BYTES, PROMPTS, options, ContrastiveOptions())
    for one, whole in zip(found, endless, strict=True):
        cut = whole.tokens[: whole.tokens.index(stop) + 1] if stop in whole.tokens else whole.tokens
        assert one.tokens == cut
    assert found[1].finish_reason == "stop"


def test_contrastive_search_at_the_end_of_the_context(model):
    options = GenerationOptions(min_tokens=9, max_tokens=9, **GREEDY)
    (one,) = contrastive_search(model, BYTES, ["x" * (CONTEXT - 3)], options, ContrastiveOptions())
    assert (len(one.tokens), one.finish_reason) == (3, "length")
    with pytest.raises(GenerationError, match="fills the context of 48"):
        contrastive_search(model, BYTES, ["x" * CONTEXT], options, ContrastiveOptions())


def test_contrastive_search_with_fewer_possible_tokens_than_candidates(model):
    pytest.importorskip("llguidance")
    options = GenerationOptions(max_tokens=20, choices=("yes", "no way"), **GREEDY)
    found = contrastive_search(model, BYTES, PROMPTS, options, ContrastiveOptions(k=6))
    assert {one.text for one in found} <= {"yes", "no way"}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (BeamOptions(beams=0), "beams is 0; it must be an integer of at least 1"),
        (BeamOptions(beams=4, groups=3), r"groups is 3; it must be a divisor of beams \(4\)"),
        (BeamOptions(beams=2, best=3), "best is 3; it must be at most beams"),
        (BeamOptions(length_penalty=math.inf), "length_penalty is inf"),
        (BeamOptions(early_stopping="always"), "early_stopping is 'always'; it must be true, false or never"),
        (BeamOptions(diversity=0.5), "diversity is 0.5.*increase groups"),
        (BeamOptions(coverage_penalty=-1), "coverage_penalty is -1"),
        (BeamOptions(force=(" ",)), "force is .*not blank"),
        (
            BeamOptions(force=("much too long a word",)),
            "the forced words need 21 tokens, but the text may have 6",
        ),
    ],
)
def test_invalid_beam_options_are_rejected(model, search, message):
    with pytest.raises(GenerationError, match=message):
        beam_search(model, BYTES, ["a"], GenerationOptions(max_tokens=6, **GREEDY), search)


@pytest.mark.parametrize(
    "asked", [{"temperature": 0.8}, {"seed": 1}, {"num_samples": 2}, {"top_k": 5}, {"overflow": "re-prefill"}], ids=str
)
def test_sampling_options_are_rejected(model, asked):
    options = GenerationOptions(**{**GREEDY, **asked})
    (name,) = asked
    with pytest.raises(GenerationError, match=f"{name} is .* beam search does not support"):
        beam_search(model, BYTES, ["a"], options, BeamOptions())
    with pytest.raises(GenerationError, match=f"{name} is .* contrastive search does not support"):
        contrastive_search(model, BYTES, ["a"], options, ContrastiveOptions())


@pytest.mark.parametrize(
    ("search", "message"), [(ContrastiveOptions(alpha=1.5), "alpha is 1.5"), (ContrastiveOptions(k=0), "k is 0")]
)
def test_invalid_contrastive_options_are_rejected(model, search, message):
    with pytest.raises(GenerationError, match=message):
        contrastive_search(model, BYTES, ["a"], GenerationOptions(**GREEDY), search)


def test_text_with_two_tokenizations_is_returned_once():
    """The more probable of the tokenizations of "ab" (one token or two) is returned."""
    tokenizer = train_tokenizer("bpe:260", ["abab " * 50])
    model = attentive_model(vocab_size=tokenizer.vocab_size)
    options = GenerationOptions(max_tokens=6, choices=("abab", "ba"), **GREEDY)
    (found,) = beam_search(model, tokenizer, ["b"], options, BeamOptions(beams=6, best=6))
    assert sorted(one.text for one in found) == ["abab", "ba"]
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_forced_word_that_is_banned_is_an_error(model):
    options = GenerationOptions(max_tokens=6, ban=("zz",), **GREEDY)
    with pytest.raises(GenerationError, match=r"together allow no text: ban, force;"):
        beam_search(model, BYTES, ["a"], options, BeamOptions(force=("zz",)))


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"overflow": "re-prefill"}, "it ends where the context ends"), ({"logprobs": 1}, "it does not sample")],
)
def test_error_explains_why_an_option_cannot_be_used(model, asked, why):
    with pytest.raises(GenerationError, match=why):
        beam_search(model, BYTES, ["a"], GenerationOptions(**GREEDY, **asked), BeamOptions())


def test_options_that_allow_no_text_are_named(model):
    def nothing(logits, histories):
        return torch.full_like(logits, -math.inf)

    options = GenerationOptions(max_tokens=4, processors=(nothing,), **GREEDY)
    with pytest.raises(GenerationError, match="allow no text: nothing;"):
        beam_search(model, BYTES, ["a"], options, BeamOptions())
    with pytest.raises(GenerationError, match="nothing"):
        contrastive_search(model, BYTES, ["a"], options, ContrastiveOptions())
