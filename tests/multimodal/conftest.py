"""A dataset of two pictures and two sounds with names, and a run that was trained on it."""

import pytest
from multimodal_helpers import write
from named_media import SETTINGS, named_documents


@pytest.fixture(scope="session")
def named_data(tmp_path_factory):
    """A dataset; tests must not modify it."""
    folder = tmp_path_factory.mktemp("named") / "data"
    write(folder, named_documents)
    return folder


@pytest.fixture(scope="session")
def named_run(named_data, tmp_path_factory):
    """A run that has learned the names; tests must not modify it."""
    from glassgpt.api import train
    from glassgpt.config import load_config

    out = tmp_path_factory.mktemp("named_run") / "run"
    train(load_config(None, {**SETTINGS, "data": str(named_data)}), out)
    return out
