"""A small artificial language whose entropy is known exactly, to measure whether a model learns.

Sentences are drawn independently from a weighted automaton, one per line. The possible words of a state are all
different, so a text has exactly one derivation: its probability is a product of weights, and the entropy of the
derivation is the entropy of the text. The auxiliary verb depends on distant words: its tense on the first word, its
number on the determiner, with adjectives and a prepositional phrase of either number in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from itertools import product
from random import Random

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError

Transition = tuple[str, float, str]
"""A word, its probability in the current state, and the next state."""

START, END = "start", "end"
OPENINGS = {
    "today": ("present", 0.5),
    "now": ("present", 0.2),
    "yesterday": ("past", 0.2),
    "once": ("past", 0.1),
}
DETERMINERS = {"the": ("one", 0.4), "every": ("one", 0.2), "some": ("many", 0.3), "all": ("many", 0.1)}
AUXILIARIES = {
    ("present", "one"): "is",
    ("present", "many"): "are",
    ("past", "one"): "was",
    ("past", "many"): "were",
}
ADJECTIVES = {"old": 0.12, "quiet": 0.08, "curious": 0.05}
NOUNS = {"cat": 0.25, "sailor": 0.2, "teacher": 0.15, "robot": 0.1, "king": 0.05}
PREPOSITIONS = {"near": 0.15, "behind": 0.1, "without": 0.05}
PLACES = {"water": 0.4, "hills": 0.3, "lanterns": 0.2, "home": 0.1}
VERBS = {"eating": 0.4, "reading": 0.35, "painting": 0.25}
OBJECTS = {
    "eating": {"bread": 0.5, "apples": 0.3, "fish": 0.2},
    "reading": {"letters": 0.6, "poems": 0.3, "maps": 0.1},
    "painting": {"doors": 0.5, "clouds": 0.25, "fish": 0.25},
}


def grammar_text(sentences: int, seed: int) -> str:
    """Return `sentences` random sentences, each ending with a newline; reproducible by seed."""
    random = Random(seed)
    return "".join(_sentence(random) for _ in range(sentences))


def grammar_entropy() -> float:
    """Return the entropy of the language in nats per byte, the lowest loss any model can reach."""
    visits = _expected_visits()
    nats = sum(-visits[state] * p * math.log(p) for state, (_, p, _) in _all_transitions())
    return nats / _expected_byte_counts().sum()


def grammar_unigram_entropy() -> float:
    """Return the entropy of the byte frequencies in nats per byte, the lowest loss without context."""
    counts = _expected_byte_counts()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def grammar_nats(text: str) -> float:
    """Return the exact negative log-probability (nats) of complete sentences under the grammar.

    Raises:
        DataError: the text does not belong to the language; the message names the line and the word.
    """
    if not text.endswith("\n"):
        raise DataError("a grammar text must end with a newline; remove the incomplete last sentence")
    return sum(_sentence_nats(line, number) for number, line in enumerate(text[:-1].split("\n"), start=1))


def _sentence(random: Random) -> str:
    words: list[str] = []
    state = START
    while state != END:
        options = _automaton()[state]
        ((word, _, state),) = random.choices(options, [weight for _, weight, _ in options])
        words.append(word)
    return " ".join(words) + "\n"


def _sentence_nats(line: str, number: int) -> float:
    state, nats = START, 0.0
    for word in line.split(" "):
        transition = next((t for t in _automaton().get(state, ()) if t[0] == word), None)
        if transition is None:
            raise DataError(f"line {number}: the grammar does not allow {word!r} here (state {state!r})")
        nats -= math.log(transition[1])
        state = transition[2]
    if state != END:
        raise DataError(f"line {number}: the sentence is incomplete (state {state!r})")
    return nats


@cache
def _automaton() -> dict[str, tuple[Transition, ...]]:
    """Return the transitions of each state; a state's name tells what the sentence must still remember."""
    states = {START: tuple((word, p, tense) for word, (tense, p) in OPENINGS.items())}
    for tense in ("present", "past"):
        states[tense] = tuple((word, p, f"{tense} {number}") for word, (number, p) in DETERMINERS.items())
    for tense, number in product(("present", "past"), ("one", "many")):
        states |= _subject_transitions(f"{tense} {number}", AUXILIARIES[tense, number], number)
    states["verb"] = tuple((verb, p, verb) for verb, p in VERBS.items())
    for verb, objects in OBJECTS.items():
        states[verb] = tuple((word, p, END) for word, p in objects.items())
    return states


def _subject_transitions(memory: str, auxiliary: str, number: str) -> dict[str, tuple[Transition, ...]]:
    """Return the states between determiner and auxiliary, which carry `memory` (tense and number)."""
    plural = "s" if number == "many" else ""
    adjectives = tuple((word, p, memory) for word, p in ADJECTIVES.items())
    nouns = tuple((word + plural, p, f"{memory} noun") for word, p in NOUNS.items())
    phrases = tuple((word, p, f"{memory} phrase") for word, p in PREPOSITIONS.items())
    return {
        memory: adjectives + nouns,
        f"{memory} noun": (*phrases, (auxiliary, 1 - sum(PREPOSITIONS.values()), "verb")),
        f"{memory} phrase": tuple((word, p, f"{memory} auxiliary") for word, p in PLACES.items()),
        f"{memory} auxiliary": ((auxiliary, 1.0, "verb"),),
    }


def _all_transitions() -> Iterable[tuple[str, Transition]]:
    return ((state, transition) for state, transitions in _automaton().items() for transition in transitions)


def _expected_visits() -> dict[str, float]:
    """Return the expected visits to each state per sentence, the solution of v = start + transitionsᵀ v."""
    index = {state: i for i, state in enumerate(_automaton())}
    transitions = np.zeros((len(index), len(index)))
    for state, (_, p, after) in _all_transitions():
        if after != END:
            transitions[index[state], index[after]] += p
    start = np.eye(len(index))[index[START]]
    visits = np.linalg.solve(np.eye(len(index)) - transitions.T, start)
    return {state: float(visits[i]) for state, i in index.items()}


def _expected_byte_counts() -> NDArray[np.float64]:
    """Return the expected number of occurrences of each byte per sentence, (256,)."""
    visits = _expected_visits()
    counts = np.zeros(256)
    for state, (word, p, after) in _all_transitions():
        written = f"{word}\n" if after == END else f"{word} "
        counts += visits[state] * p * np.bincount(list(written.encode()), minlength=256)
    return counts
