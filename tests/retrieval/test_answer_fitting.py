"""The weights that `python -m benchmarks.answers --fit` prints, on made-up questions."""

from pathlib import Path

import numpy as np
import pytest

from answer_helpers import WordIndex, random_reader
from glassgpt.retrieval.questions import Question
from glassgpt.retrieval.spans import FEATURES, LIKELIHOOD_WEIGHTS, Spans

PLACES = ("Orin", "Belden", "Karst", "Lowick", "Maren", "Tully")


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        from benchmarks import answers

        yield answers


def test_weights_of_spans_find_the_answers_that_they_were_fitted_on(benchmark):
    texts = [
        f"The bridge of {place} is old. It was built in {1900 + at} by many masons, says the town."
        for at, place in enumerate(PLACES)
    ]
    questions = [
        Question(f"When was the bridge of {place} built?", f"document {at}", answers=(str(1900 + at),))
        for at, place in enumerate(PLACES)
    ]
    found = benchmark.fitted_spans(WordIndex(*texts), random_reader(), questions)
    assert set(found["likelihoods"]) == set(LIKELIHOOD_WEIGHTS)
    assert np.isfinite(list(found["likelihoods"].values())).all()
    weights = np.array([found["spans"][name] for name in FEATURES])
    for question, text in zip(questions, texts, strict=True):
        spans = Spans.of_passage(question.text, text)
        assert spans[int((spans.features @ weights).argmax())] == question.answers[0]


def test_one_right_candidate_per_question_is_a_conditional_logit(benchmark):
    draw = np.random.default_rng(0)
    sets = [draw.normal(size=(n, 3)) for n in (4, 5, 6) * 10]
    chosen = [int((each @ [2.0, -1.0, 0.0] + draw.gumbel(size=len(each))).argmax()) for each in sets]
    rights = [np.eye(len(each))[right] for each, right in zip(sets, chosen, strict=True)]
    expected = benchmark.conditional_logit(sets, chosen, penalty=1.0)
    nothing = (np.ones((2, 3)), np.zeros(2))  # a question without a right candidate
    found = benchmark.marginal_logit([*sets, nothing[0]], [*rights, nothing[1]], penalty=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_spans_that_are_nearly_right_count_a_little(benchmark):
    assert [benchmark.share_of_right(score) for score in (1.0, 0.8, 0.6, 0.0)] == [1.0, pytest.approx(0.16), 0.0, 0.0]
