"""Loss and perplexity on held-out text, compared with reference computations."""

import copy
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_quality_helpers import RecordingObserver
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from glassgpt.data import PrepareOptions, load_tokenizer, origins, prepare
from glassgpt.data.origins import ORIGINS_FILE, shown_origin
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.errors import CheckpointError, DataError, TokenizerError, UsageError
from glassgpt.evaluation.continuations import continuation_nats
from glassgpt.evaluation.documents import DocumentLoss, document_losses, document_spans, file_type_losses
from glassgpt.evaluation.evaluate import EvaluationReport, EvaluationRequest, evaluate
from glassgpt.evaluation.held_out import continuation_of
from glassgpt.evaluation.loss import evaluate_dataset, require_same_tokenizer
from glassgpt.evaluation.perplexity import Span, sliding_loss, windows_of
from glassgpt.evaluation.show import documents_json, report_json, show_documents, show_validation, validation_json
from glassgpt.interchange.huggingface import export_model
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


def reference_loss(model, tokens, context, limit=None):
    """Reference: each window alone, one target at a time. Return total nats, targets and bytes."""
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
def test_loss_equals_the_reference(model, dataset, context, limit):
    tokens = dataset.split("validation")
    tokens = tokens.read(0, len(tokens))
    assert BYTES.end_of_text in tokens[1:]  # the targets include the end of a document
    assert len(tokens) % CONTEXT != 1  # the last window is shorter
    nats, count, n_bytes = reference_loss(model, tokens, context or CONTEXT, limit)
    found = evaluate_dataset(model, dataset, context_length=context, limit=limit)
    assert (found.tokens, found.n_bytes) == (count, n_bytes)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.loss == pytest.approx(nats / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    if n_bytes:
        assert found.bits_per_byte == pytest.approx(nats / n_bytes / math.log(2), rel=1e-5)


def test_uniform_model_has_the_loss_of_its_vocabulary_size(dataset, model):
    blank = build_model(model.config).eval()
    torch.nn.init.zeros_(blank.token_embedding.weight)
    found = evaluate_dataset(blank, dataset)
    assert found.loss == pytest.approx(math.log(257), rel=1e-6)
    tokens = dataset.split("validation")
    ends = int((tokens.read(1, len(tokens) - 1) == BYTES.end_of_text).sum())
    assert found.n_bytes == found.tokens - ends
    assert found.bits_per_byte == pytest.approx(math.log2(257) * found.tokens / found.n_bytes, rel=1e-6)


@pytest.mark.parametrize("request_", [EvaluationRequest(), EvaluationRequest(stride=8)], ids=["windows", "sliding"])
def test_nan_loss_is_named(dataset, model, request_):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.blocks[0].mlp.up.weight[0, 0] = math.nan
    with pytest.raises(CheckpointError, match="loss is NaN, so its weights are damaged"):
        evaluate(damaged, dataset, request_)


def test_byte_lengths_count_utf8_bytes():
    gpt2 = load_tokenizer("gpt2")
    lengths = gpt2.byte_lengths()
    assert lengths[gpt2.encode("Hello, é한")].sum() == len("Hello, é한".encode())
    assert lengths[gpt2.end_of_text] == 0


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_preserves_training_mode_and_random_state(model, dataset, training):
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


def test_data_of_another_tokenizer_is_refused(dataset):
    require_same_tokenizer(BYTES.fingerprint, dataset)
    with pytest.raises(TokenizerError, match="another tokenizer"):
        require_same_tokenizer(load_tokenizer("gpt2").fingerprint, dataset)


def test_overflow_and_missing_bytes_are_not_errors():
    assert ValidationLoss(1e6, 10, 5).perplexity == math.inf
    assert math.isnan(ValidationLoss(1.0, 1, 0).bits_per_byte)


def test_validation_is_shown_and_serialized(capsys):
    figures = ValidationLoss(nats=20 * math.log(2), tokens=10, n_bytes=8)
    shown = validation_json(figures)
    assert shown["bits_per_byte"] == pytest.approx(2.5)
    assert shown["perplexity"] == pytest.approx(4.0)
    assert (shown["tokens"], shown["bytes"]) == (10, 8)
    unknown = validation_json(ValidationLoss(1e6, 10, 0))
    assert unknown["perplexity"] is unknown["bits_per_byte"] is None  # JSON has no infinity
    show_validation(figures)
    assert capsys.readouterr().out.splitlines()[-1].startswith("validation: 2.5000 bits per byte")


def nats_one_by_one(model, tokens, context, stride):
    """Reference: token by token, each in the first window that reaches it."""
    nats = {}
    for begin in range(0, len(tokens) - 1, stride):
        window = tokens[begin : begin + context]
        for at in range(len(window)):
            target = begin + at + 1
            if target < len(tokens) and target not in nats:
                with torch.no_grad():
                    logits = model(torch.tensor(window[None, : at + 1]))[0, -1].double()
                nats[target] = -float(logits.log_softmax(-1)[tokens[target]])
    assert sorted(nats) == list(range(1, len(tokens)))
    return sum(nats.values())


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (0, 5), (0, 16), (7, 3)])
def test_sliding_window_equals_the_reference(model, dataset, context, stride):
    tokens = dataset.split("validation")
    tokens = tokens.read(0, len(tokens))
    found = sliding_loss(model, dataset, stride=stride, context_length=context)
    assert found.nats == pytest.approx(nats_one_by_one(model, tokens, context or CONTEXT, stride), rel=1e-5)
    assert found.tokens == len(tokens) - 1
    assert found.n_bytes == int((tokens[1:] != BYTES.end_of_text).sum())


def transformers_recipe(theirs, tokens, max_length, stride):
    """The loop of the perplexity guide of transformers: tokens scored before have the label -100."""
    nats, scored, previous = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + max_length, len(tokens))
        inputs = torch.tensor(tokens[None, begin:end])
        labels = inputs.clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = theirs(inputs, labels=labels).loss
        count = int((labels[:, 1:] != -100).sum())  # labels are shifted inside the model
        nats += float(loss) * count
        scored += count
        previous = end
        if end == len(tokens):
            break
    return nats, scored


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory):
    """GPT2LMHeadModel of transformers with the same weights."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(model, BYTES, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("stride", [1, 4, 15])
def test_sliding_window_equals_transformers(model, theirs, dataset, stride):
    """Transformers feeds the last token of a window too and discards its prediction: one token less of context."""
    assert type(theirs) is GPT2LMHeadModel
    tokens = dataset.split("validation")
    tokens = tokens.read(0, len(tokens))
    nats, scored = transformers_recipe(theirs, tokens, CONTEXT, stride)
    found = sliding_loss(model, dataset, stride=stride, context_length=CONTEXT - 1)
    assert (found.nats, found.tokens) == (pytest.approx(nats, rel=1e-5), scored)
    assert found.perplexity == pytest.approx(math.exp(nats / scored), rel=1e-5)
    n_bytes = len(BYTES.decode(tokens[tokens != BYTES.end_of_text].tolist()).encode())
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


def test_continuation_nats_equal_transformers(model, theirs):
    """The loss of transformers with the prompt excluded from the labels."""
    texts = [
        continuation_of(BYTES, b"thou", [*b" art \xc3\xa9"]),
        continuation_of(BYTES, b"1", [*b"6.", BYTES.end_of_text]),
    ]
    for one, (nats, count) in zip(texts, continuation_nats(model, BYTES, texts), strict=True):
        row = [*one.prompt, *one.tokens, *[BYTES.end_of_text] * one.ended]
        scored = len(row) - len(one.prompt)
        labels = [*[-100] * len(one.prompt), *row[-scored:]]
        with torch.no_grad():
            loss = theirs(torch.tensor([row]), labels=torch.tensor([labels])).loss
        assert (nats, count) == (pytest.approx(float(loss) * scored, rel=1e-5), scored)


def unigram_model(vocabulary):
    """Return a GPT-2 whose logits are the same at every position of any text, and these logits in float64."""
    torch.manual_seed(1)
    model = build_model(ModelConfig(vocab_size=vocabulary, context_length=8, n_layer=1, n_head=1, n_embd=4)).eval()
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.copy_(torch.tensor([3.0, -2.0, 1.0, 0.5]))
        model.token_embedding.weight.normal_()
    return model, (model.token_embedding.weight.double() @ model.norm.bias.double()).detach().numpy()


@pytest.mark.parametrize("stride", [0, 3])
def test_bits_per_byte_of_a_unigram_model(tmp_path, stride):
    """The loss follows from the token counts alone; tokens of this vocabulary have many different lengths."""
    (tmp_path / "text.txt").write_text("Grüße, Hello world, 한국어 👍 and so on. " * 400, encoding="utf-8")
    prepare(PrepareOptions(sources=(str(tmp_path / "text.txt"),), out=tmp_path / "data", tokenizer="gpt2", workers=1))
    dataset = TokenDataset.open(tmp_path / "data")
    tokens = dataset.split("validation")
    targets = tokens.read(1, len(tokens) - 1)
    model, logits = unigram_model(dataset.tokenizer.vocab_size)
    log_shares = logits - np.log(np.exp(logits).sum())
    nats = -sum(count * log_shares[token] for token, count in Counter(targets.tolist()).items())
    text = dataset.tokenizer.decode([token for token in targets.tolist() if token != dataset.tokenizer.end_of_text])
    found = sliding_loss(model, dataset, stride=stride) if stride else evaluate_dataset(model, dataset)
    assert found.perplexity == pytest.approx(math.exp(nats / len(targets)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert len(targets) < len(text.encode())


def test_stride_equal_to_the_context_means_no_overlap(model, dataset):
    plain, sliding = evaluate_dataset(model, dataset), sliding_loss(model, dataset, stride=CONTEXT)
    assert sliding.nats == pytest.approx(plain.nats, rel=1e-6)
    assert (sliding.tokens, sliding.n_bytes) == (plain.tokens, plain.n_bytes)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.integers(1, 70))
def test_each_token_is_scored_once_with_enough_context(tokens, context, stride, given_tokens):
    stride = min(stride, context)
    span = Span(100, tokens, given_tokens)
    scored = []
    for window in windows_of(0, span, context, stride):
        assert window.inputs <= context
        for target in range(window.inputs - window.scored, window.inputs):
            position = window.start + target + 1  # in the array
            scored.append(position - 100)
            in_view = target + 1
            assert in_view >= min(position - 100, context - stride)
    assert scored == list(range(given_tokens, tokens))


@pytest.mark.parametrize("stride", [0, -1, 17])
def test_invalid_stride_is_refused(model, dataset, stride):
    with pytest.raises(UsageError, match=f"--stride must be from 1 .* to 16 .*, not {stride}"):
        sliding_loss(model, dataset, stride=stride)


@pytest.mark.parametrize("stride", [0, 4])
def test_documents_are_evaluated_alone_and_sum_to_the_whole(model, dataset, stride):
    tokens = dataset.split("validation")
    tokens = tokens.read(0, len(tokens))
    found = document_losses(model, dataset, stride=stride)
    starts = np.flatnonzero(tokens == BYTES.end_of_text)
    assert len(found) == len(starts) >= 3
    assert sum(one.loss.tokens for one in found) == len(tokens) - 1
    for one, begin, end in zip(found, starts, [*(starts[1:] + 1), len(tokens)], strict=True):
        text = tokens[begin:end]
        assert one.loss.nats == pytest.approx(nats_one_by_one(model, text, CONTEXT, stride or CONTEXT), rel=1e-5)
        whole = " ".join(BYTES.decode(text[text != BYTES.end_of_text].tolist()).split())
        assert whole.startswith(one.excerpt.rstrip("…\N{REPLACEMENT CHARACTER}"))


def test_documents_are_named_by_their_files(model, tmp_path, capsys):
    """Texts in separate files and rows of JSON lines; each name belongs to its text."""
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"chapter {number}.txt").write_text(
            f"chapter {number}. " + "thou art " * (1 + number % 4)
        )
    rows = [json.dumps({"text": f"row {number}. thou art"}) for number in range(1, 31)]
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join(rows))
    options = PrepareOptions(
        sources=(str(tmp_path / "texts"),), out=tmp_path / "data", tokenizer="bytes", validation_fraction=0.4, workers=1
    )
    prepare(options)
    dataset = TokenDataset.open(tmp_path / "data")
    found = document_losses(model, dataset)
    named = {one.excerpt.partition(".")[0]: one.origin.removeprefix(f"{tmp_path}/texts/") for one in found}
    assert len(named) == len(found) > 10
    assert {word.split()[0] for word in named} == {"chapter", "row"}
    for text, origin in named.items():
        kind, number = text.split()
        assert origin == (f"chapter {number}.txt, line 1" if kind == "chapter" else f"rows.jsonl, line {number}")
    show_documents(found[:5])
    shown = capsys.readouterr().out
    assert all(f"{one.number}. {shown_origin(one.origin)}" in shown for one in found[:5])
    assert documents_json(found)[0]["origin"] == found[0].origin
    (tmp_path / "data" / ORIGINS_FILE).write_text('["another"]')
    assert {one.origin for one in document_losses(model, dataset)} == {""}
    (tmp_path / "data" / ORIGINS_FILE).unlink()
    assert [one.loss for one in document_losses(model, dataset)] == [one.loss for one in found]


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("a/b c.txt, line 1", "b c.txt"),
        ("a/b.txt, line 21", "b.txt, line 21"),
        ("a/b.jsonl, line 1", "b.jsonl, line 1"),
        ("a/b.json.gz, value 1", "b.json.gz, value 1"),
        ("b.parquet, row 1", "b.parquet, row 1"),
    ],
)
def test_origins_are_shown_without_what_says_nothing(origin, shown):
    assert shown_origin(origin) == shown


def test_too_many_origins_are_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "MAX_ORIGINS", 2)
    origins.write_origins(tmp_path, ["a", "b", "c"])
    assert origins.read_origins(tmp_path, 3) == []
    origins.write_origins(tmp_path, ["a", "b\udcff"])
    assert origins.read_origins(tmp_path, 2) == ["a", "b\udcff"]


def dataset_holding_out(folder, tokens):
    """Return a dataset whose held-out text is exactly these tokens."""
    source = folder / "text.txt"
    source.write_text("training text, and some of it held out " * 5)
    prepare(PrepareOptions(sources=(str(source),), out=folder / "data", tokenizer="bytes", workers=1))
    dataset = TokenDataset.open(folder / "data")
    dataset.split = lambda name: TokenArray([np.array(tokens, dtype=np.int64)])
    return dataset


def test_empty_documents_are_skipped_with_a_notice(model, tmp_path):
    end, observer = BYTES.end_of_text, RecordingObserver()
    found = document_losses(
        model, dataset_holding_out(tmp_path, [end, end, *b"abc", end, end, *b"d", end]), observer=observer
    )
    assert [one.number for one in found] == [2, 4]
    assert [one.excerpt for one in found] == ["abc", "d"]
    assert observer.messages == ["skipped 3 empty held-out documents"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "has no held-out text"), ([BYTES.end_of_text] * 4, "every held-out document is empty")],
)
def test_missing_held_out_text_is_an_error(model, tmp_path, tokens, message):
    with pytest.raises(DataError, match=message):
        document_losses(model, dataset_holding_out(tmp_path, tokens))


def test_text_before_the_first_end_of_text_is_a_document():
    assert document_spans(np.array([5, 6, 256, 7]), 256) == [Span(0, 3), Span(2, 2)]
    assert document_spans(np.array([256, 7, 256, 256, 8]), 256) == [Span(0, 3), Span(2, 2), Span(3, 2)]


def test_hardest_and_easiest_documents_are_shown(capsys):
    many = [DocumentLoss(n, ValidationLoss(float(n), 1, 1), f"text {n}") for n in range(1, 14)]
    show_documents(many)
    out = capsys.readouterr().out
    assert out.index("13. text 13") < out.index("9. text 9") < out.index("the easiest") < out.index("│ 1. text 1")
    assert "6. text 6" not in out
    show_documents(many[:3])
    assert "all 3 held-out documents" in capsys.readouterr().out
    assert documents_json(many)[0] == {
        "number": 1, "origin": None, "excerpt": "text 1", "validation_loss": 1.0, "perplexity": pytest.approx(math.e),
        "bits_per_byte": pytest.approx(1 / math.log(2)), "tokens": 1, "bytes": 1,
    }  # fmt: skip


def test_losses_are_summed_by_file_type():
    def document(origin, nats, tokens):
        return DocumentLoss(1, ValidationLoss(nats, tokens, 2 * tokens), "x", origin)

    documents = [document("a/b.py", 2.0, 2), document("c.txt, line 3", 9.0, 3), document("e, f.PY", 4.0, 4)]
    found = file_type_losses(documents)
    assert found == {".py": ValidationLoss(6.0, 6, 12), ".txt": ValidationLoss(9.0, 3, 6)}
    assert file_type_losses(documents[:1]) == {}
    report = EvaluationReport(ValidationLoss(15.0, 9, 18), documents)
    assert report_json(report, None)["file_types"][".py"]["validation_loss"] == 1.0
