"""Figures of generated text against the same counted by hand, and every way in which they may be asked for."""

import contextlib
import dataclasses
import json
import math
import shutil
import sys
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from glassgpt import api, console
from glassgpt.data import load_tokenizer
from glassgpt.data.files import check_output_path
from glassgpt.data.shards import TokenArray
from glassgpt.errors import ConfigError, DataError, GenerationError, MissingExtraError, UsageError
from glassgpt.evaluation import pictures
from glassgpt.evaluation.bleu import MAX_SELF_BLEU_TEXTS, reference_bleu, self_bleu
from glassgpt.evaluation.coherence import Coherence, EmbeddingModel, ModelStates, neighbour_cosine, sentences
from glassgpt.evaluation.compare import Written, comparable, compare, named_settings
from glassgpt.evaluation.continuations import generation_jobs, surprisals, write
from glassgpt.evaluation.diversity import distinct, mean_repeated, ngrams, repeated, words
from glassgpt.evaluation.evaluate import EvaluationRequest
from glassgpt.evaluation.held_out import Continuation, PromptOptions, continuation_of, human_continuations
from glassgpt.evaluation.objectives import OBJECTIVES, Figures, Objective, objective_for
from glassgpt.evaluation.pictures import PICTURES, draw_comparison
from glassgpt.evaluation.quality import FIGURES, Quality, Variety, mean_surprisal, measure
from glassgpt.evaluation.show import comparison_json, show_comparison, side_by_side
from glassgpt.evaluation.show_sweep import describe, settings_toml, show_sweep
from glassgpt.evaluation.sweep import candidates_for, count_with_validation, plan, preset_values, split_prompts, sweep
from glassgpt.generation.engine.engine import generate_many
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import generation_preset_names, load_generation_preset
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

BYTES = load_tokenizer("bytes")
FREE_TEXT = st.text(max_size=80) | st.sampled_from(
    ["", "word", "👍🏽 👨‍👩‍👧", "no end", "...", "。。。", "\n\n", "$x$ $"]
)


@pytest.fixture(scope="module")
def loaded(nano_run):
    return api.load(nano_run, device="cpu")


@pytest.fixture(scope="module")
def small():
    """Knows nothing and writes anything; its texts end now and then."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(vocab_size=257, context_length=32, n_layer=1, n_head=2, n_embd=16)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


# Words and their stretches, by hand.


def test_words_are_words_marks_and_emoji():
    assert words("Don't STOP, Été!") == ["don", "'", "t", "stop", ",", "été", "!"]
    assert words("한국어 글 日本語x") == ["한국어", "글", "日", "本", "語", "x"]
    assert words("ok👍👍") == ["ok", "👍", "👍"]
    assert words(" \n") == []
    assert words("किताब, e\u0301té がか\u3099") == [
        "किताब",
        ",",
        "e\u0301té",
        "が",
        "か\u3099",
    ]  # marks stay with their letters
    assert words("👍🏽 👨‍👩‍👧 ❤️ok") == ["👍🏽", "👨‍👩‍👧", "❤️", "ok"]


def test_distinct_and_repeated_by_hand():
    texts = [words("the cat and the cat and the cat"), words("a cat")]
    assert distinct(texts, 1) == pytest.approx(4 / 10)  # the cat and a
    assert distinct(texts, 2) == pytest.approx(4 / 8)  # the-cat cat-and and-the a-cat
    assert distinct(texts, 3) == pytest.approx(3 / 6)  # of the first text alone
    assert repeated(texts[0], 4) == pytest.approx(1 - 3 / 5)  # the-cat-and-the cat-and-the-cat and-the-cat-and
    assert mean_repeated([*texts, words("one two three four")], 4) == pytest.approx((2 / 5 + 0) / 2)
    assert math.isnan(repeated(texts[1], 4))
    assert math.isnan(distinct([], 1))


@given(st.lists(FREE_TEXT, max_size=4), st.integers(1, 4))
def test_shares_are_shares(texts, n):
    cut = [words(text) for text in texts]
    share = distinct(cut, n)
    assert math.isnan(share) == (not any(len(part) >= n for part in cut))
    assert math.isnan(share) or 0 < share <= 1
    for part in cut:
        assert len(ngrams(part, n)) == max(0, len(part) - n + 1)
        assert math.isnan(repeated(part, n)) or 0 <= repeated(part, n) < 1


@given(FREE_TEXT | st.text("aé가日が。! \n\u0301\u200d👍🏽_1", max_size=20))
def test_no_character_is_lost_between_words(text):
    assert "".join(words(text)) == "".join(text.casefold().split())


def naive_stretches(items, n):
    """Joined by a mark that no word holds."""
    found, at = [], 0
    while at + n <= len(items):
        found.append("\0".join(items[at : at + n]))
        at += 1
    return found


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "ab"]), max_size=12), max_size=4), st.integers(1, 4))
def test_shares_are_those_of_a_naive_count(texts, n):
    """Each stretch is looked for among those before it, one by one."""
    every = [gram for text in texts for gram in naive_stretches(text, n)]
    new = sum(gram not in every[:at] for at, gram in enumerate(every))
    assert distinct(texts, n) == pytest.approx(new / len(every) if every else math.nan, nan_ok=True)
    for text in texts:
        grams = naive_stretches(text, n)
        again = sum(gram in grams[:at] for at, gram in enumerate(grams))
        assert repeated(text, n) == pytest.approx(again / len(grams) if grams else math.nan, nan_ok=True)


# BLEU.


def bleu_by_formula(text, references):
    """Papineni et al. 2002, equations 2 to 4, on words between blanks; for texts in which every n-gram order occurs."""
    text, references = text.split(), [reference.split() for reference in references]
    logs = 0.0
    for n in range(1, 5):
        grams = ngrams(text, n)
        hits = sum(
            min(grams.count(gram), max(ngrams(reference, n).count(gram) for reference in references))
            for gram in set(grams)
        )
        logs += math.log(hits / len(grams)) / 4
    nearest = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    brevity = 1.0 if len(text) > nearest else math.exp(1 - nearest / len(text))
    return 100 * brevity * math.exp(logs)


TEXTS = [
    "the cat sat on the mat and slept",
    "a cat sat on the mat and slept all day",
    "the cat sat on the mat",
]


def test_self_bleu_is_the_formula():
    each = [bleu_by_formula(text, TEXTS[:at] + TEXTS[at + 1 :]) for at, text in enumerate(TEXTS)]
    assert self_bleu(TEXTS) == pytest.approx(sum(each) / 3)
    assert 0 < self_bleu(TEXTS) < 100


def test_bleu_against_the_truth_is_the_formula():
    assert reference_bleu(TEXTS[:1], TEXTS[1:2]) == pytest.approx(bleu_by_formula(TEXTS[0], TEXTS[1:2]))
    assert reference_bleu(TEXTS, TEXTS) == pytest.approx(100)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab .,", min_size=1, max_size=60) | FREE_TEXT, min_size=2, max_size=5))
def test_both_are_sacrebleus_own_figures(texts):
    each = [
        sacrebleu.sentence_bleu(text, [*texts[:at], *texts[at + 1 :]], smooth_method="exp", use_effective_order=True)
        for at, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(sum(one.score for one in each) / len(each))
    assert reference_bleu(texts, texts[::-1]) == pytest.approx(sacrebleu.corpus_bleu(texts, [texts[::-1]]).score)


def test_ends_of_the_scale():
    assert self_bleu([TEXTS[0]] * 3) == pytest.approx(100)
    assert self_bleu(["one two three four five", "six seven eight nine ten"]) < 15
    assert self_bleu([TEXTS[0]] * MAX_SELF_BLEU_TEXTS + ["something else"]) == pytest.approx(
        100
    )  # the last is not read
    assert math.isnan(self_bleu(["alone"]))
    assert math.isnan(self_bleu([]))
    assert math.isnan(reference_bleu([], []))


@settings(max_examples=30, deadline=None)
@given(st.lists(FREE_TEXT, min_size=2, max_size=4))
def test_bleu_takes_any_text(texts):
    assert 0 <= self_bleu(texts) <= 100.0001
    assert 0 <= reference_bleu(texts, texts[::-1]) <= 100.0001


def test_without_sacrebleu_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"needs the package sacrebleu.*pip install 'glassgpt\[eval\]'"):
        self_bleu(TEXTS)


# Coherence.


def test_sentences_end_where_one_sees_it():
    text = 'He said: "Go!" Then he went… Really? Yes.\nno end here\n\nNew one 日本。語。 ... 👍'
    assert sentences(text) == [
        'He said: "Go!', "Then he went…", "Really?", "Yes.", "no end here", "New one 日本。", "語。",
    ]  # fmt: skip
    assert sentences("") == sentences("...") == sentences("👍") == []
    assert sentences("one") == ["one"]


@given(FREE_TEXT)
def test_no_letter_is_lost_between_sentences(text):
    def letters(part):
        return [character for character in part if character.isalnum()]

    assert letters("".join(sentences(text))) == letters(text)


def test_neighbours_by_hand():
    assert neighbour_cosine(np.array([[1.0, 0], [0, 2], [0, 5]])) == pytest.approx((0 + 1) / 2)
    assert neighbour_cosine(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-1)
    assert neighbour_cosine(np.zeros((2, 3))) == 0


class Letters:
    """Vectors by hand: how often a and b stand in a sentence."""

    name = "letters"

    def embed(self, parts):
        return np.array([[part.count("a"), part.count("b")] for part in parts], dtype=float)


def test_coherence_is_measured_from_what_is_usual():
    coherence = Coherence(Letters(), ["a. b."])  # origin (1/2, 1/2)
    assert coherence.of(["a. a."]) == pytest.approx(1)
    assert coherence.of(["a. b."]) == pytest.approx(-1)
    assert coherence.of(["a. a.", "a. b. a.", "one sentence", ""]) == pytest.approx((1 - 1) / 2)
    assert math.isnan(coherence.of(["one sentence", ""]))
    assert math.isnan(Coherence(Letters(), [""]).of([]))


def test_the_models_own_states_are_means_over_a_sentence(small):
    long = "x" * 50
    found = ModelStates(small, BYTES).embed(["abc", long])
    with torch.no_grad():
        wanted = [small.features(torch.tensor([BYTES.encode(text)]))[0].mean(0) for text in ("abc", long[:32])]
    assert found == pytest.approx(torch.stack(wanted).numpy(), abs=1e-6)
    assert "own hidden states" in ModelStates.name


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A tiny encoder in transformers' layout, with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def states_of(folder, text):
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state[0]


def test_an_embedding_model_pools_as_it_says(encoder_folder):
    texts = ["the cat.", "the cat sat the cat sat."]  # of different length: what fills up must not count
    wanted = [states_of(encoder_folder, text) for text in texts]
    found = EmbeddingModel(encoder_folder).embed(texts)
    assert found == pytest.approx(torch.stack([states.mean(0) for states in wanted]).numpy(), abs=1e-5)
    pooling = encoder_folder / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text('{"pooling_mode_cls_token": true}')
    found = EmbeddingModel(encoder_folder).embed(texts)
    assert found == pytest.approx(torch.stack([states[0] for states in wanted]).numpy(), abs=1e-5)


def test_an_embedding_model_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"--embedding-model is .*none; allowed is the folder"):
        EmbeddingModel(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="cannot be loaded"):
        EmbeddingModel(tmp_path)


# Prompts from held-out text.


def held_out(dataset, tokens):
    """The same data set with these tokens held out."""
    other = type(dataset)(dataset.folder, dataset.info, {})
    other.split = lambda name: TokenArray([np.array(tokens, dtype=np.int64)])
    return other


def documents(*texts):
    return [token for text in texts for token in (BYTES.end_of_text, *text.encode())]


def test_beginnings_come_first_then_stretches_from_inside(grammar_dataset):
    long = "".join(chr(ord("a") + at % 26) for at in range(100))
    dataset = held_out(grammar_dataset, documents("short", long, "tiny"))
    found = human_continuations(dataset, PromptOptions(count=9, prompt_tokens=5, new_tokens=15))
    assert found[0].text.startswith(long[5:20])
    starts = [bytes(one.prompt).decode() for one in found]
    assert starts[0] == long[:5]
    assert sorted(starts[1:]) == sorted(long[at : at + 5] for at in (20, 40, 60, 80))  # without overlap


def test_the_seed_decides_which(grammar_dataset):
    def prompts(seed):
        return human_continuations(grammar_dataset, PromptOptions(4, 8, 8, seed))

    assert prompts(1) == prompts(1) != prompts(2)


def test_a_document_that_ends_ends(grammar_dataset):
    dataset = held_out(grammar_dataset, documents("abcdef", "uvwxyz"))
    found = human_continuations(dataset, PromptOptions(2, 4, 50))
    assert {(one.text, one.ended) for one in found} == {("ef", True), ("yz", False)}  # of the last, nobody knows


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=8, max_size=60), prompt=st.integers(1, 6), new=st.integers(1, 6))
def test_no_prompt_is_cut_inside_a_character(grammar_dataset, text, prompt, new):
    dataset = held_out(grammar_dataset, documents(text))
    try:
        found = human_continuations(dataset, PromptOptions(8, prompt, new))
    except DataError:
        return  # characters longer than a prompt
    for one in found:
        assert 1 <= len(one.prompt) <= prompt
        assert BYTES.decode(one.prompt) in text


def test_prompts_that_cannot_be(grammar_dataset, capsys):
    with pytest.raises(UsageError) as caught:
        PromptOptions(0, 65, 0, -1).fitted(64)
    assert [line.split(" is ")[0] for line in str(caught.value).splitlines()] == [
        "--prompts", "--prompt-tokens", "--new-tokens", "--seed",
    ]  # fmt: skip
    assert "--prompt-tokens is 65; allowed is 1 to 64, the model's context" in str(caught.value)
    assert PromptOptions().fitted(1024).prompt_tokens == 32
    assert PromptOptions().fitted(16).prompt_tokens == 8
    with pytest.raises(DataError, match="no held-out document has more than 30 tokens"):
        human_continuations(held_out(grammar_dataset, documents("short")), PromptOptions(1, 30, 5))
    with pytest.raises(DataError, match="holds out no text"):
        human_continuations(held_out(grammar_dataset, []), PromptOptions(1, 3, 5))
    assert len(human_continuations(held_out(grammar_dataset, documents("short")), PromptOptions(9, 3, 5))) == 1
    assert "yields 1 prompts, not 9" in capsys.readouterr().err


# Writing, and what it costs the model.


def test_each_text_is_what_generate_writes_alone(loaded, grammar_dataset):
    human = human_continuations(grammar_dataset, PromptOptions(3, 10, 12, seed=5))
    options = GenerationOptions(max_tokens=12)
    found = write(loaded.model, BYTES, generation_jobs(human, options, seed=5))
    for at, one in enumerate(found):
        alone = dataclasses.replace(options, seed=5 + at)
        sample = generate_many(loaded.model, BYTES, [BYTES.decode(one.prompt)], alone)[0][0]
        assert (one.text, list(one.tokens)) == (sample.text, sample.tokens)
        assert one.ended == (sample.finish_reason == "end_of_text")


class Counter:
    done = 0

    def advance(self, amount):
        self.done += amount


def test_the_bar_is_full_when_all_is_written(small, monkeypatch):
    totals, counter = [], Counter()

    def progress(label, total, *, unit):
        totals.append(total)
        return contextlib.nullcontext(counter)

    monkeypatch.setattr(console, "progress", progress)
    prompts = [continuation_of(BYTES, [at], []) for at in range(40)]
    found = write(small, BYTES, generation_jobs(prompts, GenerationOptions(max_tokens=20), seed=0))
    assert 0 < sum(one.ended for one in found) < 40
    assert totals == [40 * 20] == [counter.done]


def test_surprisal_is_added_up_token_by_token(small):
    end = BYTES.end_of_text
    texts = [
        continuation_of(BYTES, b"abc", [*b"defg", end, *b"beyond"]),
        continuation_of(BYTES, b"z", [*b"y" * 20]),
        continuation_of(BYTES, b"q", [end]),
    ]
    assert [(one.text, one.ended) for one in texts] == [("defg", True), ("y" * 20, False), ("", True)]
    for one, (nats, count) in zip(texts, surprisals(small, BYTES, texts), strict=True):
        row = [*one.prompt, *one.tokens, *([end] if one.ended else [])]
        with torch.no_grad():
            logs = small(torch.tensor([row[:-1]]))[0].double().log_softmax(-1)
        wanted = [-float(logs[at - 1, row[at]]) for at in range(len(one.prompt), len(row))]
        assert (nats, count) == (pytest.approx(sum(wanted), rel=1e-5), len(wanted))


def test_texts_of_any_length_have_a_surprisal(small):
    empty = Continuation((65,), (), "", False)
    assert math.isnan(mean_surprisal(small, BYTES, [empty]))
    long = Continuation((65,), tuple(b"word " * 40), "word " * 40, True)
    assert mean_surprisal(small, BYTES, [empty, long]) > 0


@settings(max_examples=20, deadline=None)
@given(st.lists(FREE_TEXT, min_size=1, max_size=3))
def test_any_texts_can_be_measured_shown_and_written_down(small, texts):
    made = [continuation_of(BYTES, b"p", BYTES.encode(text)) for text in texts]
    coherence = Coherence(ModelStates(small, BYTES), texts)
    found = measure(small, BYTES, made, coherence, made)
    cells = [one.cell(found) for one in FIGURES]
    assert all(cells)
    assert "nan" not in "".join(cells)
    json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {one.name for one in FIGURES} <= set(found.to_json())


# Comparing settings.


def test_a_run_whose_data_moved_says_where_it_was(nano_run, grammar_data, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(nano_run, moved)
    config = moved / "config.toml"
    config.write_text(config.read_text().replace(str(grammar_data), "gone"))
    with pytest.raises(
        UsageError, match="was trained on gone, which is not there any more; say where it is with --data"
    ):
        api.load_with_dataset(moved)
    assert api.load_with_dataset(moved, grammar_data)[1].folder == grammar_data


def test_settings_by_name_file_and_value(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("temperature = 0.5\n")
    found = named_settings(f"creative, greedy,{file},temperature=0.7,top-p=0.9+min_p=0.1,pure,default")
    assert found["creative"] == load_generation_preset("creative")
    assert found["greedy"] == {"temperature": 0.0}
    assert found[str(file)] == {"temperature": 0.5}
    assert found["temperature=0.7"] == {"temperature": 0.7}
    assert found["top-p=0.9+min_p=0.1"] == {"top_p": 0.9, "min_p": 0.1}
    assert found["default"] == {}
    options = comparable(found["creative"] | {"num_samples": 4, "logprobs": 2}, PromptOptions(1, 8, 20), 64)
    assert (options.max_tokens, options.num_samples, options.logprobs, options.overflow) == (20, 1, 0, "stop")
    assert comparable({}, PromptOptions(1, 8, 60), 64).overflow == "re-prefill"


@pytest.mark.parametrize(
    ("given_settings", "error", "message"),
    [
        ("gredy", ConfigError, "there are no settings gredy; did you mean greedy?; allowed are chat"),
        (" , ", UsageError, "--compare names no settings"),
        ("temprature=1", ConfigError, "did you mean temperature?"),
        ("temperature=warm", ConfigError, "--compare cannot read temperature=warm; allowed is NAME=VALUE"),
        ("temperature=1+top_p", ConfigError, "--compare cannot read top_p; allowed is NAME=VALUE"),
        ("temperature='warm'", ConfigError, "allowed is a number"),
        ("none.toml", ConfigError, "none.toml cannot be read"),
    ],
)
def test_unknown_settings_are_named(given_settings, error, message):
    with pytest.raises(error) as caught:
        named_settings(given_settings)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_value_out_of_range_is_told_before_anything_is_written(loaded, grammar_dataset):
    human = human_continuations(grammar_dataset, PromptOptions(2, 8, 8))
    with pytest.raises(GenerationError, match="temperature is -1"):
        compare(loaded.model, BYTES, human, named_settings("pure,temperature=-1"), PromptOptions(2, 8, 8), Letters())


@pytest.fixture(scope="module")
def comparison(loaded, grammar_dataset):
    prompts = PromptOptions(4, 16, 40, seed=1).fitted(64)
    human = human_continuations(grammar_dataset, prompts)
    asked = named_settings("greedy,pure,temperature=0.7")
    return compare(loaded.model, BYTES, human, asked, prompts, ModelStates(loaded.model, BYTES))


def test_a_comparison_measures_what_was_written(loaded, comparison):
    assert [each.name for each in comparison.settings] == ["greedy", "pure", "temperature=0.7"]
    greedy, pure = (each.quality for each in comparison.settings[:2])
    assert greedy.surprisal < pure.surprisal
    assert math.isnan(comparison.human.quality.bleu)
    assert comparison.human.quality.tokens == 40
    for each in comparison.settings:
        texts = [one.text for one in each.texts]
        assert each.quality.distinct_2 == Variety.of(texts).distinct_2
        assert each.quality.bleu == reference_bleu(texts, [one.text for one in comparison.human.texts])
        assert [one.prompt for one in each.texts] == [one.prompt for one in comparison.human.texts]


def test_a_comparison_as_table_and_json(comparison, capsys):
    show_comparison(comparison, BYTES, samples=1)
    out = capsys.readouterr().out
    assert out.count("── prompt") == 1
    for one in FIGURES:
        assert one.heading in out
        assert one.reading in out
    found = json.loads(json.dumps(comparison_json(comparison, BYTES), allow_nan=False))
    assert list(found["settings"]) == ["people", "greedy", "pure", "temperature=0.7"]
    assert len(found["settings"]["pure"]["texts"]) == 4
    assert found["settings"]["people"]["figures"]["bleu"] is None
    assert found["prompts"] == {"count": 4, "prompt_tokens": 16, "new_tokens": 40, "seed": 1}


def test_a_comparison_as_a_picture(comparison, tmp_path, capsys):
    awkward = Continuation((65,), (), "costs $5 or $x_$ \x00 \n 👍", True)
    first = dataclasses.replace(comparison.settings[0], texts=[awkward] * 4)
    unknown = dataclasses.replace(comparison.settings[1], quality=Quality(*[math.nan] * 10))
    path = tmp_path / "picture.png"
    draw_comparison(dataclasses.replace(comparison, settings=[first, unknown]), BYTES, path)
    assert capsys.readouterr().err.count("the font lacks some characters") == 1
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # not blank


@pytest.mark.filterwarnings("error")
def test_texts_in_wide_characters_are_cut_where_the_picture_ends(comparison, tmp_path):
    korean = Continuation((65,), (), "할머니는 밤에 시장을 떠났다. " * 40, False)
    first = dataclasses.replace(comparison.settings[0], texts=[korean] * 4)
    lines = pictures._wrapped(pictures._drawable(korean.text)).splitlines()
    assert len(lines) >= 3
    assert max(map(cell_len, lines)) <= pictures.LINE_CHARACTERS
    assert " ".join(lines).split() == pictures._drawable(korean.text).split()
    draw_comparison(
        dataclasses.replace(comparison, settings=[first, *comparison.settings[1:]]), BYTES, tmp_path / "x.png"
    )


def test_a_picture_is_there_whole_or_not_at_all(comparison, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"an older one")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw_comparison(comparison, BYTES, path)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("picture.png", b"an older one")]


def stopped(self, file, **_):
    file.write(b"half of it")
    raise KeyboardInterrupt


@pytest.mark.parametrize("ending", PICTURES)
def test_every_allowed_ending_can_be_drawn(comparison, tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    draw_comparison(comparison, BYTES, path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    there = tmp_path / "there.png"
    there.write_text("")
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        (tmp_path / "x.jpg.txt", "--picture is .*; allowed is a name that ends in .png, .svg, .pdf"),
        (tmp_path / "none" / "x.png", "the folder .*none does not exist or cannot be written to"),
        (tmp_path / "folder.png", "which is a folder; give a file's name"),
        (there, "there.png is there already; write over it with --force, or choose another --picture"),
    ):
        with pytest.raises(UsageError, match=message):
            check_output_path("--picture", path, PICTURES)
    check_output_path("--picture", there, PICTURES, force=True)
    check_output_path("--json-file", tmp_path / "any.ending")


@pytest.mark.parametrize("option", ["json_file", "picture"])
def test_what_is_there_is_kept_and_nothing_is_measured(loaded, grammar_dataset, tmp_path, monkeypatch, option):
    monkeypatch.setattr("glassgpt.api.evaluation.measure", None)  # a call would raise another error
    path = tmp_path / "there.png"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        api.evaluate(loaded, grammar_dataset, EvaluationRequest(), **{option: path})
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (EvaluationRequest(settings={"wild": {"temperature": -1.0}}), "settings wild: temperature is -1"),
        (
            EvaluationRequest(settings={"greedy": {}}, prompts=PromptOptions(prompt_tokens=64)),
            "no held-out document has more",
        ),
    ],
)
def test_what_cannot_be_written_is_told_before_the_model_reads(
    loaded, grammar_dataset, monkeypatch, questions, message
):
    monkeypatch.setattr("glassgpt.evaluation.evaluate.evaluate_dataset", None)
    dataset = held_out(grammar_dataset, documents("only this"))
    with pytest.raises((GenerationError, DataError), match=message):
        api.evaluate(loaded, dataset, questions)


@given(st.lists(st.text("ab+=", min_size=1, max_size=30), min_size=1, max_size=12), st.integers(40, 140))
def test_tables_hold_every_setting_once_in_order(names, width):
    settings = [Written(name, None, []) for name in names]
    tables = side_by_side(settings, width)
    assert [one for table in tables for one in table] == settings
    assert all(tables)


@pytest.mark.parametrize("width", [80, 100])
def test_tables_are_no_wider_than_the_terminal(comparison, capsys, monkeypatch, width):
    monkeypatch.setattr(console.out, "_width", width)
    one = comparison.settings[0]
    names = ["greedy", "technical", "temperature=0.8+top_p=0.95+repetition_penalty=1.1", "pure", "chat", "creative"]
    many = [dataclasses.replace(one, name=name) for name in names]
    show_comparison(dataclasses.replace(comparison, settings=many), BYTES, samples=0)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert sum("repeated-4 │" in line for line in lines) == 2  # two tables, no name or figure broken in two
    for word in ("technical", "+repetition_penalty=1.1", "creative"):
        assert sum(word in line for line in lines) == 1


# Sweeping.


def figures(surprisal, distinct_2, repeated_4):
    return Figures(surprisal, Variety(0.5, distinct_2, 0.9, repeated_4))


def test_the_objective_by_hand():
    objective = Objective(0.5, 2.0, 10.0, "")
    human = figures(4.0, 0.8, 0.01)
    assert objective.score(figures(3.0, 0.7, 0.03), human) == pytest.approx(0.25 + 2 * 0.1 + 10 * 0.02)
    assert objective.score(figures(2.0, 0.8, 0.0), human) == 0  # fewer loops than people are no fault
    assert objective.score(figures(math.nan, 0.8, 0.0), human) == math.inf
    assert objective.score(figures(2.0, 0.8, math.nan), human) == 0  # too short to repeat four words


def test_each_purpose_has_an_objective_and_means_it():
    assert set(OBJECTIVES) == set(generation_preset_names())
    human, loop, sensible, wild = (
        figures(3.0, 0.8, 0.01), figures(0.5, 0.1, 0.6), figures(1.5, 0.6, 0.01), figures(6.0, 0.95, 0.0),
    )  # fmt: skip
    for purpose, best in (("creative", human), ("technical", sensible), ("code", sensible)):
        scores = {one.surprisal: OBJECTIVES[purpose].score(one, human) for one in (human, loop, sensible, wild)}
        assert min(scores, key=lambda key: scores[key]) == best.surprisal, purpose
    with pytest.raises(ConfigError, match="--for is creativ; did you mean creative\\?; allowed is creative, chat"):
        objective_for("creativ")


def test_the_plan_thins_out_and_keeps_to_the_budget():
    rounds = plan(127, 64, 1500)
    assert [one.candidates for one in rounds] == [127, 43, 15, 5, 2]
    assert [one.prompts for one in rounds] == [2, 6, 20, 60, 64]
    new = [one.candidates * (one.prompts - before.prompts) for before, one in pairwise(rounds)]
    assert rounds[0].candidates * rounds[0].prompts + sum(new) <= 1500
    assert plan(3, 8, 100)[0].prompts == 8
    with pytest.raises(UsageError, match="--budget is 126; allowed is at least 127, one text for each"):
        plan(127, 64, 126)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 3000))
def test_any_plan_gives_the_fewer_the_more(candidates, prompts, extra):
    rounds = plan(candidates, prompts, candidates + extra)
    for before, after in pairwise(rounds):
        assert after.candidates < before.candidates
        assert after.prompts >= before.prompts
    assert all(1 <= one.prompts <= prompts for one in rounds)
    assert rounds[-1].candidates <= 3


def test_the_ready_setting_is_a_candidate():
    for purpose in generation_preset_names():
        found = candidates_for(purpose)
        assert found[0] == preset_values(purpose)
        assert len({tuple(sorted(one.items())) for one in found}) == len(found)
        for one in found:
            GenerationOptions(**one).check()


@pytest.fixture(scope="module")
def swept(loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).fitted(64)
    human = human_continuations(grammar_dataset, prompts)

    return sweep(loaded.model, BYTES, human, "technical", prompts, budget=300)


def test_the_same_seed_finds_the_same(swept, loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).fitted(64)
    human = human_continuations(grammar_dataset, prompts)
    first, second = swept, sweep(loaded.model, BYTES, human, "technical", prompts, budget=300)
    assert first == second
    finals = [one for one in first.ranking if len(one.texts) == first.rounds[-1].prompts]
    assert [one.score for one in finals] == sorted(one.score for one in finals)
    assert len(first.ranking) == first.rounds[0].candidates
    assert first.winner is first.ranking[0]


def test_the_winner_is_checked_on_prompts_that_the_search_did_not_use(swept, loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).fitted(64)
    human = human_continuations(grammar_dataset, prompts)
    searched, aside = split_prompts(human)
    assert (searched, aside) == ([human[0], human[1], human[3]], [human[2]])
    assert [one.prompt for one in swept.winner.texts] == [one.prompt for one in searched]
    assert (swept.prompts.count, swept.check.prompts) == (3, 1)
    assert [one.name for one in swept.check.settings] == ["found", "ready", "default"]
    taken = {
        "found": {**swept.kept, **swept.winner.settings},
        "ready": load_generation_preset("technical"),
        "default": {},
    }
    for one in swept.check.settings:
        options = comparable(taken[one.name], prompts, 64)
        text = write(loaded.model, BYTES, generation_jobs(aside, options, seed=2, first=3))
        assert one.figures.surprisal == pytest.approx(mean_surprisal(loaded.model, BYTES, text))
        assert one.score == objective_for("technical").score(one.figures, swept.check.human)


@pytest.mark.parametrize(("found", "searched", "aside"), [(1, 1, 0), (2, 2, 0), (3, 2, 1), (96, 64, 32)])
def test_a_third_is_set_aside_where_there_are_three(found, searched, aside):
    parts = split_prompts([Continuation((at,), (1,), "x", False) for at in range(found)])
    assert [len(part) for part in parts] == [searched, aside]
    assert {one.prompt for part in parts for one in part} == {(at,) for at in range(found)}
    assert count_with_validation(64) == 96


def test_with_one_prompt_there_is_no_check_and_that_is_said(swept, capsys):
    found = dataclasses.replace(swept, check=None)
    show_sweep(found, BYTES, samples=0)
    assert "too few prompts to check the winner" in capsys.readouterr().out
    assert "other prompts" not in settings_toml(found, "run")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((0.1, 0.2, 0.3), "the found setting is the best of the three"),
        ((0.3, 0.2, 0.25), "the ready setting does better"),
    ],
)
def test_whether_the_search_was_worth_it_is_said(swept, capsys, scores, verdict):
    settings = [dataclasses.replace(one, score=score) for one, score in zip(swept.check.settings, scores, strict=True)]
    show_sweep(dataclasses.replace(swept, check=dataclasses.replace(swept.check, settings=settings)), BYTES, samples=0)
    assert verdict in capsys.readouterr().out


def test_texts_too_short_for_a_score_are_told(loaded, grammar_dataset):
    prompts = PromptOptions(2, 12, 1).fitted(64)
    human = human_continuations(grammar_dataset, prompts)
    with pytest.raises(UsageError, match="texts of up to 1 tokens are too short .* --new-tokens"):
        sweep(loaded.model, BYTES, human, "creative", prompts, budget=130)


def test_the_winner_is_a_settings_file(swept, tmp_path, capsys):
    found = swept
    path = tmp_path / "winner.toml"
    path.write_text(settings_toml(found, "a\nrun"), encoding="utf-8")
    read = load_generation_preset(str(path))
    assert read == {**found.winner.settings, **found.kept}
    assert read["no_repeat_ngram"] == load_generation_preset("technical")["no_repeat_ngram"]
    GenerationOptions(**read).check()
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# For technical text by a run: the most probable text")
    assert all("#" in line for line in lines if line)
    show_sweep(found, BYTES, samples=1)
    out = capsys.readouterr().out
    assert f"1. {describe(found.winner)}" in " ".join(out.replace("│", " ").split())
    assert "lower is better" in out
    assert "(ready)" in out
    assert "the same on 1 prompts that the search did not use" in out
    assert out.count("── prompt") == 1


@pytest.mark.parametrize("purpose", ["chat", "creative", "code"])
def test_what_the_ready_settings_hold_can_be_written_again(purpose, swept, tmp_path):
    kept = {
        name: value for name, value in load_generation_preset(purpose).items() if name not in preset_values(purpose)
    }
    found = dataclasses.replace(swept, purpose=purpose, kept=kept)
    path = tmp_path / "winner.toml"
    path.write_text(settings_toml(found, "run"), encoding="utf-8")
    assert load_generation_preset(str(path)) == {**found.winner.settings, **kept}
