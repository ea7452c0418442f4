"""Adapters in PEFT's format, with PEFT itself as the oracle (slow: its import takes seconds)."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lora import SHAPES, TOKENS, adapted

from glassgpt import api
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.huggingface import export_model
from glassgpt.interchange.peft import export_adapter, import_adapter
from glassgpt.model.lora import add_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from small_models import attentive_model


def replace(folder, **settings):
    """Change settings of an exported adapter."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture
def exported(tmp_path):
    """An exported adapter of a GPT-2."""
    export_adapter(adapted("gpt2", alpha=7.0, targets="attention,mlp.down"), tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("targets", ["all", "attention"])
def test_adapter_survives_the_format(shape, targets, tmp_path):
    model = adapted(shape, alpha=7.0, targets=targets, rank_stabilized=True, dropout=0.1)
    export_adapter(model, tmp_path)
    other = attentive_model(**SHAPES[shape])
    lora = import_adapter(other, "base", tmp_path)
    assert (lora.rank, lora.alpha, lora.rank_stabilized, lora.dropout) == (4, 7.0, True, 0.1)
    assert torch.equal(other(TOKENS), model(TOKENS))


def test_names_are_those_of_peft(exported):
    """The names and the orientation that PEFT 0.21 writes for GPT-2, from its source."""
    tensors = load_file(exported / "adapter_model.safetensors")
    assert tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape == (4, 24)
    assert tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"].shape == (72, 4)
    assert len(tensors) == 2 * 2 * 3
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["target_modules"] == ["attn.c_attn", "attn.c_proj", "mlp.c_proj"]
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (4, 7.0, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "describes an adapter of type IA3; only LORA is supported"),
        ({"use_dora": True}, "glassgpt does not support use_dora"),
        ({"rank_pattern": {"c_attn": 2}}, "glassgpt does not support rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "glassgpt does not support modules_to_save"),
        ({"bias": "all"}, "bias is 'all'; glassgpt does not support bias"),
        ({"r": "many"}, "r is 'many'; it must be a number"),
        ({"r": 0}, "lora.rank is 0; it must be at least 1"),
        ({"lora_alpha": None}, "lora_alpha is None; it must be a number"),
        ({"r": 8}, r"has the shape \(4, 24\), but the base needs \(8, 24\)"),
    ],
)
def test_settings_of_another_function_are_refused(exported, settings, message):
    replace(exported, **settings)
    with pytest.raises(InterchangeError, match=message):
        import_adapter(attentive_model(), "base", exported)


def test_adapter_of_another_model_is_refused(exported):
    with pytest.raises(InterchangeError, match="it adapts another model"):
        import_adapter(attentive_model(n_embd=48), "base", exported)
    with pytest.raises(InterchangeError, match="which a gpt2 of 1 blocks does not have"):
        import_adapter(attentive_model(n_layer=1), "base", exported)
    with pytest.raises(InterchangeError, match="adapts some blocks only: there is nothing for blocks.2"):
        import_adapter(attentive_model(n_layer=3), "base", exported)


def test_damaged_and_missing_weights(exported):
    file = exported / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "base_model.model.lm_head.lora_A.weight": torch.zeros(4, 24)}, file)
    with pytest.raises(InterchangeError, match="adapts 'base_model.model.lm_head.lora_A.weight', which a gpt2"):
        import_adapter(attentive_model(), "base", exported)
    file.write_bytes(b"nothing")
    with pytest.raises(InterchangeError, match="is damaged"):
        import_adapter(attentive_model(), "base", exported)
    file.unlink()
    (exported / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(InterchangeError, match="pickled adapters are not loaded"):
        import_adapter(attentive_model(), "base", exported)


def test_commands_export_and_import_an_adapter(adapter_run, base_run, run_main, tmp_path):
    code, _, errors = run_main("export", adapter_run, tmp_path / "peft", "--format", "peft")
    assert code == 0, errors
    assert "PeftModel.from_pretrained(BASE" in errors
    assert {path.name for path in (tmp_path / "peft").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "glassgpt-export.json",
    }  # fmt: skip
    code, _, errors = run_main("import", tmp_path / "peft", "--base", base_run, "--out", tmp_path / "again")
    assert code == 0, errors
    again, first = (api.load(run, device="cpu").model for run in (tmp_path / "again", adapter_run))
    assert torch.equal(again(TOKENS), first(TOKENS))
    assert "was trained on other weights" not in errors
    assert run_main("merge", tmp_path / "again", "--out", tmp_path / "merged")[0] == 0

    code, _, errors = run_main("import", tmp_path / "peft", "--base", tmp_path / "merged", "--out", tmp_path / "twice")
    assert code == 0, errors
    assert "was trained on other weights" in errors

    code, _, errors = run_main("import", tmp_path / "peft", "--out", tmp_path / "x")
    assert (code, "name the run that it adapts with --base RUN" in errors) == (2, True)
    code, _, errors = run_main("export", base_run, tmp_path / "x", "--format", "peft")
    assert (code, "is not an adapter; export it with --format hf" in errors) == (2, True)
    code, _, errors = run_main("import", base_run, "--base", base_run, "--out", tmp_path / "x")
    assert code != 0
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("targets", ["all", "mlp"])
def test_peft_computes_the_same(shape, targets, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_model(attentive_model(**SHAPES[shape]), load_tokenizer("bytes"), tmp_path / "base")
    model = adapted(shape, alpha=7.0, targets=targets, rank_stabilized=shape != "gpt2")
    (tmp_path / "adapter").mkdir()
    export_adapter(model, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        before = base(TOKENS).logits
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        torch.testing.assert_close(theirs(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)
        assert (model(TOKENS) - before).abs().max() > 0.1
        torch.testing.assert_close(theirs.merge_and_unload()(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [["c_attn"], ["c_attn", "c_fc", "mlp.c_proj"]])
def test_adapter_that_peft_wrote_is_imported(targets, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_model(attentive_model(), load_tokenizer("bytes"), tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, fan_in_fan_out=True, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(base, config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = attentive_model()
    lora = import_adapter(ours, "base", tmp_path / "adapter")
    assert (lora.rank, lora.alpha) == (3, 5.0)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=1e-4)


def test_trained_parameters_of_an_imported_adapter_are_the_adapter(exported):
    model = attentive_model()
    import_adapter(model, "base", exported)
    reference = add_lora(attentive_model(), Adapter("base", LoRAConfig(4, 7.0, "attention,mlp.down")))
    assert [*trainable_parameters(model)] == [*trainable_parameters(reference)]
