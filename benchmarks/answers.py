"""Measure answers from indexed documents: multiple choice, quotations, abstention; and fit their constants.

    python -m benchmarks.answers --data DATA --run RUN --out benchmarks/results/answers.json
    python -m benchmarks.answers --data DATA --run RUN --fit        # prints the constants, from the other half

DATA is a folder with `textbooks.{train,val}.jsonl.xz` (rows with `text` and `source`) and `rag/`: `multiple-choice.jsonl`,
`xquad.en.json` and `KorQuAD_v1.0_dev.json.xz`. RUN is SmolLM2 135M: `glassgpt import smollm2 --out RUN`. The exercises are cut from
the sections, where the questions stand verbatim. Half of the questions, by a hash of their document, are for fitting; the figures are
those of the other half. `--limit` takes fewer questions of each kind.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.retrieval import is_dev, read_documents
from numpy.typing import NDArray

from glassgpt import api
from glassgpt.api.answers import quoting_model
from glassgpt.api.serving import chat_template
from glassgpt.retrieval.answer_evaluation import QUESTIONS_AT_ONCE, answer_figures, answered_questions
from glassgpt.retrieval.answer_metrics import HANGUL, auroc, f1
from glassgpt.retrieval.building import build_index
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.model_requests import run_together
from glassgpt.retrieval.multiple_choice import ChoiceReader, choice_features
from glassgpt.retrieval.option_features import SEARCH_FEATURES
from glassgpt.retrieval.questions import Question
from glassgpt.retrieval.quoting import QuotingModel
from glassgpt.retrieval.spans import FEATURES, Spans
from glassgpt.training.hardware import versions

CONFIDENCE = ("score_per_word", "margin", "coverage", "question_gain", "answer_logprob", "answer_gain")
"""Features of the confidence that are fitted: those of the search alone, then also the model's likelihoods."""
CHOICES = (*SEARCH_FEATURES, "evidence", "closed")
"""Features of a choice that are fitted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="as of glassgpt evaluate")
    parser.add_argument("--limit", type=int, default=150, help="questions of each kind; 0 takes all")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    loaded = api.load(given.run, device=given.device)
    reader = quoting_model(loaded, chat_template(given.run))
    conditions = {**versions(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (documents, questions) in question_sets(given.data).items():
            index = _index(documents, Path(folder) / name)
            half = [each for each in questions if is_dev(each) == given.fit]
            random.Random(0).shuffle(half)
            start = time.perf_counter()
            results[name] = (
                fitted(index, reader, half[: given.limit or None])
                if given.fit
                else measured(index, reader, half[: given.limit or None])
            )
            results[name] |= {
                "questions": len(half[: given.limit or None]),
                "seconds": round(time.perf_counter() - start, 1),
            }
            print(name, json.dumps(results[name], indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps({**results, **conditions}, indent=1) + "\n")
    print(conditions)


def question_sets(data: Path) -> dict[str, tuple[list[dict[str, str]], list[Question]]]:
    """Return the documents and the questions of each set."""
    rag = data / "rag"
    choices = [json.loads(line) for line in (rag / "multiple-choice.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = [
        Question(
            row["question"],
            row["source"],
            answers=(row["options"][row["answer"]],),
            options=tuple(row["options"]),
            correct=row["answer"],
        )
        for row in choices
        if len(row["options"]) > 1
    ]
    return {
        "textbooks": (read_documents(data, questions), questions),
        "xquad": _squad(json.loads((rag / "xquad.en.json").read_bytes())),
        "korquad": _squad(json.loads(lzma.decompress((rag / "KorQuAD_v1.0_dev.json.xz").read_bytes()))),
    }


def _squad(content: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[Question]]:
    documents: list[dict[str, str]] = []
    questions: list[Question] = []
    for article in content["data"]:
        for number, paragraph in enumerate(article["paragraphs"]):
            source = f"{article['title']}/{number}"
            documents.append({"source": source, "text": paragraph["context"]})
            questions += [
                Question(each["question"], source, answers=tuple(answer["text"] for answer in each["answers"]))
                for each in paragraph["qas"]
            ]
    return documents, questions


def _index(documents: Sequence[Mapping[str, str]], folder: Path) -> Index:
    rows = folder.with_suffix(".jsonl")
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in documents), encoding="utf-8")
    build_index([rows], folder)
    return Index.open(folder)


def measured(index: Index, reader: QuotingModel, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the figures of a set of questions."""
    return answer_figures(list(answered_questions(index, reader, questions)))


def fitted(index: Index, reader: QuotingModel, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the constants that fit a set of questions best."""
    answered = list(answered_questions(index, reader, questions))
    rows = [(each.found.features, 1.0) for each in answered if each.is_findable and each.found.features]
    rows += [(each.without.features, 0.0) for each in answered if each.without.features]
    labels = np.array([label for _, label in rows])
    found: dict[str, Any] = {}
    for kind, names in (("search", CONFIDENCE[:3]), ("search_and_model", CONFIDENCE)):
        matrix = np.array([[features[name] for name in names] for features, _ in rows])
        weights, bias = logistic_regression(matrix, labels)
        scores = matrix @ weights
        found[kind] = {
            "weights": dict(zip(names, weights.tolist(), strict=True)),
            "bias": bias,
            "auroc_of_these": auroc(scores[labels == 1].tolist(), scores[labels == 0].tolist()),
        }
    if questions[0].options:
        chooser = ChoiceReader(reader.model, reader.tokenizer)
        steps = (choice_features(chooser, index, each.text, each.options) for each in questions)
        device = next(reader.model.parameters()).device.type
        sets = [
            features
            for features, *_ in run_together(reader.model, reader.tokenizer, steps, QUESTIONS_AT_ONCE.get(device, 1))
        ]
        inputs = [np.stack([features[name] for name in CHOICES], axis=1) for features in sets]
        found["choice"] = dict(
            zip(CHOICES, conditional_logit(inputs, [each.correct for each in questions]).tolist(), strict=True)
        )
    elif not HANGUL.search(questions[0].text):
        found |= fitted_spans(index, reader, questions)
    return found


def fitted_spans(index: Index, reader: QuotingModel, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the weights of the features of spans, and those of the model's likelihoods beside them."""
    asked = [(each, hits[0].passage) for each in questions if (hits := index.search(each.text, 1))]
    spans = [Spans.of_passage(each.text, passage.text) for each, passage in asked]
    rights = [
        np.array([share_of_right(f1(own[at], each.answers)) for at in range(len(own))])
        for own, (each, _) in zip(spans, asked, strict=True)
    ]
    weights = marginal_logit([own.features for own in spans], rights, penalty=3.0)
    totals = [own.features @ weights for own in spans]
    steps = (
        reader.read_spans(each.text, passage.text, own, np.argsort(-total, kind="stable").tolist())
        for (each, passage), own, total in zip(asked, spans, totals, strict=True)
    )
    device = next(reader.model.parameters()).device.type
    read = run_together(reader.model, reader.tokenizer, steps, QUESTIONS_AT_ONCE.get(device, 1))
    inputs: list[NDArray[np.float64]] = []
    targets: list[NDArray[np.float64]] = []
    for found, total, right in zip(read, totals, rights, strict=True):
        among = list(found.among)
        inputs.append(np.stack([total[among], found.logprobs, found.expected], axis=1))
        targets.append(right[among])
    names = ("features", "read", "expected")
    return {
        "spans": dict(zip(FEATURES, weights.tolist(), strict=True)),
        "likelihoods": dict(zip(names, marginal_logit(inputs, targets, penalty=1.0).tolist(), strict=True)),
    }


def share_of_right(score: float) -> float:
    """Return how much a span with some F1 counts as right: whole answers do, and those that nearly are, a little."""
    return 1.0 if score > 0.999 else 0.2 * score if score > 0.6 else 0.0


def marginal_logit(
    sets: Sequence[NDArray[np.float64]], rights: Sequence[NDArray[np.float64]], penalty: float
) -> NDArray[np.float64]:
    """Return the weights (D,) that maximise the probability of any right candidate, by L-BFGS; sets without one are left out.

    Args:
        sets: the features of each question's candidates, (candidates, D).
        rights: how much each candidate counts as right, (candidates,).
        penalty: of the squared weights, after scaling each feature to variance 1.
    """
    kept = [(each - each.mean(0), right) for each, right in zip(sets, rights, strict=True) if right.any()]
    scale = np.concatenate([each for each, _ in kept]).std(0) + 1e-6
    inputs = torch.from_numpy(np.concatenate([each for each, _ in kept]) / scale)
    right = torch.from_numpy(np.concatenate([each for _, each in kept]))
    lengths = [len(each) for each, _ in kept]
    w = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ w
        marked = logits + right.clamp_min(1e-30).log()
        pairs = zip(marked.split(lengths), logits.split(lengths), strict=True)
        total = penalty / 2 * (w @ w) - sum(
            (good.logsumexp(0) - every.logsumexp(0) for good, every in pairs), w.new_zeros(())
        )
        total.backward()
        return total

    optimizer.step(loss)
    return w.detach().numpy() / scale


def logistic_regression(
    inputs: NDArray[np.float64], labels: NDArray[np.float64], penalty: float = 1.0
) -> tuple[NDArray[np.float64], float]:
    """Return the weights and the bias that maximise the likelihood of labels 0 and 1, by Newton's method.

    Args:
        inputs: (N, D).
        labels: (N,).
        penalty: of the squared weights, after scaling each feature to variance 1.
    """
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-9
    x = np.concatenate([(inputs - mean) / scale, np.ones((len(inputs), 1))], axis=1)
    penalties = np.diag([penalty] * inputs.shape[1] + [1e-6])
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ w)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalties
        w += np.linalg.solve(hessian, x.T @ (labels - p) - penalties @ w)
    weights = w[:-1] / scale
    return weights, float(w[-1] - weights @ mean)


def conditional_logit(
    sets: Sequence[NDArray[np.float64]], chosen: Sequence[int], penalty: float = 10.0
) -> NDArray[np.float64]:
    """Return the weights (D,) that maximise the likelihood of choices, by Newton's method.

    Args:
        sets: the features of each question's options, (options, D).
        chosen: the right option of each.
        penalty: of the squared weights, after scaling each feature to variance 1.
    """
    centred = [each - each.mean(0) for each in sets]
    scale = np.concatenate(centred).std(0) + 1e-9
    w = np.zeros(len(scale))
    for _ in range(50):
        gradient, hessian = -penalty * w, penalty * np.eye(len(w))
        for x, right in zip((each / scale for each in centred), chosen, strict=True):
            p = np.exp(x @ w - (x @ w).max())
            p /= p.sum()
            gradient += x[right] - p @ x
            hessian += (x * p[:, None]).T @ x - np.outer(p @ x, p @ x)
        w += np.linalg.solve(hessian, gradient)
    return w / scale


if __name__ == "__main__":
    main()
