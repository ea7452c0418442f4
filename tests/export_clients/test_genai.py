"""Exported ONNX folders in ONNX Runtime GenAI; `make test-export` installs it."""

import json

import pytest

pytest.importorskip("onnxruntime_genai", reason="runs in make test-export")

import numpy as np
import onnxruntime_genai as og

from glassgpt import api
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.interchange.agreement import greedy
from glassgpt.interchange.check_prompts import PROMPTS
from glassgpt.interchange.genai import FILE_NAME, genai_config
from small_models import LLAMA, attentive_model

pytestmark = pytest.mark.slow
CORPUS = [
    "It's 1,234.5 o'clock; I'LL see.\n\nnaïve café 한국어 문장 語彙   blanks\t\ttabs\r\n \U0001f600 x = [1, 22, 333] ²½ ٣٤٥\n"
    * 20
]
TEXTS = [*PROMPTS, *CORPUS, "", "it'\u017f we'Ll ٣٤٥ １２３４ \u3000x\u2028 \n \n", "   ", "a  \n", "12345"]
UNTIED = LLAMA | {"tied_head": False}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bytes", {}),
        ("gpt2", {"n_inner": 40}),
        ("bytes", {"n_head": 2, "head_dim": 10}),
        ("llama", UNTIED),
        ("qwen2", LLAMA),
    ],
)
def test_folder_loads_and_gives_our_ids_and_greedy_tokens(name, shape, tmp_path):
    """An untied head stays one (onnxruntime-genai#2306)."""
    tokenizer = load_tokenizer(name) if name == "bytes" else train_tokenizer("bpe:600", CORPUS, name)
    model = attentive_model(vocab_size=tokenizer.vocab_size, **shape)
    api.save_as_run(model, tokenizer, tmp_path / "run")
    api.export(tmp_path / "run", tmp_path / "out", format="onnx", notify=pytest.fail)
    engine = og.Model(str(tmp_path / "out"))
    theirs = og.Tokenizer(engine)
    for text in TEXTS:
        assert theirs.encode(text).tolist() == tokenizer.encode(text), repr(text)
    parameters = og.GeneratorParams(engine)
    parameters.set_search_options(max_length=40)
    generator = og.Generator(engine, parameters)
    prompt = tokenizer.encode("It's 12")[:8]
    generator.append_tokens(np.array([prompt], dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    found = generator.get_sequence(0).tolist()[len(prompt) :]  # it stops after the end of a text
    assert found == greedy(model, prompt, 40 - len(prompt))[: len(found)]
    assert len(found) == 40 - len(prompt) or found[-1] == tokenizer.end_of_text


def test_pattern_of_other_tokenizers_is_still_refused_there(tmp_path):
    """If this fails, GenAI has learned it, and the notice of the export can go."""
    tokenizer = train_tokenizer("bpe:600", CORPUS)
    api.save_as_run(attentive_model(vocab_size=tokenizer.vocab_size), tokenizer, tmp_path / "run")
    notices = []
    api.export(tmp_path / "run", tmp_path / "out", format="onnx", notify=notices.append)
    assert "GenAI cannot read the tokenizer" in "".join(notices)
    assert not (tmp_path / "out" / FILE_NAME).exists()
    config = genai_config(api.load(tmp_path / "run").model.config, tokenizer.end_of_text, "model.onnx")
    (tmp_path / "out" / FILE_NAME).write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="Invalid regex"):
        og.Tokenizer(og.Model(str(tmp_path / "out")))
