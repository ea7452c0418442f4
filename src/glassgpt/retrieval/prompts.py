"""The texts that a model reads: a passage with its number and a question, or a question with the beginning of its answer.

They are English whatever the language of the user: small models follow it best.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TASK = "Answer with a short quotation from the passage."
BLANK = re.compile(r"_{2,}|\.{4,}|…{2,}")
"""The gap of a sentence to be completed."""
ABOUT_OTHERS = ("all of the", "none of the", "both ", "all the above", "neither ")
"""Beginnings of options that are about the other options; no sentence states them."""


EXAMPLES = """Answer each question with a few words of the passage.

Passage: The lighthouse at Cape Orin was designed by Maria Velden and finished in 1871. It replaced a wooden tower that a storm had destroyed four years earlier.
Question: Who designed the lighthouse?
Answer: Maria Velden

Passage: Honey bees tell each other where food is by a dance. The angle of the dance shows the direction, and its length the distance to the flowers.
Question: What does the length of the dance show?
Answer: the distance to the flowers

Passage: The railway opened in 1902 with eleven stations. Today some 40,000 people use it each day, twice as many as before the war.
Question: How many stations did the railway have at first?
Answer: eleven

"""
"""Invented, so that no document has them; a small model answers in a few words after it has read some answers."""


def question_after(passage: str, question: str) -> str:
    """Return the text after which a short answer follows; an empty passage is left out."""
    given = f"Passage: {' '.join(passage.split())}\n" if passage else ""
    return f"{given}Question: {' '.join(question.split())}\nAnswer:"


def question_about(passage: str, label: str, question: str) -> str:
    """Return the message of the user that asks a question about a passage; an empty passage is left out."""
    given = f"Passage {label}:\n{passage}\n\n" if passage else ""
    return f"{given}Question: {question}\n{TASK}"


def filled_in(question: str, option: str) -> tuple[str, str]:
    """Return a question with an option as its answer, cut in two: what precedes the answer, and the answer with the rest.

    The option fills the gap of a question that has one (`________`).
    """
    if gap := BLANK.search(question):
        before, after = question[: gap.start()].rstrip(), question[gap.end() :]
        option = option[:1].lower() + option[1:] if before and option[1:2].islower() else option
        return before, f"{' ' if before else ''}{option}{after}"
    return f"Question: {question}\nAnswer:", f" {option}"


def evidence_text(sentences: Sequence[str]) -> str:
    """Return sentences as the text that precedes a question; empty without sentences."""
    return "".join(f"{' '.join(sentence.split())}\n" for sentence in sentences) + ("\n" if sentences else "")
