"""Figures of a model on a data set, against the same figures added up by hand."""

import json
import math

import numpy as np
import pytest
import torch

from glassgpt.data import load_tokenizer
from glassgpt.data.prepare import PrepareOptions, prepare
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import TokenizerError
from glassgpt.evaluation.loss import evaluate_dataset, require_same_tokenizer
from glassgpt.evaluation.show import show_validation
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.loss import ValidationLoss

BYTES = load_tokenizer("bytes")
CONTEXT = 16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = [f"{n}. thou art é한 {n * n}" * (1 + n % 3) for n in range(60)]
    (folder / "documents.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    options = PrepareOptions(
        sources=(str(folder / "documents.jsonl"),), out=folder / "data", tokenizer="bytes", workers=1
    )
    prepare(options)
    return TokenDataset.open(folder / "data")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=257, context_length=CONTEXT, n_layer=1, n_head=2, n_embd=12, dropout=0.5)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def by_hand(model, tokens, context, limit=None):
    """Each window alone, each target's probability read off: nats in all, targets, bytes."""
    count = min(limit or len(tokens) - 1, len(tokens) - 1)
    nats, n_bytes = 0.0, 0
    for start in range(0, count, context):
        window = tokens[start : min(start + context, count) + 1]
        with torch.no_grad():
            probabilities = model(torch.tensor(window[None, :-1]))[0].double().softmax(-1)
        for row, target in zip(probabilities, window[1:], strict=True):
            nats -= math.log(row[target])
            n_bytes += target != BYTES.end_of_text
    return nats, count, int(n_bytes)


@pytest.mark.parametrize("context", [0, 5, 16])
@pytest.mark.parametrize("limit", [0, 1, 50])
def test_it_is_the_sum_by_hand(model, dataset, context, limit):
    tokens = dataset.split("validation")
    tokens = tokens.read(0, len(tokens))
    assert BYTES.end_of_text in tokens[1:]  # a document ends among the targets
    assert len(tokens) % CONTEXT != 1  # and the last window is a short one
    nats, count, n_bytes = by_hand(model, tokens, context or CONTEXT, limit)
    found = evaluate_dataset(model, dataset, context_length=context, limit=limit)
    assert (found.tokens, found.n_bytes) == (count, n_bytes)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    if n_bytes:
        assert found.bits_per_byte == pytest.approx(nats / n_bytes / math.log(2), rel=1e-5)


def test_a_model_that_knows_nothing_needs_the_log_of_its_vocabulary(dataset, model):
    blank = build_model(model.config).eval()
    torch.nn.init.zeros_(blank.token_embedding.weight)
    found = evaluate_dataset(blank, dataset)
    assert found.loss == pytest.approx(math.log(257), rel=1e-6)
    tokens = dataset.split("validation")
    ends = int((tokens.read(1, len(tokens) - 1) == BYTES.end_of_text).sum())
    assert found.n_bytes == found.tokens - ends
    assert found.bits_per_byte == pytest.approx(math.log2(257) * found.tokens / found.n_bytes, rel=1e-6)


def test_bytes_of_longer_tokens_are_counted_as_bytes():
    gpt2 = load_tokenizer("gpt2")
    lengths = gpt2.byte_lengths()
    assert lengths[gpt2.encode("Hello, é한")].sum() == len("Hello, é한".encode())
    assert lengths[gpt2.end_of_text] == 0


@pytest.mark.parametrize("training", [False, True])
def test_mode_and_generators_are_left_alone(model, dataset, training):
    model.train(training)
    try:
        torch.manual_seed(9)
        before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
        first, second = (evaluate_dataset(model, dataset) for _ in range(2))
        assert first == second  # dropout is off
        assert model.training is training
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == numpys).all()
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


def test_another_tokenizers_data_is_refused(dataset):
    require_same_tokenizer(BYTES.fingerprint, dataset)
    with pytest.raises(TokenizerError, match="another tokenizer"):
        require_same_tokenizer(load_tokenizer("gpt2").fingerprint, dataset)


def test_figures_are_finite_where_they_can_be():
    assert ValidationLoss(1e6, 10, 5).perplexity == math.inf
    assert math.isnan(ValidationLoss(1.0, 1, 0).bits_per_byte)


def test_what_is_shown(capsys):
    figures = ValidationLoss(nats=20 * math.log(2), tokens=10, n_bytes=8)
    show_validation(figures, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["bits_per_byte"] == pytest.approx(2.5)
    assert shown["perplexity"] == pytest.approx(4.0)
    assert (shown["tokens"], shown["bytes"]) == (10, 8)
    show_validation(figures, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1].startswith("validation: 2.5000 bits per byte")
