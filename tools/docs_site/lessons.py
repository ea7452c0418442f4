"""The lessons as executed pages: each is run in a student's folder, and its page shows what every cell printed and drew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.docs_site.pages import HERE, LANGUAGES, ROOT, Language, SiteError, title

from glassgpt.learn.folder import fill
from glassgpt.learn.lesson import Lesson, lessons
from glassgpt.learn.notebook import Cell, cells

Rewrite = Callable[[str, str], str]
"""Turns links of a page in docs/ into those of a page of the site, whose name is the second argument."""
INDEX = "lessons/index"
SOURCE_FILE = re.compile(r"(?<!\[)`(?:src/glassgpt/)?((?:\w+/)*\w+\.py)`(?!\])")
SECONDS = 600
"""Time limit of a lesson."""
KEPT_FILES = {".py", ".md", ".toml", ".json", ".safetensors", ".txt"}
TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Executed lessons",
        "intro": "Nine lessons from the first idea to a model in service, on your own model. "
        "`glassgpt learn start 0` makes a folder with the notebook and the exercises of a lesson; `glassgpt learn check 0` "
        "explains the mistakes in your solution. The pages here show what the lessons print and draw once their exercises are solved.",
        "head": "| lesson | you will have built | minutes |",
        "start": "Start it with `glassgpt learn start {number}`, about {minutes} minutes. You will have built: {builds}",
        "small": "This page was built with tiny settings, so its figures and pictures differ from those of a real run.",
    },
    "ko": {
        "title": "실행한 단원",
        "intro": "처음 생각부터 서비스하는 모델까지, 내 모델로 배우는 아홉 단원입니다. `glassgpt learn start 0`은 단원의 노트북과 연습 "
        "문제가 든 폴더를 만들고, `glassgpt learn check 0`은 내가 쓴 코드의 무엇이 틀렸는지 설명합니다. 여기의 페이지는 연습 "
        "문제를 다 풀었을 때 단원이 출력하고 그리는 것을 보여 줍니다.",
        "head": "| 단원 | 만들게 되는 것 | 분 |",
        "start": "`glassgpt learn start {number}`로 시작하고, {minutes}분쯤 걸립니다. 만들게 되는 것: {builds}",
        "small": "이 페이지는 아주 작은 설정으로 만들었으므로 수치와 그림이 실제 실행과 다릅니다.",
    },
}


@dataclass(frozen=True)
class Executed:
    """A lesson after its cells were run.

    Attributes:
        lesson: the lesson.
        cells: its text and code, in order.
        outputs: of each code cell; see `cells.run_cells`.
        folder: holds the pictures.
    """

    lesson: Lesson
    cells: Sequence[Cell]
    outputs: Sequence[Mapping[str, Any]]
    folder: Path


def execute_all(work: Path, *, small: bool) -> dict[Language, list[Executed]]:
    """Run all lessons in both languages, two at a time; those that have not changed are taken from the last build."""
    state = source_state()
    jobs = [(lesson, language) for lesson in lessons().values() for language in LANGUAGES]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda job: execute(*job, work, state, small=small), jobs))
    return {
        language: [each for each, (_, chosen) in zip(done, jobs, strict=True) if chosen == language]
        for language in LANGUAGES
    }


def source_state() -> str:
    """Return a hash of everything that a lesson may use: the whole package."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix in KEPT_FILES and path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def execute(lesson: Lesson, language: Language, work: Path, state: str, *, small: bool) -> Executed:
    """Run a lesson, or take what the last build with the same sources made.

    Raises:
        SiteError: a cell fails, or the lesson takes too long.
    """
    parts = cells(lesson.document(language))
    folder = work / f"{language}-{lesson.number}{'-small' if small else ''}"
    kept, key = folder / "outputs.json", folder / "key"
    if not (kept.is_file() and key.is_file() and key.read_text() == state):
        shutil.rmtree(folder, ignore_errors=True)
        run_lesson(lesson, language, [part.source for part in parts if part.kind == "code"], folder, small=small)
    outputs: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
    if outputs and outputs[-1]["error"]:
        raise SiteError(f"lesson {lesson.number} ({language}), cell {len(outputs)}:\n{outputs[-1]['error']}")
    key.write_text(state)
    return Executed(lesson, parts, outputs, folder)


def run_lesson(lesson: Lesson, language: Language, code: list[str], out: Path, *, small: bool) -> None:
    """Run the cells of a lesson in a new student's folder with the exercises solved, in a separate process."""
    student = out / "student" / f"lesson{lesson.number}"
    student.mkdir(parents=True)
    fill(lesson, student, language, solved=True)  # the cells use what the student has written
    (out / "cells.json").write_text(json.dumps(code), encoding="utf-8")
    environment = os.environ | {"GLASSGPT_LANGUAGE": language, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"GLASSGPT_LEARN_SMALL": "1"} if small else {}
    command = [sys.executable, str(HERE / "cells.py"), str(student), str(out / "cells.json"), str(out)]
    try:
        done = subprocess.run(command, env=environment, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise SiteError(f"lesson {lesson.number} ({language}) takes more than {SECONDS} s") from error
    if done.returncode:
        raise SiteError(f"lesson {lesson.number} ({language}) ended its process with exit code {done.returncode}")


def lesson_pages(executed: Sequence[Executed], language: Language, rewrite: Rewrite, *, small: bool) -> dict[str, str]:
    """Return the page of each lesson and their list, by name."""
    texts = TEXTS[language]
    rows = [texts["head"], "|---|---|---|"]
    for each in executed:
        about = each.lesson.texts(language)
        rows.append(
            f"| [{each.lesson.number}. {about.title}]({each.lesson.number}.md) | {about.builds} | {about.minutes} |"
        )
    names = "\n".join(str(each.lesson.number) for each in executed)
    index = (
        f"# {texts['title']}\n{texts['intro']}\n\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    return {INDEX: index} | {
        f"lessons/{each.lesson.number}": lesson_page(each, language, rewrite, small=small) for each in executed
    }


def lesson_page(executed: Executed, language: Language, rewrite: Rewrite, *, small: bool) -> str:
    """Return the page of a lesson: its text, and each cell with what it printed and drew."""
    about, texts = executed.lesson.texts(language), TEXTS[language]
    start = texts["start"].format(number=executed.lesson.number, minutes=about.minutes, builds=about.builds)
    outputs = iter(executed.outputs)
    parts: list[str] = []
    for cell in executed.cells:
        if cell.kind == "markdown":
            parts.append(rewrite(link_sources(cell.source), f"lessons/{executed.lesson.number}"))
            continue
        output = next(outputs)
        parts += [fenced("python", cell.source), *shown(output, f"{language}-{executed.lesson.number}")]
    text = "\n\n".join(parts) + "\n"
    heading = f"# {title(text)}\n"
    return text.replace(heading, f"{heading}\n{start}\n" + (f"\n*{texts['small']}*\n" if small else ""), 1)


def link_sources(text: str) -> str:
    """Return a text in which the names of files of the package are links, as a page in docs/ writes them."""

    def linked(match: re.Match[str]) -> str:
        exists = (ROOT / "src" / "glassgpt" / match[1]).is_file()
        return f"[{match[0]}](../src/glassgpt/{match[1]})" if exists else match[0]

    return SOURCE_FILE.sub(linked, text)


def shown(output: Mapping[str, Any], folder: str) -> list[str]:
    """Return what a cell printed and drew, as Markdown."""
    text = output["text"].rstrip()
    printed = [fenced("{code-block} none", f":class: cell-output\n\n{text}")] if text else []
    return printed + [f"![{picture_title(name)}](../images/lessons/{folder}/{name})" for name in output["images"]]


def fenced(language: str, text: str) -> str:
    """Return a fenced block, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def picture_title(name: str) -> str:
    """Return the description of a picture from its file name."""
    return re.sub(r"[-_]+", " ", Path(name).stem)


def copy_pictures(executed: Sequence[Executed], language: Language, images: Path) -> None:
    """Copy the pictures of the lessons to the folder of a language's pictures."""
    for each in executed:
        target = images / "lessons" / f"{language}-{each.lesson.number}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in (name for output in each.outputs for name in output["images"]):
            shutil.copyfile(each.folder / name, target / name)
