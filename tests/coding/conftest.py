import random
import string

import pytest

from glassgpt.code.completion import CodeModel
from glassgpt.data import PrepareOptions, prepare


def source(seed):
    """Return a small module whose functions follow one pattern, which a tiny model learns a little of."""
    choose = random.Random(seed)
    parts = []
    for _ in range(12):
        a, b = choose.sample(string.ascii_lowercase, 2)
        parts.append(f"def add_{a}{b}({a}, {b}):\n    total = {a} + {b}\n    return total\n")
    return "\n\n".join(parts)


@pytest.fixture(scope="session")
def code_run(tmp_path_factory):
    """A run of a few steps on source code with fill-in-the-middle; tests must not modify it."""
    from glassgpt.api import train
    from glassgpt.config import load_config

    folder = tmp_path_factory.mktemp("code")
    (folder / "src").mkdir()
    for number in range(12):
        (folder / "src" / f"m{number}.py").write_text(source(number))
    sources = (str(folder / "src"),)
    prepare(PrepareOptions(sources, folder / "data", "bpe:320", format="code", pattern="code", deduplicate=False))
    settings = {"data": str(folder / "data"), "fim.rate": "0.5", "train.max_steps": "2", "model.n_layer": "1"}
    train(load_config("nano", settings), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def loaded(code_run):
    import glassgpt

    return glassgpt.load(code_run)


@pytest.fixture(scope="session")
def code_model(loaded):
    return CodeModel(loaded.model, loaded.decoding_model, loaded.tokenizer)
