"""Fixtures shared by the tests of diagnosis."""

import shutil

import pytest
import torch
from diagnosis_helpers import SHAPES

from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenDataset
from glassgpt.model.build import build_model
from glassgpt.training.run_folder import RunFolder


@pytest.fixture(params=SHAPES)
def model(request):
    torch.manual_seed(0)
    return build_model(SHAPES[request.param])


@pytest.fixture
def batch(grammar_dataset):
    return Batches(grammar_dataset.split("train"), 32, seed=0).next(8)


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares a training and a validation text as a dataset."""

    def make(train: str, validation: str, tokenizer: str = "bytes") -> TokenDataset:
        (tmp_path / "train.txt").write_text(train)
        (tmp_path / "validation.txt").write_text(validation)
        out = tmp_path / "data"
        options = PrepareOptions(
            sources=(str(tmp_path / "train.txt"),),
            validation_sources=(str(tmp_path / "validation.txt"),),
            out=out,
            tokenizer=tokenizer,
            workers=1,
            force=True,
        )
        prepare(options)
        return TokenDataset.open(out)

    return make


@pytest.fixture
def run(nano_run, tmp_path) -> RunFolder:
    """A copy of a healthy run that a test can damage."""
    shutil.copytree(nano_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")
