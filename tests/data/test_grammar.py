import math
from collections import Counter

import pytest

from glassgpt.data.grammar import (
    END,
    START,
    _automaton,
    grammar_entropy,
    grammar_nats,
    grammar_text,
    grammar_unigram_entropy,
)
from glassgpt.errors import DataError

TEXT = grammar_text(20_000, seed=0)


def test_probabilities_sum_to_one_and_words_are_unambiguous():
    states = _automaton()
    for transitions in states.values():
        assert math.isclose(sum(p for _, p, _ in transitions), 1)
        assert len({word for word, _, _ in transitions}) == len(transitions)
        assert {after for _, _, after in transitions} <= {*states, END}


def test_entropy_equals_enumeration_of_all_sentences():
    nats = length = mass = 0.0
    open_ends = [(START, 1.0, 0)]
    while open_ends:
        state, probability, written = open_ends.pop()
        for word, p, after in _automaton()[state]:
            here, size = probability * p, written + len(word) + 1
            if after == END:
                mass, nats, length = mass + here, nats - here * math.log(here), length + here * size
            elif here > 1e-7:
                open_ends.append((after, here, size))
    assert mass > 0.99
    assert grammar_entropy() == pytest.approx(nats / length, rel=0.02)


def test_entropy_equals_sample_average():
    assert grammar_nats(TEXT) / len(TEXT) == pytest.approx(grammar_entropy(), rel=0.01)


def test_unigram_entropy_equals_sample_estimate():
    shares = [count / len(TEXT) for count in Counter(TEXT).values()]
    measured = -sum(share * math.log(share) for share in shares)
    assert grammar_unigram_entropy() == pytest.approx(measured, rel=0.01)
    assert grammar_entropy() < 0.2 * grammar_unigram_entropy()


def test_probability_of_one_sentence():
    expected = -math.log(0.5 * 0.4 * 0.12 * 0.25 * 0.15 * 0.3 * 0.4 * 0.2)
    assert grammar_nats("today the old cat near hills is eating fish\n") == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "today the cat are eating fish\n",
        "yesterday the cat is eating fish\n",
        "today the cat is\n",
        "today the cat is eating fish",
        "today the cat is eating fish fish\n",
        "\n",
    ],
)
def test_invalid_texts_raise(text):
    with pytest.raises(DataError):
        grammar_nats(text)


def test_text_depends_on_the_seed():
    assert grammar_text(50, seed=1) == grammar_text(50, seed=1) != grammar_text(50, seed=2)
    assert grammar_text(50, seed=1).count("\n") == 50
