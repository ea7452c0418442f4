"""Import and export that are killed: nothing that they leave behind blocks the next attempt."""

import os
import signal
from pathlib import Path

import pytest
import torch

from glassgpt import api
from glassgpt.cli.interchange import export, import_
from glassgpt.data import load_tokenizer
from glassgpt.errors import UsageError
from glassgpt.interchange import huggingface
from glassgpt.interchange.huggingface import export_model
from glassgpt.interchange.manifest import MANIFEST
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

SHAPE = ModelConfig(vocab_size=257, context_length=16, n_layer=1, n_head=2, n_embd=8)


def killed_at(module, name, work):
    """Run `work` in a process that is killed when it calls a function of a module."""
    child = os.fork()
    if child == 0:
        setattr(module, name, lambda *arguments, **keywords: os.kill(os.getpid(), signal.SIGKILL))
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    export_model(build_model(SHAPE), load_tokenizer("bytes"), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", ["save_checkpoint", "write_run_files"])
def test_killed_import_can_be_repeated(exported, tmp_path, step, existing):
    run = tmp_path / "run"
    if existing:
        run.mkdir()
    killed_at(api.runs, step, lambda: import_(str(exported), out=run))
    assert not run.exists() or not any(run.iterdir())
    assert any(".run." in path.name for path in tmp_path.iterdir())
    import_(str(exported), out=run)
    assert api.load(run).tokenizer.name == "bytes"
    assert {path.name for path in tmp_path.iterdir()} == {"exported", "run"}


@pytest.mark.parametrize("step", ["write_tokenizer_files", "save_file"])
def test_killed_export_can_be_repeated(exported, tmp_path, step):
    import_(str(exported), out=tmp_path / "run")
    folder = tmp_path / "again"
    killed_at(huggingface, step, lambda: export(tmp_path / "run", folder))
    assert not folder.exists()
    export(tmp_path / "run", folder)
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == files
    assert {path.name for path in tmp_path.iterdir()} == {"exported", "run", "again"}


def test_import_checks_the_run_folder_before_the_model(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a run; choose another --out"):
        import_(str(tmp_path / "no-such-model"), out=tmp_path)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["notes.txt"]
