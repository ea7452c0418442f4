"""The adapter itself: its formula, its gradients, merging, and what is trained."""

import math

import pytest
import torch
import torch.nn.functional as F

from glassgpt.adaptation.memory import count_trainable, finetuning_memory
from glassgpt.adaptation.recipe import Finetuning, PreferenceTuning, batch_tokens, learning_rate
from glassgpt.errors import ConfigError
from glassgpt.model.accounting import training_memory
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import LoRALinear, adapter_of, add_lora, build_like, merge_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.training.average import WeightAverage
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.optimizers import build_optimizers
from small_models import attentive_model

SHAPES = {
    "gpt2": {},
    "modern": {"arch": "modern", "bias": False, "n_head": 2, "n_embd": 24},
    "llama": {"arch": "llama", "bias": False, "n_head": 4, "n_kv_head": 2, "n_embd": 32},
    "modern-grouped": {"arch": "modern", "bias": False, "n_head": 4, "n_kv_head": 2, "n_embd": 32},
}
TOKENS = torch.randint(0, 257, (2, 12), generator=torch.Generator().manual_seed(3))


def adapted(shape, seed=0, **lora):
    """Return a model with an adapter that does something."""
    model = add_lora(attentive_model(**SHAPES[shape]), Adapter("base", LoRAConfig(**{"rank": 4, **lora})))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_new_adapter_changes_nothing_and_a_trained_one_does(shape):
    model = attentive_model(**SHAPES[shape])
    before = model(TOKENS)
    add_lora(model, Adapter("base", LoRAConfig(rank=4)))
    assert torch.equal(model(TOKENS), before)
    assert (adapted(shape)(TOKENS) - before).abs().max() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_merged_model_equals_the_unmerged_one(shape, rank_stabilized):
    model = adapted(shape, rank_stabilized=rank_stabilized, alpha=8.0)
    before = attentive_model(**SHAPES[shape])
    expected = model(TOKENS)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merge_lora(model)
    assert adapter_of(model) is None
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert [*model.state_dict()] == [*before.state_dict()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model(TOKENS) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not torch.allclose(expected, before(TOKENS), atol=0.1)
    scale = 8.0 / (math.sqrt(4) if rank_stabilized else 4)
    name = "blocks.0.mlp.up"
    product = weights[f"{name}.lora_B"].double() @ weights[f"{name}.lora_A"].double()
    change = model.state_dict()[f"{name}.weight"] - before.state_dict()[f"{name}.weight"]
    torch.testing.assert_close(change, (scale * product).float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_follow_from_those_of_the_merged_model(shape):
    model, dense = adapted(shape, alpha=6.0), merge_lora(adapted(shape, alpha=6.0))
    for each in (model, dense):
        F.cross_entropy(each(TOKENS).flatten(0, 1), TOKENS.roll(-1).flatten()).backward()
    of_weights = {name: parameter.grad for name, parameter in dense.named_parameters()}
    own = dict(model.named_parameters())
    checked = 0
    for name in trainable_parameters(model):
        layer, _, part = name.rpartition(".")
        a, b, gradient = own[f"{layer}.lora_A"], own[f"{layer}.lora_B"], of_weights[f"{layer}.weight"]
        expected = 6.0 / 4 * (b.T @ gradient if part == "lora_A" else gradient @ a.T)
        torch.testing.assert_close(own[name].grad, expected, atol=1e-5, rtol=1e-4)
        checked += bool(expected.abs().max() > 1e-4)
    assert checked == len(trainable_parameters(model))
    assert all(parameter.grad is None for name, parameter in own.items() if "lora_" not in name)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all", {"attention.qkv", "attention.out", "mlp.up", "mlp.down"}),
        ("attention", {"attention.qkv", "attention.out"}),
        ("mlp", {"mlp.up", "mlp.down"}),
        ("qkv,mlp.up", {"attention.qkv", "mlp.up"}),
    ],
)
def test_targets(targets, expected):
    model = adapted("gpt2", targets=targets)
    names = {name.split(".", 2)[2].rpartition(".")[0] for name in trainable_parameters(model)}
    assert names == expected
    assert len(trainable_parameters(model)) == 2 * 2 * len(expected)


@pytest.mark.parametrize("targets", ["q", "qkv,none", "lm_head"])
def test_target_that_no_layer_has_is_refused(targets):
    with pytest.raises(ConfigError, match="which no layer has; the layers are attention.qkv, attention.out, mlp.up"):
        adapted("gpt2", targets=targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, "lora.rank is -1"),
        ({"alpha": 0.0}, "lora.alpha is 0.0"),
        ({"alpha": float("nan")}, "lora.alpha is nan"),
        ({"dropout": 1.0}, "lora.dropout is 1.0"),
        ({"targets": ""}, "lora.targets is ''"),
        ({"targets": "mlp, attention"}, "lora.targets is 'mlp, attention'"),
    ],
)
def test_invalid_settings(settings, message):
    (problem,) = LoRAConfig(**{"rank": 4, **settings}).problems()
    assert message in problem


def test_dropout_acts_on_the_adapter_alone_and_only_in_training():
    model = adapted("gpt2", dropout=0.9)
    assert torch.equal(model(TOKENS), adapted("gpt2")(TOKENS))
    model.train()
    first, second = model(TOKENS), model(TOKENS)
    assert not torch.equal(first, second)
    merged = add_lora(attentive_model(), Adapter("base", LoRAConfig(rank=4, dropout=0.9))).train()
    assert torch.equal(merged(TOKENS), attentive_model()(TOKENS))


@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_adapter_has_optimizer_state_and_averages(shape):
    model = adapted(shape)
    optimizers = build_optimizers(model, OptimizerConfig())
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, trainable_parameters(model).values()))
    assert WeightAverage(model, 0.9).named().keys() == trainable_parameters(model).keys()
    assert [name for name, _ in build_like(model).named_parameters()] == [name for name, _ in model.named_parameters()]


def test_predicted_memory_counts_gradients_and_moments_of_the_adapter_alone():
    config, lora = ModelConfig(vocab_size=50257), LoRAConfig(rank=16)
    # Per block: qkv, out, up and down of 768, each with rank × (in + out).
    expected = 12 * 16 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))
    assert count_trainable(config, lora) == expected
    memory, full = finetuning_memory(config, lora, 4), finetuning_memory(config, LoRAConfig(), 4)
    assert full == training_memory(config, 4)
    assert (memory.gradients, memory.optimizer) == (4 * expected, 8 * expected)
    assert memory.weights == full.weights + 4 * expected
    assert (memory.activations, memory.logits) == (full.activations, full.logits)


def test_recipe_follows_width_and_text(tmp_path):
    model = ModelConfig(vocab_size=50257)
    assert (learning_rate(768, lora=False), learning_rate(768, lora=True)) == (1e-4, 1e-3)
    assert batch_tokens(10_000_000, 1024) == 16384
    assert batch_tokens(200_000, 1024) == 4096
    assert batch_tokens(2_000, 1024) == 1024
    plan = Finetuning(tmp_path, model, tmp_path, 1_638_400, epochs=3.0, replay=(tmp_path, 0.5))
    recipe = plan.recipe()
    assert (recipe["train.max_steps"], recipe["train.micro_batch_size"]) == (600, 8)
    assert plan.settings()["replay.share"] == 0.5
    short = Finetuning(
        tmp_path, model, tmp_path, 266_240, sequence_length=64
    ).recipe()  # 104 conversations' rows a step
    assert (short["train.batch_tokens"], short["train.micro_batch_size"]) == (6656, 104)


@pytest.mark.parametrize(("sequences", "micro_batch"), [(1, 1), (3, 3), (10, 5), (64, 8)])
def test_recipe_divides_the_batch_that_the_user_chose(sequences, micro_batch, tmp_path):
    plan = Finetuning(tmp_path, ModelConfig(), tmp_path, 1_638_400, epochs=1.0)
    recipe = plan.recipe(1024 * sequences)
    assert (recipe["train.batch_tokens"], recipe["train.micro_batch_size"]) == (1024 * sequences, micro_batch)
    assert recipe["train.max_steps"] == round(1600 / sequences)
    pairs = PreferenceTuning(tmp_path, ModelConfig(), tmp_path, 160, epochs=1.0).recipe(1024 * sequences)
    assert (pairs["train.batch_tokens"], pairs["train.max_steps"]) == (1024 * sequences, max(1, round(160 / sequences)))
    assert sequences % pairs["train.micro_batch_size"] == 0


def test_no_token_is_hidden_in_finetuning_although_the_base_run_hid_some(tmp_path):
    model = ModelConfig(dropout=0.4, token_dropout=0.2)
    for plan in (Finetuning(tmp_path, model, tmp_path, 9), PreferenceTuning(tmp_path, model, tmp_path, 9)):
        settings = plan.settings()
        assert (settings["model.dropout"], settings["model.token_dropout"]) == (0.4, 0.0)


def test_recipe_of_preferences_keeps_the_chosen_replies(tmp_path):
    adapter, full = (
        PreferenceTuning(tmp_path, ModelConfig(), tmp_path, 160, full=full).recipe() for full in (False, True)
    )
    assert (adapter["train.learning_rate"], full["train.learning_rate"]) == (3e-4, 1e-5)
    assert adapter["preference.chosen_weight"] == full["preference.chosen_weight"] == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_adapter_is_one_graph(shape):
    model = adapted(shape)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)
