"""Recall and speed of `glassgpt index` on textbooks and on KorQuAD and XQuAD, beside bm25s on the same passages.

The exercises of the textbooks' sections are cut before indexing, because the questions stand in them word for word. Half of
the questions, by a hash of their section, were used to choose weights (dev); the other half were not (test). The
figures of bm25s are those of its own scores for the terms of our tokenizer (for the speed), and for words (for recall).

    python benchmarks/retrieval.py DATA              # DATA holds textbooks.train.jsonl.xz, textbooks.val.jsonl.xz and rag/
    python benchmarks/retrieval.py DATA --documents rows.jsonl    # writes the sections for the next line, and measures nothing
    glassgpt index rows.jsonl --out INDEX --dense minilm; python benchmarks/retrieval.py DATA --dense INDEX
    python benchmarks/retrieval.py --passages 5000000   # synthetic passages: time and size by number
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import lzma
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from glassgpt import console
from glassgpt.retrieval.building import build_index
from glassgpt.retrieval.documents import open_file
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.manifest import IndexOptions
from glassgpt.retrieval.questions import Question, read_questions
from glassgpt.retrieval.search_evaluation import SearchReport, evaluate_search

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
EXERCISES = re.compile(r"(?:Review Questions?|Section Quiz|Self-Check Questions?|Multiple Choice)\s*$")
SOCIOLOGY = "osbooks-introduction-sociology"
SYNTHETIC_WORDS, WORDS_PER_PASSAGE = 200_000, 150


def read_documents(data: Path, questions: list[Question]) -> list[dict[str, str]]:
    """Return the sections of the textbooks, each cut where its exercises begin."""
    stems: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        stems[question.source].append(question.text)
    documents: list[dict[str, str]] = []
    for name in ("textbooks.train.jsonl.xz", "textbooks.val.jsonl.xz"):
        with lzma.open(data / name, "rt", encoding="utf-8") as file:
            documents += [json.loads(line) for line in file]
    for document in documents:
        if found := [place for stem in stems[document["source"]] if (place := document["text"].find(stem)) >= 0]:
            document["text"] = without_heading(document["text"][: min(found)].rstrip())
    return documents


def without_heading(text: str) -> str:
    """Return a text without the heading of exercises at its end."""
    before, _, last = text.rpartition("\n\n")
    return before.rstrip() if EXERCISES.match(last) else text


def squad_documents(path: Path) -> list[dict[str, str]]:
    """Return the paragraphs of a file in SQuAD's format."""
    contexts = dict.fromkeys(question.context for question in read_questions(path))
    return [{"text": context, "source": f"{path.name}#{number}"} for number, context in enumerate(contexts)]


def titled_documents(path: Path) -> list[dict[str, str]]:
    """Return the paragraphs of a file in SQuAD's format, each named by the title of its article."""
    with open_file(path) as file:
        articles = json.loads(file.read())["data"]
    names = {
        paragraph["context"]: f"{article['title']}/{number}"
        for article in articles
        for number, paragraph in enumerate(article["paragraphs"])
    }
    return [{"text": context, "source": source} for context, source in names.items()]


def build(
    documents: list[dict[str, str]], folder: Path, options: IndexOptions | None = None
) -> tuple[Index, dict[str, float]]:
    """Index documents; return the index with the seconds and sizes that it took."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    wall, used = time.perf_counter(), time.process_time()
    manifest = build_index([rows], folder / "index", options)
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - used}
    size = sum(path.stat().st_size for path in (folder / "index").iterdir())
    return Index.open(folder / "index"), {**seconds, "passages": manifest.passages, "index_bytes": size}


def is_dev(question: Question) -> bool:
    """Return whether a question was used to choose weights."""
    return hashlib.sha256(question.source.encode()).digest()[-1] % 2 == 0


def figures(report: SearchReport) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(report).items()
    }


def write_documents(data: Path, path: Path) -> None:
    """Write the sections of the textbooks as JSON lines."""
    documents = read_documents(data, read_questions(data / "rag" / "multiple-choice.jsonl"))
    path.write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")


def textbook_rows(data: Path, scratch: Path) -> list[dict[str, Any]]:
    stems, glossary = (read_questions(data / "rag" / name) for name in ("multiple-choice.jsonl", "glossary.jsonl"))
    index, built = build(read_documents(data, stems), scratch / "textbooks")
    rows: list[dict[str, Any]] = [{"set": "textbooks", "work": "index", **rounded(built)}]
    rows += search_rows(index, stems, glossary)
    return rows + peer_rows(index, stems)


def dense_rows(data: Path, folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Measure an index of the textbooks that has dense vectors, and XQuAD with them."""
    stems, glossary = (read_questions(data / "rag" / name) for name in ("multiple-choice.jsonl", "glossary.jsonl"))
    rows = search_rows(Index.open(folder), [dataclasses.replace(each, options=()) for each in stems], glossary)
    name = "xquad.en.json"
    index, built = build(squad_documents(data / "rag" / name), scratch / "dense-xquad", IndexOptions(dense="minilm"))
    rows.append({"set": name, "work": "index", **rounded(built)})
    rows.append({"set": name, "work": "search", **figures(evaluate_search(index, read_questions(data / "rag" / name)))})
    return [{**row, "system": "with dense vectors"} for row in rows]


def search_rows(index: Index, stems: list[Question], glossary: list[Question]) -> list[dict[str, Any]]:
    """Return the figures of an index of the textbooks on the parts of both sets of questions."""
    rows: list[dict[str, Any]] = []
    parts = {
        "dev": is_dev,
        "test": lambda question: not is_dev(question),
        "psychology and government": lambda question: not question.source.startswith(SOCIOLOGY),
        "all": lambda question: True,
    }
    for name, questions in (("stems", stems), ("glossary", glossary)):
        for part, is_in in parts.items():
            chosen = [question for question in questions if is_in(question)]
            rows.append({"set": f"{name} ({part})", "work": "search", **figures(evaluate_search(index, chosen))})
            console.output_json(rows[-1])
    with_options = [
        dataclasses.replace(each, text=f"{each.text} {' '.join(each.options)}", options=()) for each in stems
    ]
    if any(each.options for each in stems):
        rows.append(
            {"set": "stems with options (all)", "work": "search", **figures(evaluate_search(index, with_options))}
        )
    return rows


def peer_rows(index: Index, questions: list[Question]) -> list[dict[str, Any]]:
    """Measure bm25s on our passages, each word a term: recall of documents, time of indexing and of a search."""
    try:
        import bm25s
    except ImportError:
        return []
    texts = [index.store.passage(number).text for number in range(len(index))]
    used = time.process_time()
    peer = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    peer.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    rows: list[dict[str, Any]] = [
        {"set": "textbooks", "work": "index", "system": "bm25s", "cpu_seconds": round(time.process_time() - used, 2)}
    ]
    sources = {index.store.source(number)[0]: number for number in range(len(index.store.documents))}
    ranks, seconds = [], []
    for question in questions:
        start = time.perf_counter()
        words = bm25s.tokenize([question.text], stopwords="en", show_progress=False, return_ids=False)[0]
        scores = peer.get_scores(words)
        seconds.append(time.perf_counter() - start)
        best = np.zeros(len(index.store.documents), np.float32)
        np.maximum.at(best, index.document_of_passage, scores)
        ranks.append(int((best > best[sources[question.source]]).sum()) + 1)
    rank = np.array(ranks)
    recall = {f"recall_at_{k}": round(float((rank <= k).mean()), 4) for k in (1, 5)}
    milliseconds = round(1000 * statistics.median(seconds), 2)
    return [*rows, {"set": "stems (all)", "work": "search", "system": "bm25s", **recall, "milliseconds": milliseconds}]


def squad_rows(data: Path, scratch: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in ("KorQuAD_v1.0_dev.json.xz", "xquad.en.json"):
        path = data / "rag" / name
        questions = read_questions(path)
        index, built = build(squad_documents(path), scratch / path.stem)
        rows.append({"set": name, "work": "index", **rounded(built)})
        rows.append({"set": name, "work": "search", **figures(evaluate_search(index, questions))})
        console.output_json(rows[-1])
        index, _ = build(titled_documents(path), scratch / f"{path.stem}-titles")
        rows.append({"set": f"{name}, titles", "work": "search", **figures(evaluate_search(index, questions))})
        console.output_json(rows[-1])
    return rows


def synthetic_rows(n_passages: int, scratch: Path) -> list[dict[str, Any]]:
    """Measure passages of random words, distributed as in language."""
    draw = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(SYNTHETIC_WORDS)])
    rows = scratch / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for _ in range(n_passages):
            words = vocabulary[np.minimum(draw.zipf(1.2, WORDS_PER_PASSAGE), SYNTHETIC_WORDS) - 1]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    wall = time.perf_counter()
    manifest = build_index([rows], scratch / "index")
    seconds = time.perf_counter() - wall
    wall = time.perf_counter()
    index = Index.open(scratch / "index")
    opening = time.perf_counter() - wall
    times: list[float] = []
    for _ in range(50):
        question = " ".join(vocabulary[draw.integers(10, 5000, 8)])
        start = time.perf_counter()
        index.search(question)
        times.append(1000 * (time.perf_counter() - start))
    size = sum(path.stat().st_size for path in (scratch / "index").iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        {
            "set": "synthetic", "work": "index and search", "passages": manifest.passages, "seconds": round(seconds, 1),
            "opening_seconds": round(opening, 2), "milliseconds": round(statistics.median(times), 2),
            "index_bytes": size, "peak_memory_bytes": peak,
        }
    ]  # fmt: skip


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from others; the same row of an earlier run is replaced."""
    return row["set"], row["work"], row.get("system"), row["passages"] if row["set"] == "synthetic" else None


def merged(before: dict[str, Any], rows: list[dict[str, Any]], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the runs and rows of a report with new rows in place of the same ones; the others keep the run that measured them.

    Args:
        before: the report so far.
        rows: what was measured now.
        measured: date, hardware and versions of this run.
    """
    new = {identity(row) for row in rows}
    kept = [row for row in before["rows"] if identity(row) not in new]
    numbers = sorted({row["run"] for row in kept})
    runs = [*(before["runs"][number] for number in numbers), measured]
    renumbered = [{**row, "run": numbers.index(row["run"])} for row in kept]
    return {"runs": runs, "rows": [*renumbered, *({**row, "run": len(numbers)} for row in rows)]}


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    cores = sum(line.startswith("processor") for line in lines)
    load = Path("/proc/loadavg").read_text().split()[0] if sys.platform == "linux" else ""
    return {"cpu": name, "cores": cores, "load_average": load}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("glassgpt", "numpy", "bm25s"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the textbooks and questions")
    parser.add_argument("--documents", type=Path, help="write the sections to this file and end")
    parser.add_argument(
        "--dense", type=Path, metavar="INDEX", help="measure this index of the sections, with dense vectors"
    )
    parser.add_argument("--passages", type=int, default=0, help="measure this number of synthetic passages instead")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="file to write, or whose rows of the same work to replace"
    )
    arguments = parser.parse_args()
    if (arguments.data is None) == (not arguments.passages):
        parser.error("give either DATA or --passages N")
    if arguments.documents:
        write_documents(arguments.data, arguments.documents)
        return
    hardware = machine()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.passages:
            rows = synthetic_rows(arguments.passages, Path(folder))
        elif arguments.dense:
            rows = dense_rows(arguments.data, arguments.dense, Path(folder))
        else:
            rows = [*textbook_rows(arguments.data, Path(folder)), *squad_rows(arguments.data, Path(folder))]
    before: dict[str, Any] = {"runs": [], "rows": []}
    if arguments.results.exists():
        before = json.loads(arguments.results.read_text(encoding="utf-8"))
    measured = {"date": datetime.date.today().isoformat(), "hardware": hardware, "versions": versions()}
    report = {
        "what": "recall and speed of glassgpt index and search; each row names its run, from 0",
        "command": "python benchmarks/retrieval.py DATA; python benchmarks/retrieval.py DATA --dense INDEX; "
        "python benchmarks/retrieval.py --passages N",
        **merged(before, rows, measured),
    }
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    console.info(f"wrote {arguments.results}")


if __name__ == "__main__":
    main()
