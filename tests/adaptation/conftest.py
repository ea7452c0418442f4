"""A base run, text in another language for it, and an adapter: all tiny."""

from pathlib import Path

import pytest

from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, prepare

TINY = {
    "model.context_length": "16", "model.n_embd": "16", "model.n_layer": "2", "model.n_head": "2",
    "train.batch_tokens": "128", "train.max_steps": "12", "train.eval_every_steps": "6", "train.eval_tokens": "512",
    "train.snapshots": "off", "train.deterministic": "auto",
}  # fmt: skip


@pytest.fixture(scope="session")
def other_data(tmp_path_factory) -> Path:
    """A byte-level dataset that looks nothing like the grammar."""
    folder = tmp_path_factory.mktemp("other")
    text = folder / "other.txt"
    text.write_text("".join(f"{n * n:o};" for n in range(3000)))
    prepare(PrepareOptions(sources=(str(text),), out=folder / "data", tokenizer="bytes", workers=1))
    return folder / "data"


@pytest.fixture(scope="session")
def base_run(grammar_data, tmp_path_factory) -> Path:
    """A run of a few steps on the grammar; tests must not modify it."""
    from glassgpt.api import train

    out = tmp_path_factory.mktemp("base") / "run"
    train(load_config("nano", TINY | {"data": str(grammar_data)}), out)
    return out


@pytest.fixture(scope="session")
def adapter_config(base_run, other_data):
    """Return the configuration of an adapter on the base run, with changes."""

    def make(**changes):
        settings = {"data": str(other_data), "init_from": str(base_run), "lora.rank": 4, "train.learning_rate": 1e-2}
        settings |= {name.replace("__", "."): value for name, value in changes.items()}
        return load_config("nano", {**TINY, **settings})

    return make


@pytest.fixture(scope="session")
def adapter_run(adapter_config, tmp_path_factory) -> Path:
    """An adapter of the base run; tests must not modify it."""
    from glassgpt.api import train

    out = tmp_path_factory.mktemp("adapter") / "run"
    train(adapter_config(), out)
    return out
