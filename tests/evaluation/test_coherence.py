"""Sentence splitting and coherence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from text_quality_helpers import BYTES, FREE_TEXT, LetterCounts

from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.evaluation.coherence import Coherence, EmbeddingModel, ModelStates, adjacent_cosine, sentences


def test_sentences_are_split_at_sentence_ends():
    text = 'He said: "Go!" Then he went… Really? Yes.\nno end here\n\nNew one 日本。語。 ... 👍'
    assert sentences(text) == [
        'He said: "Go!', "Then he went…", "Really?", "Yes.", "no end here", "New one 日本。", "語。",
    ]  # fmt: skip
    assert sentences("") == sentences("...") == sentences("👍") == []
    assert sentences("one") == ["one"]


@given(FREE_TEXT)
def test_sentences_keep_every_letter(text):
    def letters(part):
        return [character for character in part if character.isalnum()]

    assert letters("".join(sentences(text))) == letters(text)


def test_adjacent_cosine_on_small_examples():
    assert adjacent_cosine(np.array([[1.0, 0], [0, 2], [0, 5]])) == pytest.approx((0 + 1) / 2)
    assert adjacent_cosine(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-1)
    assert adjacent_cosine(np.zeros((2, 3))) == 0


def test_coherence_is_relative_to_the_mean_embedding():
    coherence = Coherence(LetterCounts(), ["a. b."])  # origin (1/2, 1/2)
    assert coherence.measure(["a. a."]) == pytest.approx(1)
    assert coherence.measure(["a. b."]) == pytest.approx(-1)
    assert coherence.measure(["a. a.", "a. b. a.", "one sentence", ""]) == pytest.approx((1 - 1) / 2)
    assert math.isnan(coherence.measure(["one sentence", ""]))
    assert math.isnan(Coherence(LetterCounts(), [""]).measure([]))


def test_model_states_are_averaged_over_a_sentence(small):
    long = "x" * 50
    found = ModelStates(small, BYTES).embed(["abc", long])
    with torch.no_grad():
        wanted = [small.features(torch.tensor([BYTES.encode(text)]))[0].mean(0) for text in ("abc", long[:32])]
    assert found == pytest.approx(torch.stack(wanted).numpy(), abs=1e-6)
    assert "own hidden states" in ModelStates.name


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A tiny encoder in transformers' layout, with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def encoder_states(folder, text):
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state[0]


def test_embedding_model_uses_its_own_pooling(encoder_folder):
    texts = ["the cat.", "the cat sat the cat sat."]  # of different lengths: padding must not count
    wanted = [encoder_states(encoder_folder, text) for text in texts]
    found = EmbeddingModel(encoder_folder).embed(texts)
    assert found == pytest.approx(torch.stack([states.mean(0) for states in wanted]).numpy(), abs=1e-5)
    pooling = encoder_folder / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text('{"pooling_mode_cls_token": true}')
    found = EmbeddingModel(encoder_folder).embed(texts)
    assert found == pytest.approx(torch.stack([states[0] for states in wanted]).numpy(), abs=1e-5)


def test_missing_embedding_model_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"--embedding-model must be the folder .*none has no config.json"):
        EmbeddingModel(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="cannot be loaded"):
        EmbeddingModel(tmp_path)


def test_package_that_an_embedding_model_needs_is_no_usage_error(encoder_folder, monkeypatch):
    from transformers import AutoTokenizer

    def fails(*arguments, **options):
        raise ImportError("the tokenizer needs the library sentencepiece")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(GlassGPTError, match="cannot be loaded: the tokenizer needs") as raised:
        EmbeddingModel(encoder_folder)
    assert raised.value.exit_code == 1
