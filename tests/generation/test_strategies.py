"""Decoding strategies and prompts as users reach them: from Python and from the command line."""

import json

import numpy as np
import pytest

import glassgpt
from glassgpt import BeamOptions, ContrastiveOptions, api
from glassgpt.cli.generation_flags import strategy_from_flags
from glassgpt.data import train_tokenizer
from glassgpt.errors import GenerationError, TokenizerError, UsageError
from glassgpt.generation.search.beam import ScoredSample
from glassgpt.generation.strategies import decode_batch_size
from glassgpt.generation.strategy_options import SpeculativeOptions

PROMPTS = ["today ", "the", "now it"]


@pytest.fixture(scope="module")
def loaded(nano_run):
    return glassgpt.load(nano_run)


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def test_prompts_generated_together_get_the_texts_they_get_alone(loaded):
    texts = loaded.generate_many(PROMPTS, seed=3, max_tokens=12)
    assert texts == [loaded.generate(prompt, seed=3, max_tokens=12) for prompt in PROMPTS]
    samples = loaded.samples_many(PROMPTS, seed=3, max_tokens=12, num_samples=2)
    assert [one.index for many in samples for one in many] == [0, 1] * 3
    assert [many[0].text for many in samples] == texts


def test_searches_return_the_same_from_every_python_method(loaded):
    search = BeamOptions(beams=4, best=3)
    found = loaded.samples("today ", strategy=search, max_tokens=12)
    assert all(isinstance(one, ScoredSample) for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert loaded.generate("today ", strategy=search, max_tokens=12) == found[0].text
    many = loaded.generate_many(PROMPTS, strategy=ContrastiveOptions(), max_tokens=12)
    assert many == [loaded.generate(prompt, strategy=ContrastiveOptions(), max_tokens=12) for prompt in PROMPTS]
    assert "zebra" in loaded.generate("today ", strategy=BeamOptions(force=("zebra",)), max_tokens=20)
    with pytest.raises(GenerationError, match="temperature is 0.8"):
        loaded.generate("today ", strategy=search, temperature=0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate("a", temprature=1), "unknown option temprature; did you mean temperature"),
        (lambda m: m.generate("a", beams=3), r"unknown option beams\n.*strategy=BeamOptions"),
        (lambda m: m.stream("a", strategy=BeamOptions()), "beam search cannot stream"),
        (lambda m: m.trace("a", stopp="b"), "unknown option stopp; did you mean stop"),
        (lambda m: m.generate("a", num_samples=3), "num_samples is 3, but this method returns one sample"),
        (lambda m: m.stream("a", num_samples=3), "num_samples is 3, but this method returns one sample"),
        (lambda m: m.samples("a", logprobs=3), r"logprobs is 3, .*explain\(…, top=3\)"),
        (lambda m: m.stream_chunks("a", logprobs=3), r"logprobs is 3, .*explain\(…, top=3\)"),
        (lambda m: m.generate("a", stop="that"), "stop is 'that'; it must be a list of strings"),
        (lambda m: m.generate("a", ban="that"), "ban is 'that'; it must be a list of strings"),
        (lambda m: m.generate("a", choices="yes"), "choices is 'yes'; it must be a list of strings"),
        (lambda m: m.generate("a", stop_tokens=3), "stop_tokens is 3; it must be a list of integers"),
        (lambda m: m.generate("a", max_tokens="5"), "max_tokens is '5'; it must be an integer"),
        (lambda m: m.generate("a", top_k=True), "top_k is True; it must be an integer"),
        (lambda m: m.generate("a", temperature=None), "temperature is None; it must be a number"),
        (lambda m: m.generate("a", logit_bias=[1]), r"logit_bias is \[1\]; it must be a table"),
        (lambda m: m.generate("a", processors=len), "processors is .*; it must be a list of functions"),
        (lambda m: m.generate("a", processors=(3,)), "processors is .*; it must be a list of functions"),
        (
            lambda m: m.generate("a", strategy=BeamOptions(force="love")),
            "force is 'love'; it must be a list of strings",
        ),
        (lambda m: m.generate("a", strategy=BeamOptions(beams="3")), "beams is '3'; it must be an integer"),
        (lambda m: m.generate("a", strategy=BeamOptions(beams=0)), "beams is 0; it must be an integer of at least 1"),
        (lambda m: m.generate("a", strategy=ContrastiveOptions(k=0)), "k is 0; it must be an integer of at least 1"),
        (lambda m: m.generate("a", strategy="beam"), r"strategy is 'beam'; it must be BeamOptions\(…\)"),
        (lambda m: m.generate("a", method=BeamOptions()), "unknown option method; it is called strategy now"),
        (lambda m: m.generate("a", strategy=SpeculativeOptions(prompt_lookup=True)), r"speculative_decoding\(…\)"),
        (lambda m: m.generate_many("abc"), "prompts is 'abc'; it must be a list"),
        (lambda m: m.generate(5), "the prompt is 5; it must be a string"),
    ],
)
def test_invalid_arguments_from_python_are_errors(loaded, call, message):
    with pytest.raises(GenerationError, match=message):
        call(loaded)


def test_lists_and_numpy_numbers_are_accepted(loaded):
    plain = loaded.generate("today ", stop=("is",), temperature=1, seed=3, max_tokens=12)
    odd = {"stop": ["is"], "temperature": np.float32(1), "seed": np.int64(3), "max_tokens": np.int32(12)}
    assert loaded.generate("today ", **odd) == plain


def test_explain_returns_what_json_prints(loaded, nano_run, run_main):
    asked = {"max_tokens": 6, "seed": 3, "num_samples": 2, "top_k": 9}
    told = loaded.explain("today ", top=2, **asked)
    assert [sample for sample, _ in told] == loaded.samples("today ", **asked)
    code, out, err = run_main(
        "generate", nano_run, "--prompt", "today ", "--max-tokens", 6, "--seed", 3, "--num-samples", 2, "--top-k", 9,
        "--json", "--logprobs", 2,
    )  # fmt: skip
    assert code == 0, err
    for (_, choices), line in zip(told, lines(out), strict=True):
        assert choices.stages[0] == "model"
        got = [(step.chosen.raw, step.chosen.processed) for step in choices.steps]
        assert got == [(one["raw"], one["processed"]) for one in line["logprobs"]]


def test_speculative_decoding_does_not_change_the_text(loaded):
    plain = loaded.samples_many(PROMPTS, seed=3, max_tokens=20, num_samples=2)
    for draft in (loaded, None):
        strategy = loaded.speculative_decoding(draft, tokens=3)
        assert loaded.samples_many(PROMPTS, strategy=strategy, seed=3, max_tokens=20, num_samples=2) == plain
        assert strategy.stats.proposed > 0
    strategy = loaded.speculative_decoding()
    assert "".join(loaded.stream("today ", strategy=strategy, seed=3, max_tokens=20)) == plain[0][0].text


def test_a_draft_model_with_another_tokenizer_is_refused_from_python(loaded):
    other = train_tokenizer("bpe:300", ["the cat sat on the mat " * 50])
    stranger = api.LoadedModel(loaded.model, other, 0)
    with pytest.raises(TokenizerError, match=r"draft model's tokenizer \(bpe-\d+\) differs from the model's \(bytes\)"):
        loaded.speculative_decoding(stranger)


def test_flags_select_a_strategy():
    assert strategy_from_flags({}) is None
    assert strategy_from_flags({"best": 2}) == BeamOptions(best=2)
    assert strategy_from_flags({"beam_groups": 2, "early_stopping": "false", "diversity": 0.5}) == BeamOptions(
        groups=2, diversity=0.5
    )
    assert strategy_from_flags({"early_stopping": "true"}) == BeamOptions(early_stopping=True)
    assert strategy_from_flags({"early_stopping": "never", "force": ("a", "b")}) == BeamOptions(
        early_stopping="never", force=("a", "b")
    )
    assert strategy_from_flags({"contrastive_k": 7}) == ContrastiveOptions(k=7)
    assert strategy_from_flags({"prompt_lookup": True}) == SpeculativeOptions(prompt_lookup=True)
    with pytest.raises(
        UsageError, match=r"beam search \(--beams\) and contrastive search \(--contrastive-k\) cannot be combined"
    ):
        strategy_from_flags({"beams": 3, "contrastive_k": 3})


@pytest.mark.parametrize(
    ("texts", "strategy", "batch_size"),
    [
        (3, None, 3),
        (300, None, 64),
        (2, SpeculativeOptions(prompt_lookup=True, draft_tokens=4), 10),
        (1, BeamOptions(beams=5), 5),
        (100, BeamOptions(beams=5), 60),
        (1, BeamOptions(beams=100), 100),
        (2, ContrastiveOptions(k=4), 8),
    ],
)
def test_weights_are_prepared_for_the_batch_size_of_the_strategy(texts, strategy, batch_size):
    assert decode_batch_size(texts, strategy) == batch_size


def test_prompts_from_flags_and_a_file_are_generated_together(nano_run, run_main, loaded, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("the\n\nnow it\n")
    asked = ("--prompt", "today ", "--prompts", file, "--seed", 3, "--max-tokens", 12)
    code, out, err = run_main("generate", nano_run, *asked, "--json", "--num-samples", 2)
    assert code == 0, err
    assert [(line["prompt"], line["sample"]) for line in lines(out)] == [(p, s) for p in range(3) for s in range(2)]
    expected = loaded.samples_many(PROMPTS, seed=3, max_tokens=12, num_samples=2)
    assert [line["text"] for line in lines(out)] == [one.text for many in expected for one in many]
    code, out, _ = run_main("generate", nano_run, *asked, "--json")
    assert [line.get("line") for line in lines(out)] == [None, 1, 3]
    assert [line["prompt_text"] for line in lines(out)] == PROMPTS
    code, out, _ = run_main("generate", nano_run, *asked)
    assert "── prompt 2 of 3, line 1 (length) ──\nthe" + expected[1][0].text in out
    code, out, _ = run_main("generate", nano_run, *asked, "--num-samples", 2)
    assert "── prompt 3 of 3, line 3, sample 2 of 2 (length) ──\nnow it" in out


def test_prompts_are_read_from_standard_input(glassgpt_command, nano_run):
    done = glassgpt_command(
        "generate", nano_run, "--prompts", "-", "--max-tokens", 3, "--seed", 1, "--json", stdin="today \nthe\n"
    )
    assert done.returncode == 0, done.stderr
    assert [line["prompt"] for line in lines(done.stdout)] == [0, 1]


def test_beam_search_on_the_command_line_matches_python(nano_run, run_main, loaded):
    asked = ("--prompt", "today ", "--max-tokens", 10, "--beams", 6, "--best", 2, "--length-penalty", 0.5)
    asked += ("--early-stopping", "never", "--beam-groups", 2, "--diversity", 0.3, "--coverage-penalty", 0.1)
    code, out, err = run_main("generate", nano_run, *asked, "--force", "zz", "--json")
    assert code == 0, err
    assert "--seed" not in err
    search = BeamOptions(6, 0.5, "never", groups=2, diversity=0.3, best=2, coverage_penalty=0.1, force=("zz",))
    expected = loaded.samples("today ", strategy=search, max_tokens=10)
    assert [(line["text"], line["score"]) for line in lines(out)] == [
        (one.text, pytest.approx(one.score)) for one in expected
    ]
    code, out, _ = run_main("generate", nano_run, *asked)
    assert "── sample 1 of 2 (score -" in out
    code, out, _ = run_main("generate", nano_run, "--prompt", "today ", "--max-tokens", 5, "--beams", 2)
    assert out.startswith("today ")


def test_contrastive_search_on_the_command_line_matches_python(nano_run, run_main, loaded):
    asked = ("--prompt", "today ", "--max-tokens", 10, "--contrastive-alpha", 0.4, "--contrastive-k", 3)
    code, out, err = run_main("generate", nano_run, *asked)
    assert code == 0, err
    assert out == "today " + loaded.generate("today ", strategy=ContrastiveOptions(0.4, 3), max_tokens=10) + "\n"


def test_speculative_decoding_on_the_command_line_does_not_change_the_text(nano_run, run_main):
    asked = ("generate", nano_run, "--prompt", "today ", "--max-tokens", 20, "--seed", 3)
    code, plain, _ = run_main(*asked)
    for guess in (("--draft", nano_run, "--draft-tokens", 3), ("--prompt-lookup",)):
        code, out, err = run_main(*asked, *guess)
        assert (code, out) == (0, plain)
        assert "draft tokens accepted" in err
    assert "(0 of 0 draft tokens" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--beams 4 --temperature 0.5", 2, "temperature is 0.5, which beam search does not support"),
        ("--beams 4 --settings creative", 2, "temperature is 1.1, which beam search does not support"),
        ("--beams 4 --num-samples 2", 2, "num_samples is 2, which beam search does not support"),
        ("--beams 4 --explain", 2, "--explain shows what tokens were sampled from"),
        ("--beams 4 --prompt-lookup", 2, "cannot be combined"),
        ("--beam-groups 3", 2, "groups is 3; it must be a divisor of beams (4)"),
        ("--early-stopping sometimes", 2, "sometimes"),
        ("--seed 1.5", 2, "--seed is '1.5'; it must be an integer"),
        ("--max-tokens 3e1", 2, "--max-tokens is '3e1'; it must be an integer"),
        ("--stop-token 3 --stop-token 4.0", 2, "--stop-token is '4.0'; it must be an integer"),
        ("--beams 2.5", 2, "--beams is '2.5'; it must be an integer"),
        ("--beams 2 --overflow re-prefill", 2, "it ends where the context ends"),
        ("--contrastive-alpha 2", 2, "alpha is 2.0; it must be a number between 0 and 1"),
        ("--draft-tokens 3", 2, "give either the run of a draft model or prompt_lookup"),
        ("--draft nowhere", 2, "nowhere"),
        ("--prompts nowhere.txt", 2, "it must be a readable file"),
        ("--prompts /dev/null", 2, "contains no prompt"),
    ],
)
def test_invalid_command_lines_are_errors(nano_run, run_main, arguments, code, message):
    got, _, err = run_main("generate", nano_run, "--prompt", "x", *arguments.split())
    assert got == code
    assert message in " ".join(err.split())


def test_a_draft_model_with_another_tokenizer_is_refused_on_the_command_line(nano_run, run_main, loaded, tmp_path):
    other = train_tokenizer("bpe:300", ["the cat sat on the mat " * 50])
    draft = glassgpt.api.save_as_run(loaded.model, other, tmp_path / "draft")
    code, _, err = run_main("generate", nano_run, "--prompt", "x", "--draft", draft.path)
    assert code == 2
    assert "differs from the model's" in " ".join(err.split())
