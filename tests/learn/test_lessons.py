"""Each lesson: both languages agree, solutions pass in several styles, and every planted mistake gets its explanation."""

import ast
import re
import runpy
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

import glassgpt
from glassgpt.learn.lesson import Lesson, MistakeText, lessons
from glassgpt.learn.notebook import cells
from glassgpt.learn.recognize import Judge, equal
from glassgpt.locale import LANGUAGES

HERE = Path(__file__).parent
EXAMPLE = Lesson(9, "example_lessons.lesson9", HERE / "example_lessons" / "lesson9")
LESSONS = [*lessons().values(), EXAMPLE]
FEWEST_EXERCISES, FEWEST_MISTAKES, FEWEST_STYLES, FEWEST_HINTS = 4, 3, 3, 2


@cache
def planted(number: int) -> dict[str, dict[str, dict[str, str]]]:
    """Return the students' code of a lesson: `PLANTED` and `STYLES`, by exercise and name."""
    return runpy.run_path(str(HERE / "planted" / f"lesson{number}.py"))


@cache
def exercises(lesson: Lesson):
    """Return the judges of a lesson's exercises by number."""
    return {each.number: Judge(each) for each in lesson.exercises()}


def verdict(lesson: Lesson, number: str, source: str):
    """Return the verdict on a student's file that ends with the given code."""
    judge = exercises(lesson)[number]
    module = {"__name__": "exercises"}
    exec(compile(lesson.exercise_file("en") + source, "exercises.py", "exec"), module)
    return judge.judge(module[judge.exercise.function])


def planted_code(kind: str):
    return [
        pytest.param(lesson, number, name, source, id=f"{number}-{name}")
        for lesson in LESSONS
        for number, sources in planted(lesson.number)[kind].items()
        for name, source in sources.items()
    ]


@pytest.mark.parametrize(("lesson", "number", "name", "source"), planted_code("PLANTED"))
def test_planted_mistake_is_recognized(lesson, number, name, source):
    mistake = next(each for each in exercises(lesson)[number].exercise.mistakes if each.name == name)
    found = verdict(lesson, number, source)
    assert (found.status, found.mistakes) == ("mistake", mistake.parts or (name,)), found


@pytest.mark.parametrize(("lesson", "number", "name", "source"), planted_code("STYLES"))
def test_correct_solution_passes(lesson, number, name, source):
    found = verdict(lesson, number, source)
    assert found.status == "solved", found


@pytest.fixture(params=LESSONS, ids=lambda lesson: f"lesson{lesson.number}")
def lesson(request):
    return request.param


def test_every_mistake_is_planted_and_every_exercise_has_styles(lesson):
    code = planted(lesson.number)
    assert len(lesson.exercises()) >= (FEWEST_EXERCISES if lesson is not EXAMPLE else 2)
    assert set(code["PLANTED"]) == set(code["STYLES"]) == {each.number for each in lesson.exercises()}
    for exercise in lesson.exercises():
        assert exercise.number.split(".")[0] == str(lesson.number)
        assert set(code["PLANTED"][exercise.number]) == {each.name for each in exercise.mistakes}
        assert len([each for each in exercise.mistakes if not each.parts]) >= FEWEST_MISTAKES
        assert len(code["STYLES"][exercise.number]) >= FEWEST_STYLES


def test_solution_and_mistakes_have_different_results(lesson):
    for number, judge in exercises(lesson).items():
        implementations = {"solution": judge.expected.values, **{each.name: values for each, values in judge.mistakes}}
        for (one, ours), (other, theirs) in combinations(implementations.items(), 2):
            assert not equal(ours, theirs, judge.exercise.tolerance), f"{number}: {one} and {other} give the same"
        assert judge.expected.errors == {}, number


def test_student_file_begins_with_unsolved_exercises(lesson):
    for number in exercises(lesson):
        assert verdict(lesson, number, "").status == "not-begun"


def test_texts_are_complete_in_both_languages(lesson):
    for language in LANGUAGES:
        texts = lesson.texts(language)
        assert texts.title
        assert texts.builds
        assert texts.minutes == lesson.texts("en").minutes > 0
        assert "\n" not in texts.title + texts.builds
        assert list(texts.exercises) == [each.number for each in lesson.exercises()]
        for exercise in lesson.exercises():
            text = texts.exercises[exercise.number]
            explained = {each.name for each in exercise.mistakes if not each.parts}
            assert set(text.mistakes) == explained
            assert {part for each in exercise.mistakes for part in each.parts} <= explained
            assert len(text.hints) >= FEWEST_HINTS
            assert len({*text.hints}) == len(text.hints)
            assert text.title.strip()
            assert text.task.strip()


def test_pointers_lead_to_a_section_or_a_file(lesson):
    for language in LANGUAGES:
        headings = re.findall(r"^#+ (.+)$", lesson.document(language), re.MULTILINE)
        for text in lesson.texts(language).exercises.values():
            for name, mistake in text.mistakes.items():
                assert leads_somewhere(mistake, headings), f"{language} {text.title}, {name}: {mistake.see}"


def leads_somewhere(mistake: MistakeText, headings: list[str]) -> bool:
    if mistake.see.startswith("#"):
        return mistake.see.lstrip("#").strip() in headings
    return (Path(glassgpt.__file__).parent / mistake.see).is_file()


def test_student_files_differ_in_texts_only(lesson):
    one, other = (code_without_texts(lesson.exercise_file(language)) for language in LANGUAGES)
    assert one == other


def test_cells_differ_in_texts_only(lesson):
    one, other = ([each for each in cells(lesson.document(language)) if each.kind == "code"] for language in LANGUAGES)
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        assert code_without_texts(ours.source) == code_without_texts(theirs.source), ours.source


def code_without_texts(source: str) -> str:
    """Return Python code without comments and with every literal text emptied."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
        if isinstance(node, ast.JoinedStr):  # the parts between the values may be in another order
            node.values = sorted((part for part in node.values if isinstance(part, ast.FormattedValue)), key=ast.dump)
    return ast.dump(tree)


def test_texts_of_the_two_languages_have_the_same_structure(lesson):
    one, other = (re.findall(r"^(#+|```\w*)", lesson.document(language), re.MULTILINE) for language in LANGUAGES)
    assert one == other
