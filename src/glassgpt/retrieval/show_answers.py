"""Answers in the terminal, with each quotation marked in its passage, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassgpt import console
from glassgpt.retrieval.answering import Answer, Evidence
from glassgpt.retrieval.multiple_choice import Choice
from glassgpt.retrieval.quoting import Quotation

CONTEXT_CHARACTERS = 240
"""Characters of the passage that are shown on each side of a quotation."""


def show_answer(answer: Answer) -> None:
    """Print an answer, and below it each source with the quotation marked in its passage."""
    if not answer.evidence:
        console.result("Nothing in the documents shares a word with this question.")
        return
    if answer.abstains:
        console.result(f"The documents do not seem to answer this question. (confidence {answer.confidence:.2f})")
        console.result("The nearest passage:")
        _show_passage(answer.evidence[0], None)
        return
    for each in answer.quotations:
        console.output(f"“{each.text}” [{each.number}]")
    console.result(f"(confidence {answer.confidence:.2f})")
    for each in answer.quotations:
        console.output("")
        _show_passage(answer.evidence[each.number - 1], each)


def show_choice(choice: Choice, options: list[str]) -> None:
    """Print the chosen option, the probability of each, and the evidence with its sources."""
    console.output(options[choice.option])
    console.table(
        "Options",
        ["option", "probability"],
        [[option, f"{p:.2f}"] for option, p in zip(options, choice.probabilities, strict=True)],
    )
    for number, hit in enumerate(choice.hits, 1):
        console.output(f"[{number}] {hit.passage.place}")


def _show_passage(evidence: Evidence, quotation: Quotation | None) -> None:
    passage = evidence.passage
    console.styled((f"[{evidence.number}] {passage.place}", "bold"))
    if quotation is None:
        console.output(_shortened(passage.text, 2 * CONTEXT_CHARACTERS, at_end=True))
        return
    first = quotation.start - passage.start
    before, after = passage.text[:first], passage.text[first + len(quotation.text) :]
    marks = ("", "") if console.has_color() else ("»", "«")
    console.styled(
        (_shortened(before, CONTEXT_CHARACTERS, at_end=False), ""),
        (f"{marks[0]}{quotation.text}{marks[1]}", "bold reverse"),
        (_shortened(after, CONTEXT_CHARACTERS, at_end=True), ""),
    )


def _shortened(text: str, length: int, *, at_end: bool) -> str:
    if len(text) <= length:
        return text
    return f"{text[:length]}…" if at_end else f"…{text[-length:]}"


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON values: offsets count the characters of the document's text."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "abstains": answer.abstains,
        "confidence": round(answer.confidence, 4),
        "quotations": [_quotation_json(each) for each in answer.quotations],
        "passages": [_evidence_json(each) for each in answer.evidence],
        "features": {name: round(value, 4) for name, value in answer.features.items()},
    }


def sources_json(answer: Answer) -> list[dict[str, Any]]:
    """Return the passages that are quoted, as JSON values, each with its quotation; of an answer that abstains, the nearest one."""
    if answer.abstains:
        return [{**_evidence_json(each), "quotation": None} for each in answer.evidence[:1]]
    return [
        {**_evidence_json(answer.evidence[each.number - 1]), "quotation": _quotation_json(each)}
        for each in answer.quotations
    ]


def _quotation_json(quotation: Quotation) -> dict[str, Any]:
    """Return a quotation as JSON values."""
    return {"source": quotation.number, "text": quotation.text, "start": quotation.start, "end": quotation.end}


def _evidence_json(evidence: Evidence) -> dict[str, Any]:
    passage, hit = evidence.passage, evidence.hit
    return {
        "number": evidence.number,
        "source": passage.source,
        "path": passage.path,
        "heading": passage.heading,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
        "score": round(hit.score, 4),
        "scores": {name: round(value, 4) for name, value in hit.scores.items()},
        "question_gain": round(evidence.question_gain, 4),
    }


def choice_json(question: str, options: list[str], choice: Choice) -> dict[str, Any]:
    """Return a choice as JSON values."""
    return {
        "question": question,
        "option": choice.option,
        "answer": options[choice.option],
        "options": [
            {"text": text, "probability": round(p, 4), **{name: round(values[at], 4) for name, values in choice.features.items()}}
            for at, (text, p) in enumerate(zip(options, choice.probabilities, strict=True))
        ],
        "evidence": list(choice.sentences),
        "passages": [
            {"number": number, "source": hit.passage.source, "path": hit.passage.path, "heading": hit.passage.heading,
             "start": hit.passage.start, "end": hit.passage.end, "score": round(hit.score, 4)}
            for number, hit in enumerate(choice.hits, 1)
        ],
    }  # fmt: skip


def show_figures(figures: Mapping[str, float | None]) -> None:
    """Print the figures of an evaluation of answers."""
    rows = [
        (name.replace("_", " "), f"{value:.3f}")
        for name, value in figures.items()
        if value is not None and name != "questions"
    ]
    console.table(f"{figures['questions']:,} questions", ("metric", "value"), rows)
