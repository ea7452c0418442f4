"""docs/coming-from.md: its examples give the same text, its settings exist, and `tiny` is the model it is compared with."""

import re
import shlex
from pathlib import Path

import pytest

import glassgpt
from glassgpt.cli.dispatch import split_overrides
from glassgpt.config import load_config, settings
from glassgpt.schema import settings_of

TEXT = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
PARTS = dict(
    zip(("nanoGPT", "transformers", "LitGPT"), re.split(r"^## .*$", TEXT, flags=re.MULTILINE)[1:], strict=True)
)


def ours(part):
    """The right column of a part's table."""
    return "\n".join(row.split(" | ", 1)[1] for row in re.findall(r"^\| .*$", PARTS[part], re.MULTILINE)[1:])


def test_settings_exist():
    named = {name[2:] for part in PARTS for name in re.findall(r"--[a-z]+\.[a-z0-9-]+", ours(part))}
    assert len(named) > 20
    assert {name.replace("-", "_") for name in named} <= set(settings())


def test_generation_settings_exist():
    options = {each.name for each in settings_of(glassgpt.GenerationOptions)}
    assert set(re.findall(r"`([a-z_]+)`", ours("transformers"))) <= options
    for strategy, arguments in re.findall(r"glassgpt\.(\w+)\(([^)]*)\)", ours("transformers")):
        if strategy.endswith("Options"):
            known = {each.name for each in settings_of(getattr(glassgpt, strategy))}
            assert set(re.findall(r"(\w+)=", arguments)) <= known


def test_tiny_is_the_small_model_of_nanogpt():
    theirs = {name: float(value) for name, value in re.findall(r"--(\w+)=([\d.]+)(?!\w)", PARTS["nanoGPT"])}
    command = next(line for line in PARTS["nanoGPT"].splitlines() if line.startswith("glassgpt train"))
    config = load_config("tiny", split_overrides(shlex.split(command)[1:])[1])
    assert (config.model.n_layer, config.model.n_head, config.model.n_embd, config.model.context_length) == (
        theirs["n_layer"], theirs["n_head"], theirs["n_embd"], theirs["block_size"],
    )  # fmt: skip
    assert config.train.batch_tokens == theirs["block_size"] * theirs["batch_size"]
    assert config.train.max_steps == theirs["max_iters"]


@pytest.mark.slow
def test_examples_for_transformers_print_the_same(nano_run, tmp_path, capsys):
    glassgpt.api.export(nano_run, tmp_path / "exported")
    capsys.readouterr()
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        code = example.replace("exported/gpt2", str(tmp_path / "exported")).replace("runs/gpt2", str(nano_run))
        exec(compile(code, "coming-from.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed[:21] == printed[21:]
    assert len(printed) == 2 * len("20 bytes and a break\n")
