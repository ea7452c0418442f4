"""`glassgpt serve FOLDER@CHECKPOINT`: several checkpoints of a run side by side."""

from pathlib import Path

import pytest

from glassgpt.cli.serve import _named_run


@pytest.mark.parametrize(
    ("given", "name", "folder", "checkpoint"),
    [
        ("runs/mine", "mine", "runs/mine", None),
        ("m=runs/mine", "m", "runs/mine", None),
        ("runs/mine@step-000100", "mine@step-000100", "runs/mine", "step-000100"),
        ("early=runs/mine@best", "early", "runs/mine", "best"),
        ("runs/a=b", "a=b", "runs/a=b", None),
        ("runs/me@home", "me@home", "runs/me@home", None),
    ],
)
def test_name_folder_and_checkpoint(given, name, folder, checkpoint):
    assert _named_run(given) == (name, Path(folder), checkpoint)


def test_a_folder_of_that_name_wins(tmp_path):
    folder = tmp_path / "mine@latest"
    folder.mkdir()
    assert _named_run(str(folder)) == ("mine@latest", folder, None)


def test_a_pinned_checkpoint_cannot_follow_the_run(run_main):
    code, _, err = run_main("serve", "runs/mine@best", "--follow")
    assert code == 2
    assert "@best cannot be combined" in err
