"""`glassgpt inspect --text`: correct values, 80 columns, and safe for the terminal."""

import re

import pytest
import torch
from inspection_helpers import BYTES, GPT2, MODERN
from rich.cells import cell_len

from glassgpt.cli.inspection import print_trace
from glassgpt.data import load_tokenizer
from glassgpt.errors import InspectionError, UsageError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.interventions import Patch, ScaleHead, ScalePosition, parse_intervention, parse_patch
from glassgpt.inspection.trace import trace
from glassgpt.model.config import ModelConfig
from planted import planted
from small_models import shaken

HOSTILE = "[red]x[/] <img onerror=1>\x1b[2J\x07\u202eab\U0001f600한\r\n"


def shown(capsys, traced, **how):
    print_trace(traced, **how)
    return capsys.readouterr().out


def test_induction_head_is_shown(capsys):
    model, tokenizer = planted()
    out = shown(capsys, trace(model, tokenizer, "kfmbqzxkfmbq"))
    assert re.search(r"Attention of head 1\.[01], induction 0\.\d\d", out)
    assert re.search(r"│ 1\.[01]  │ induction 0\.\d\d │", out)
    assert re.search(r"│ “z” +│ +25 │ +9\d\.\d % │", out)
    rows = [line for line in out.splitlines() if re.match(r" +“.” [·░▒▓█]+$", line)]
    assert [len(line.split()[-1]) for line in rows] == [2 * n for n in range(1, 13)]
    assert rows[-1].split()[-1][10:12] in ("██", "▓▓")  # at z, which followed q


def test_ablation_shows_before_and_after(capsys):
    model, tokenizer = planted()
    traced = trace(model, tokenizer, "kfmbqzxkfmbq")
    out = shown(capsys, traced, ablate=["head:1.0", "head:1.1"])
    before = float(traced["next.model"][25])
    after = float(traced.intervene(ScaleHead(1, 0), ScaleHead(1, 1))["next.model"][25])
    assert "Changed  by head:1.0, head:1.1" in out
    assert f"{100 * before:.1f} %" in out
    assert f"{100 * (after - before):+.1f}" in out


def test_merges_are_shown(capsys):
    config = ModelConfig(vocab_size=50257, context_length=64, n_layer=2, n_head=2, n_embd=8)
    torch.manual_seed(0)
    traced = trace(shaken(config), load_tokenizer("gpt2"), "the cat understands antidisestablishmentarianism")
    out = shown(capsys, traced)
    assert "  t·h·e → t·he → the  1169" in out
    assert "␣·c·a·t → ␣·c·at → ␣c·at → ␣cat  3797" in out
    assert re.search(r"␣antidis.*….* → … → .*  1885 29207", out)


@pytest.mark.parametrize("config", [GPT2, MODERN], ids=lambda config: config.arch)
@pytest.mark.parametrize("text", [HOSTILE, "a", None, "ab" * 24], ids=["hostile", "one", "none", "full"])
def test_any_text_fits_the_terminal_and_is_printable(config, text, capsys):
    options = GenerationOptions(top_k=5, min_p=0.01, repetition_penalty=1.2)
    out = shown(capsys, trace(shaken(config), BYTES, text, options), ablate=["mlp:1=0.5"])
    assert all(character.isprintable() or character == "\n" for character in out)
    assert max(cell_len(line) for line in out.splitlines()) <= 80 or text == HOSTILE
    heads = ["Tokens", "Logit lens", "Heads", "Attention of head", "Next token", "Changed"]
    assert [out.index(f"\n{head}  " if head != "Attention of head" else f"\n{head}") for head in heads] == sorted(
        out.index(f"\n{head}") for head in heads
    )


def test_parse_intervention():
    assert parse_intervention("head:3.1") == ScaleHead(3, 1)
    assert parse_intervention("head:3.1=0.5") == ScaleHead(3, 1, 0.5)
    assert parse_intervention("position:7=-2") == ScalePosition(7, -2.0)
    for words in ("head:3", "mlp:1.2", "head:a.b", "nothing:1", "", "mlp:1=x", "mlp:1=", "patch:1", "head:³.1"):
        with pytest.raises(UsageError, match="is not an intervention; expected head:LAYER.HEAD"):
            parse_intervention(words)


def test_parse_patch():
    assert parse_patch("blocks.3.output=a = b\n") == Patch("blocks.3.output", "a = b\n")
    assert parse_patch("embedding@5,-1=x") == Patch("embedding", "x", (5, -1))
    for words in ("embedding", "embedding=", "=x", "embedding@=x", "embedding@1.5=x", "Embedding=x"):
        with pytest.raises(UsageError, match="is not a patch; expected NAME=TEXT or NAME@POSITIONS=TEXT"):
            parse_patch(words)


def test_patch_shows_what_it_changes(capsys):
    model, tokenizer = planted()
    traced = trace(model, tokenizer, "kfmbqzxkfmbq")
    out = shown(capsys, traced, patch=["blocks.1.output@-1=zqbmfkxzqbmf"])
    other = traced.intervene(Patch("blocks.1.output", "zqbmfkxzqbmf", (-1,)))
    assert not torch.equal(other["next.model"], traced["next.model"])
    assert "Changed  by blocks.1.output@-1=" in out
    assert f"{100 * float(other['next.model'][25]):.1f} %" in out


def test_invalid_head_is_refused():
    traced = trace(shaken(GPT2), BYTES, "ab")
    for words in ("3.0", "0.3", "x", "1", "-1.0"):
        with pytest.raises(UsageError, match="must be LAYER.HEAD from 0.0 to 2.2"):
            print_trace(traced, head=words)
    with pytest.raises(InspectionError, match="no head 7"):
        print_trace(traced, ablate=["head:0.7"])


def test_command_prints_a_trace(nano_run, glassgpt_command):
    done = glassgpt_command("inspect", nano_run, "--prompt", "the old king", "--text", "--top-k", 3, "--head", "1.0")
    assert done.returncode == 0, done.stderr
    assert "Attention of head 1.0" in done.stdout
    assert "top_k" in done.stdout
    assert "Changed" not in done.stdout
    piped = glassgpt_command(
        "inspect", nano_run, "--prompt", "-", "--text", "--ablate", "block:0", stdin="the old king"
    )
    assert "Changed  by block:0" in piped.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "", "--text"], 2, "the text is empty"),
        (["--prompt", "a" * 200_000, "--text"], 2, "at most 100,000"),
        (["--prompt", "a" * 90_000, "--text"], 2, "the model's context"),
        (["--prompt", "a", "--text", "--ablate", "head:99.0"], 2, "no block 99"),
        (["--prompt", "a", "--text", "--ablate", "heat:1"], 2, "is not an intervention"),
        (["--prompt", "a", "--text", "--top-k", "-1"], 2, "top_k"),
        (["--prompt", "a", "--text", "--max-tokens", "3"], 2, "--max-tokens"),
        (["--prompt", "a", "--head", "0.0", "--save", "x.html"], 2, "cannot be combined with --save"),
        (["--prompt", "a", "--tour", "--text"], 2, "--tour works on the page only"),
        (["--prompt", "a", "--head", "9.0"], 2, "9"),
        (["--prompt", "a", "--patch", "embedding=b"], 2, "require --text"),
        (["--prompt", "a", "--text", "--patch", "embedding"], 2, "is not a patch; expected NAME=TEXT"),
        (["--prompt", "a", "--text", "--patch", "logits@0=b"], 2, "is read-only"),
        (["--prompt", "a", "--text", "--compare", "x"], 2, "--compare works on the page only"),
        (["--prompt", "a", "--text", "--save", "x.html"], 2, "cannot be combined"),
        (["--prompt", "a", "--port", "70000"], 2, "--port must be from 1 to 65535"),
        (["--prompt", ""], 2, "the text is empty"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_arguments_are_refused(arguments, code, message, nano_run, monkeypatch, capsys):
    from glassgpt.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(nano_run), "--device", "cpu", *arguments])
    said = capsys.readouterr().err
    assert message in said
    assert stop.value.code == code
    assert "Traceback" not in said
