"""CTranslate2 folders, run by CTranslate2 itself."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from glassgpt import api
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.errors import UsageError
from glassgpt.interchange.agreement import greedy
from glassgpt.interchange.ctranslate2_folder import CTranslate2, write_ctranslate2
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS, require_exportable
from glassgpt.model.config import ModelConfig
from small_models import attentive_model

TEXT = ["the cat sat on 12345 mats. It's 한국어 문장 2024년! " * 30]
SHAPE = {"vocab_size": 257, "n_embd": 64, "n_head": 4}
CASES = {
    "usual": {},
    "variant": {"norm_eps": 1e-3, "activation": "gelu", "n_inner": 96, "bias": False},  # transformers#13666
    "padded": {"vocab_size": 270},
    "llama": {"arch": "llama", "bias": False, "n_kv_head": 2, "norm_eps": 1e-3},
}


def written(folder, weights="float32", **shape):
    model = attentive_model(**SHAPE | shape)
    folder.mkdir()
    write_ctranslate2(model, load_tokenizer("bytes"), folder, weights)
    return model, CTranslate2(folder)


@pytest.mark.parametrize("case", CASES)
def test_function_is_ours(case, tmp_path):
    model, engine = written(tmp_path / "out", **CASES[case])
    tokens = torch.randint(257, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0].numpy()
    found = engine.logits(tokens)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert engine.greedy(tokens[:20], 16) == greedy(model, tokens[:20], 16)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_end_of_text_does_not_stop_the_check(tmp_path):
    model = attentive_model(**SHAPE)
    with torch.no_grad():
        model.token_embedding.weight[256] = 2 * model.token_embedding.weight.abs().amax()
        model.norm.bias.fill_(5.0)
    write_ctranslate2(model, load_tokenizer("bytes"), tmp_path, "float32")
    assert CTranslate2(tmp_path).greedy([65, 66], 5) == [256] * 5


def test_past_the_context_is_an_error(tmp_path):
    _, engine = written(tmp_path / "out")  # CTranslate2#1157
    assert engine.logits([65] * 48).shape == (48, 257)
    with pytest.raises(RuntimeError, match="No position encodings are defined for positions >= 48"):
        engine.logits([65] * 49)
    with pytest.raises(RuntimeError, match="No position encodings"):
        engine.greedy([65] * 40, 20)


def test_int8_is_small_and_close(nano_run, tmp_path):
    exact = api.export(nano_run, tmp_path / "float32", format="ct2", check=True)
    rounded = api.export(nano_run, tmp_path / "int8", format="ct2", weights="int8", check=True)
    assert max(each.max_error for each in exact) < 5e-5
    assert all(each.same_greedy == each.n_greedy for each in exact)
    # Without VNNI, sums of two 8-bit products may saturate at 16 bits: an error of 2.3 on such a processor.
    largest, share = (1.5, 0.95) if torch.cpu._is_vnni_supported() else (4.0, 0.85)
    assert 1e-3 < max(each.max_error for each in rounded) < largest
    assert np.mean([each.argmax_share for each in rounded]) > share
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("float32", "int8")]
    assert sizes[1] < 0.4 * sizes[0]


@pytest.mark.parametrize("spec", ["bpe:300 llama", "unigram:300 glassgpt", "sentencepiece:320 glassgpt"])
def test_tokens_of_the_folder_are_ours(spec, tmp_path):
    tokenizer = train_tokenizer(spec.split()[0], TEXT, spec.split()[1])
    model = attentive_model(**SHAPE | {"vocab_size": tokenizer.vocab_size})
    write_ctranslate2(model, tokenizer, tmp_path, "float32")
    vocabulary = json.loads((tmp_path / "vocabulary.json").read_text())
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT[0][:200])
    assert encoding.ids == tokenizer.encode(TEXT[0][:200])
    assert [vocabulary[token] for token in encoding.ids] == encoding.tokens


def test_modern_is_refused():
    with pytest.raises(UsageError, match="ct2 .* cannot express the architecture modern; export it with --format hf"):
        require_exportable(FORMATS["ct2"], ModelConfig(arch="modern", bias=False), ExportOptions("float32"))
