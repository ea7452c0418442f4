"""The training loop that a student writes in lesson 6 has the losses of `glassgpt train`."""

import contextlib
import runpy
from pathlib import Path

import pytest
import torch

from glassgpt.learn.folder import fill
from glassgpt.learn.lesson import lessons
from glassgpt.learn.notebook import cells

pytestmark = pytest.mark.slow  # trains thirty steps

TITLE = "## Your loop and ours"
STEPS, TOLERANCE = 10, 1e-5
PLANTED = Path(__file__).with_name("planted") / "lesson6.py"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Run the lesson's first cell and its training by glassgpt.

    Returns:
        A function that runs the cell with the student's loop, given their names, and returns both lists of losses.
    """
    lesson, folder = lessons()[6], tmp_path_factory.mktemp("work") / "lesson6"
    folder.mkdir()
    fill(lesson, folder, "en", solved=True)
    parts = cells(lesson.document("en"))
    at = next(i for i, each in enumerate(parts) if TITLE in each.source.splitlines())
    first, theirs, mine = (parts[i].source for i in (1, at + 1, at + 2))
    exercises, threads = runpy.run_path(str(folder / "exercises.py")), torch.get_num_threads()
    with contextlib.chdir(folder):
        names = {}
        exec(first, names)
        exec(theirs, names)

    def losses(**changed):
        found = {**names, **exercises, **changed}
        with contextlib.chdir(folder):
            exec(mine, found)
        return found["mine"], found["ours"]

    yield losses
    torch.set_num_threads(threads)


def largest_difference(mine, ours):
    assert len(mine) == len(ours) == STEPS
    return max(abs(one - other) for one, other in zip(mine, ours, strict=True))


def test_student_loop_has_the_losses_of_the_program(compared):
    mine, ours = compared()
    assert largest_difference(mine, ours) < TOLERANCE
    assert ours[-1] < ours[0] - 0.1  # it learned


def test_a_warmup_from_zero_has_other_losses(compared):
    source = runpy.run_path(str(PLANTED))["PLANTED"]["6.3"]["warmup-from-zero"]
    changed = {}
    exec(f"import math\n{source}", changed)
    assert largest_difference(*compared(learning_rate_ratio=changed["learning_rate_ratio"])) > 100 * TOLERANCE
