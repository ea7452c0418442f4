"""`glassgpt learn`: the list, a student's folder, verdicts, hints and progress."""

import json
import runpy
from pathlib import Path

import pytest

from glassgpt.learn import progress
from glassgpt.learn.check import require_source
from glassgpt.learn.folder import default_folder
from glassgpt.learn.lesson import Lesson

SOLVED = """
def softmax(scores):
    return scores.softmax(-1)


def pairs(tokens):
    return tokens[:-1], tokens[1:]
"""


def write(folder, source):
    """Append code to the student's file."""
    with (folder / "exercises.py").open("a") as file:
        file.write(source)


def test_lessons_are_listed_one_per_line(run_main, example):
    code, out, _ = run_main("learn")
    assert (code, out) == (0, "9  Softmax and targets (10 min): softmax, and the targets of a language model\n")
    assert run_main("learn", "list", "--language", "ko")[1].startswith("9  소프트맥스와 목표 (10분): ")


def test_lesson_folder_has_the_same_cells_as_notebook_and_script(run_main, example):
    code, out, _ = run_main("learn", "start", "9", "--out", "mine")
    assert code == 0
    assert "glassgpt learn check 9 --out mine" in out
    notebook = json.loads((example / "mine" / "lesson.ipynb").read_text())
    code_cells = ["".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code"]
    script = (example / "mine" / "lesson.py").read_text()
    assert code_cells[:2] == ["%load_ext autoreload\n%autoreload 2", "import torch"]
    assert all(f"# %%\n{source}" in script for source in code_cells[1:])
    runpy.run_path(str(example / "mine" / "lesson.py"))


def test_notebook_has_what_the_format_requires(started):
    """These are the required fields of the schema of nbformat 4.5."""
    notebook = json.loads((started / "lesson.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {"name", "display_name"} <= set(notebook["metadata"]["kernelspec"])
    common = {"cell_type", "id", "metadata", "source"}
    for cell in notebook["cells"]:
        assert set(cell) == common | ({"execution_count", "outputs"} if cell["cell_type"] == "code" else set())
    names = [cell["id"] for cell in notebook["cells"]]
    assert len({*names}) == len(names)


def test_lesson_is_not_overwritten_without_force(run_main, started):
    write(started, "\nMINE = 1\n")
    code, _, err = run_main("learn", "start", "9")
    assert code == 2
    assert "lesson9 already holds a lesson" in err
    assert "MINE" in (started / "exercises.py").read_text()
    assert run_main("learn", "start", "9", "--force")[0] == 0
    assert "MINE" not in (started / "exercises.py").read_text()
    assert "MINE" in (started / "exercises_before.py").read_text()
    assert run_main("learn", "start", "9", "--force", "--language", "ko")[0] == 0
    assert "MINE" in (started / "exercises_before.py").read_text()


def test_starting_over_loses_no_work(run_main, started):
    write(started, "\nFIRST = 1\n")
    (started / "notes").mkdir()
    (started / "notes" / "mine.txt").write_text("x")
    (started / "notes" / "link").symlink_to("mine.txt")
    (started / "lesson.py").write_text("print('mine')\n")
    code, out, _ = run_main("learn", "start", "9", "--force")
    assert (code, "kept as: exercises_before.py, lesson_before.py\n" in out) == (0, True), out
    write(started, "\nSECOND = 2\n")
    code, out, _ = run_main("learn", "start", "9", "--force", "--language", "ko")
    assert (code, "exercises_before2.py\n" in out) == (0, True), out
    assert "마지막 축" in (started / "exercises.py").read_text()
    assert "FIRST" in (started / "exercises_before.py").read_text()
    assert "SECOND" in (started / "exercises_before2.py").read_text()
    assert (started / "lesson_before.py").read_text() == "print('mine')\n"
    assert (started / "notes" / "link").is_symlink()
    assert (started / "notes" / "mine.txt").read_text() == "x"
    assert not (started / "lesson_before.ipynb").exists()  # it was not changed


def test_another_lesson_is_not_replaced(run_main, started):
    (started / "progress.json").write_text('{"lesson": 3, "language": "en", "solved": [], "hints": {}}')
    code, _, err = run_main("learn", "start", "9", "--force")
    assert (code, "lesson9 holds lesson 3, not lesson 9; choose another --out" in err) == (2, True)


def test_commands_work_inside_the_folder_of_a_lesson(run_main, started, forked_check, monkeypatch):
    monkeypatch.chdir(started)
    code, out, _ = run_main("learn", "check", "9")
    assert (code, "A hint: glassgpt learn hint 9.1\n" in out) == (1, True)
    assert "Hint 1 of 2" in run_main("learn", "hint", "9.1")[1]
    assert "(10 min, 0 of 2 solved)" in run_main("learn")[1]
    code, _, err = run_main("learn", "start", "9", "--force")
    assert (code, "start it over from the folder above" in err) == (2, True)


def test_next_lesson_is_created_beside_the_one_that_is_current(started, monkeypatch):
    monkeypatch.chdir(started)
    assert default_folder(Lesson(3, "", Path())) == Path("../lesson3")


def test_script_runs_from_every_folder(run_main, started, monkeypatch, tmp_path):
    (started / "lesson.py").write_text((started / "lesson.py").read_text() + "\nopen('here.txt', 'w').close()\n")
    runpy.run_path(str((started / "lesson.py").absolute()))
    monkeypatch.chdir(tmp_path)  # as it was
    assert (started / "here.txt").exists()


def test_other_folder_is_never_replaced(run_main, example):
    (example / "lesson9").mkdir()
    (example / "lesson9" / "diary.txt").write_text("x")
    code, _, err = run_main("learn", "start", "9", "--force")
    assert code == 2
    assert "lesson9 exists and is not a lesson" in err
    assert [each.name for each in (example / "lesson9").iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("start 7", "there is no lesson 7"),
        ("start 9.1", "9.1 is an exercise; start its lesson with: glassgpt learn start 9"),
        ("start 9 --out my-lesson", "--out my-lesson cannot be imported by Python"),
        ("start nine", "nine is not a lesson"),
        ("3", "unknown command learn 3; the commands are list, start, check, hint"),
        ("strat 9", "unknown command learn strat; did you mean start?"),
        ("check 9", "lesson9 holds no lesson"),
        ("check 9.7", "there is no exercise 9.7; lesson 9 has 9.1, 9.2"),
        ("hint 9", "9 is a lesson; give the number of an exercise: 9.1, 9.2"),
        ("hint 9.1", "lesson9 holds no lesson"),
    ],
)
def test_wrong_command_says_what_to_do(run_main, example, arguments, message):
    code, _, err = run_main("learn", *arguments.split())
    assert code == 2
    assert message in " ".join(err.split())
    assert list(example.iterdir()) == []


def test_folder_of_another_lesson_is_refused(run_main, started, forked_check):
    (started / "progress.json").write_text('{"lesson": 3, "language": "en", "solved": [], "hints": {}}')
    code, _, err = run_main("learn", "check", "9")
    assert (code, "lesson9 holds lesson 3, not lesson 9" in err) == (2, True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lesson": "x", "language": "en", "solved": [], "hints": {}}'])
def test_damaged_progress_is_reported(run_main, started, text):
    (started / "progress.json").write_text(text)
    code, _, err = run_main("learn", "check", "9")
    assert (code, "progress.json is damaged" in err) == (1, True)


def test_verdicts_are_shown_if_progress_cannot_be_saved(run_main, started, forked_check, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(progress, "write_atomically", refuse)
    code, out, err = run_main("learn", "check", "9")
    assert (code, "9.1   Softmax: not begun" in out) == (1, True)
    assert "lesson9/progress.json cannot be written, so your progress is not kept: Permission denied" in err


def test_unsolved_exercise_that_is_used_is_named(run_main, started, forked_check):
    said = "it uses your function of exercise 9.1, which is not solved; solve that one first"
    pairs = "\ndef pairs(tokens):\n    def shifted():\n        return softmax(tokens)\n    return shifted(), tokens\n"
    write(started, "\ndef softmax(scores):\n    return scores\n" + pairs)
    code, out, _ = run_main("learn", "check", "9.2")
    assert (code, said in " ".join(out.split())) == (1, True), out
    write(started, "\ndef softmax(scores):\n    return scores.softmax(-1)\n")
    assert "9.1" in run_main("learn", "check", "9")[1]
    assert "not solved" not in run_main("learn", "check", "9.2")[1]  # 9.1 was solved before


def test_an_argument_with_the_name_of_an_exercise_is_no_use_of_it(run_main, started, forked_check):
    write(started, "\ndef pairs(tokens, softmax=1):\n    pairs = tokens\n    return softmax, pairs\n")
    code, out, _ = run_main("learn", "check", "9.2")
    assert (code, "not the expected result" in out, "it uses" in out) == (1, True, False)


def test_untouched_exercises_are_not_begun(run_main, started, forked_check):
    code, out, _ = run_main("learn", "check", "9")
    assert code == 1
    assert "9.1   Softmax: not begun" in out
    assert "0 of 2 solved" in out


def test_solved_lesson_and_progress(run_main, started, forked_check):
    write(started, SOLVED)
    code, out, _ = run_main("learn", "check", "9")
    assert code == 0
    assert "2 of 2 solved" in out
    assert "The lesson is complete. It was the last one." in out
    assert "(10 min, 2 of 2 solved)" in run_main("learn")[1]
    write(started, "\ndef pairs(tokens):\n    return tokens, tokens\n")
    assert run_main("learn", "check", "9.1")[0] == 0
    assert run_main("learn", "check", "9.2")[0] == 1
    assert "(10 min, 1 of 2 solved)" in run_main("learn")[1]


MISTAKES = """
def softmax(scores):
    print("looking at", tuple(scores.shape))
    return scores.exp() / scores.exp().sum(0)


def pairs(tokens):
    return tokens[:-1], [token + 1 for token in tokens[1:]]
"""


def test_mistakes_are_explained(run_main, started, monkeypatch, tmp_path):
    write(started, MISTAKES + "\nfrom pathlib import Path\n\n(Path.home() / 'cache').touch()\n")
    monkeypatch.setenv("HOME", str(tmp_path))  # where libraries keep their caches, and pip the user's packages
    monkeypatch.setenv("PYTHONPATH", "/nowhere")  # the process of the check has its own environment
    code, out, _ = run_main("learn", "check", "9")
    told = " ".join(out.split())
    assert code == 1
    assert "Softmax: a typical mistake Columns sum to 1, not rows" in told
    assert "model/attention.py Right for small scores" in told
    assert "See the section “Large scores” of the lesson." in told
    assert "your code printed: looking at (3, 4)" in told
    assert "case 1 of 2: pairs([1, 2, 3, 4]) the first difference is at [1][0] expected: 2 received: 3" in told
    assert all(len(line) <= 80 for line in out.splitlines() if "/" not in line)
    assert (tmp_path / "cache").exists()


def test_mistakes_are_explained_in_korean(run_main, started, forked_check):
    write(started, MISTAKES)
    told = " ".join(run_main("learn", "check", "9", "--language", "ko")[1].split())
    assert "소프트맥스: 흔한 실수 행이 아니라 열의 합이 1입니다" in told
    assert "2문제 중 0문제 해결" in told


def test_language_of_the_folder_is_kept(run_main, example, forked_check):
    assert run_main("learn", "start", "9", "--language", "ko")[0] == 0
    assert "마지막 축" in (example / "lesson9" / "exercises.py").read_text()
    assert "소프트맥스" in run_main("learn", "check", "9")[1]


def test_json_has_verdicts_and_explanations(run_main, started, forked_check):
    write(started, MISTAKES)
    code, out, _ = run_main("learn", "check", "9", "--json")
    found = json.loads(out)
    assert (code, found["lesson"], found["solved"]) == (1, 9, False)
    first, second = found["exercises"]
    assert (first["status"], first["mistakes"]) == ("mistake", ["wrong-axis", "no-maximum"])
    assert first["explanations"][0]["see"] == "model/attention.py"
    assert (second["status"], second["expected"], second["place"]) == ("different", "2", "[1][0]")


def test_hints_come_one_at_a_time(run_main, started):
    first, second = (run_main("learn", "hint", "9.1")[1] for _ in range(2))
    assert "Hint 1 of 2:" in first
    assert "Hint 2 of 2:" not in first
    assert "Hint 2 of 2:\n      exp(1000) is infinite" in second
    assert run_main("learn", "hint", "9.1")[1] == second


# What a student's file can do to the check.


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import time; time.sleep(60)", "does not end it was stopped after 3 s"),
        ("while True: print('x' * 1000)", "prints without end it was stopped after 8 MB, printed or in a file"),
        ("print('x' * 9_000_000); return scores.softmax(-1)", "Softmax: prints without end"),
        ("return bytearray(1 << 40)", "takes too much memory look for a list or tensor that grows in a loop"),
        ("x = torch.zeros(1 << 38)", "takes too much memory"),
        ("import sys; sys.exit(0)", "Softmax: raises an error SystemExit: 0 in line 16 of your file"),
        ("import sys; sys.stdout.close(); return scores.softmax(-1)", "Softmax: solved"),
        ("import os; os.fork(); return scores.softmax(-1)", "Softmax: solved"),
        ("raise ValueError('x' * 10**6)", "xxx … in line 16 of your file"),
        ("import os; os._exit(0)", "ends the process the process ended with exit code 0"),
        ("import os; os.kill(os.getpid(), 9)", "ends the process the process ended with SIGKILL"),
        (
            "return scores + undefined",
            "NameError: name 'undefined' is not defined in line 16 of your file: return scores",
        ),
        ("return pairs(None)", "it calls the function of exercise 9.2, which is still to be written"),
        ("def f(): return f()\n    return f()", "RecursionError: maximum recursion depth exceeded"),
        ("scores -= scores.max(); return scores.softmax(-1)", "changes its argument"),
        ("import threading; threading.Thread(target=input).start(); return scores.softmax(-1)", "Softmax: solved"),
        ("print('x' * 10**6); return scores.softmax(-1)", "Softmax: solved"),
        ("torch.set_default_dtype(torch.float64); return scores.double().softmax(-1)", "Softmax: solved"),
        (
            "return scores.softmax(-1) + (torch.arange(4) == 2)",
            "3/12 of the numbers differ, the first at [0, 2] expected",
        ),
        ("return None", "case 1 of 2: softmax(Tensor (3, 4) float32) expected: Tensor (3, 4) float32 received: None"),
        ("return scores[0].softmax(-1)", "expected: Tensor (3, 4) float32 received: Tensor (4,) float32"),
    ],
)
def test_code_that_misbehaves_is_reported(run_main, started, forked_check, source, message):
    write(started, f"\ndef softmax(scores):\n    {source}\n")
    told = " ".join(run_main("learn", "check", "9.1")[1].split())
    assert message in told


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def softmax(scores:\n    pass\n", "exercises.py cannot be imported SyntaxError: '(' was never closed"),
        (
            "import no_such_module\n",
            "ModuleNotFoundError: No module named 'no_such_module' in line 15 of your file: import",
        ),
        ("x = bytearray(1 << 40)\n", "exercises.py cannot be imported MemoryError in line 15 of your file: x ="),
        ("raise SystemExit\n", "exercises.py cannot be imported SystemExit"),
        ("del softmax\n", "Softmax: missing exercises.py has no softmax; define it again"),
    ],
)
def test_file_that_cannot_be_imported_is_reported(run_main, started, forked_check, source, message):
    write(started, "\n" + source)
    code, out, _ = run_main("learn", "check", "9")
    assert code == 1
    assert message in " ".join(out.split())


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "is UTF-16; save it as UTF-8"), ("utf-16-le", "is UTF-16-LE; save it"), ("cp949", "is CP949; save it")],
)
def test_other_encodings_are_named(run_main, started, encoding, message):
    file = started / "exercises.py"
    file.write_text(file.read_text() + "# 소프트맥스는 점수를 확률로 바꾼다\n", encoding=encoding)
    code, _, err = run_main("learn", "check", "9")
    assert (code, message in err) == (2, True), err


def test_named_encoding_is_read(run_main, started, forked_check):
    file = started / "exercises.py"
    file.write_text("# -*- coding: cp949 -*-\n# 풀이\n" + file.read_text() + SOLVED, encoding="cp949")
    require_source(file)
    assert run_main("learn", "check", "9")[0] == 0


def test_student_may_split_the_file(run_main, started, forked_check):
    (started / "helper.py").write_text("def axis():\n    return -1\n")
    write(started, "\nfrom helper import axis\n\n\ndef softmax(scores):\n    return scores.softmax(axis())\n")
    assert run_main("learn", "check", "9.1")[0] == 0
