"""`make demo-code`: the script that prepares code, trains, and fills gaps."""

import importlib.util
from pathlib import Path

import pytest

import glassgpt
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder

SCRIPT = Path(__file__).parents[2] / "tools" / "demo_code.py"
spec = importlib.util.spec_from_file_location("demo_code", SCRIPT)
demo_code = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo_code)
SOURCE = Path(glassgpt.__file__).parent / "generation"


def test_folder_that_is_not_a_run_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(UsageError, match="is not a run and will not be deleted"):
        demo_code.main(tmp_path / "mine", (str(SOURCE),), {})
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


@pytest.mark.slow
def test_demo_prepares_trains_and_fills_each_gap(tmp_path, capsys):
    settings = {"train.max_steps": "2", "model.n_layer": "1", "model.n_embd": "32", "train.eval_tokens": "512"}
    for _ in range(2):  # the second time it replaces its run
        demo_code.main(tmp_path / "demo", (str(SOURCE),), settings)
    assert RunFolder(tmp_path / "demo").exists()
    printed = capsys.readouterr()
    assert printed.out.count("mean log-probability") >= 2 * len(demo_code.GAPS)
    assert "glassgpt complete FILE --at LINE" in printed.err
