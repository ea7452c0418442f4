"""The DPO loss against its formula and against TRL, and its reference."""

import copy

import pytest
import torch
from dpo_models import BETA, wave_model, wave_pairs

from glassgpt.data.preferences.batches import IGNORED
from glassgpt.errors import CheckpointError
from glassgpt.model.lora import LoRALinear, add_lora, trainable_parameters, without_adapter
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.training import preference
from glassgpt.training.config import TrainerConfig
from glassgpt.training.preference import PreferenceLoss, preference_loss, validate_preferences
from glassgpt.training.preference_config import PreferenceConfig
from small_models import LLAMA, attentive_model, disturbed

TRL_METRICS = {"preference_accuracy": 0.6666667, "reward_margin": 0.0149538}
"""Results of TRL 1.16.0 (transformers 5.24, PyTorch 2.13, float32) for the model, the reference and the pairs of `dpo_models`; its
`DPOTrainer` computed them with beta 0.3."""
TRL_LOSS, TRL_LOG_PROBABILITIES = 0.6858457, (-21.4816189, -14.3435621)
TRL_GRADIENTS = {
    "token_embedding.weight": (0.9359568, -0.006191166),
    "position_embedding.weight": (0.4909552, -0.01852753),
    "blocks.0.attention.qkv.weight": (0.5904545, -0.2427684),
    "blocks.1.mlp.down.weight": (1.027344, -0.03339169),
    "blocks.1.norm2.bias": (0.08419999, 0.0004263424),
    "norm.weight": (0.2865265, 0.02391674),
}
"""Norm of each gradient, and its product with sin(0.9 n), which depends on the place of each value."""


@pytest.fixture(scope="module")
def batch():
    """Three pairs of conversations of different length, whose last tokens are the reply."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randint(0, 257, (3, 2, 12), generator=generator)
    targets = torch.full_like(inputs, IGNORED)
    for pair, (chosen, rejected) in enumerate(((5, 9), (7, 8), (4, 11))):
        for side, end in enumerate((chosen, rejected)):
            targets[pair, side, 3:end] = inputs[pair, side, 4 : end + 1]
    return inputs, targets


def test_loss_and_gradients_are_those_of_trl():
    model = wave_model(0.0)
    loss = PreferenceLoss(model, wave_model(0.05), PreferenceConfig(beta=BETA))
    pairs = wave_pairs()
    found = loss(*pairs)
    found.backward()
    assert found.item() == pytest.approx(TRL_LOSS, abs=1e-6)
    metrics = dict(zip(loss.metric_names, (value.item() for value in loss.metrics), strict=True))
    assert {name: metrics[name] for name in TRL_METRICS} == pytest.approx(TRL_METRICS, abs=1e-6)
    assert loss.log_probabilities(*pairs).policy.mean(dim=0).tolist() == pytest.approx(TRL_LOG_PROBABILITIES, abs=1e-4)
    for name, (norm, product) in TRL_GRADIENTS.items():
        gradient = model.get_parameter(name).grad.double()
        wave = torch.sin(torch.arange(gradient.numel(), dtype=torch.float64) * 0.9).view_as(gradient)
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4)
        assert (gradient * wave).sum().item() == pytest.approx(product, abs=1e-4 * norm)


def adapted(shape=None, dropout=0.0, scale=0.2):
    """Return a model with an adapter that changes it."""
    model = add_lora(attentive_model(**(shape or {})), Adapter("", LoRAConfig(rank=2, dropout=dropout)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoRALinear):
                module.lora_B.normal_(std=scale, generator=generator)
    return model


def by_formula(model, reference, inputs, targets, beta):
    """Return equation 7 of Rafailov et al. 2023, computed in float64 reply by reply and token by token."""

    def log_probability(one, pair, side):
        log_p = one(inputs[pair, side][None]).log_softmax(-1)[0]
        return sum(log_p[at, token] for at, token in enumerate(targets[pair, side]) if token != IGNORED)

    losses = []
    for pair in range(len(inputs)):
        ratios = [
            log_probability(model, pair, side) - log_probability(reference, pair, side).detach() for side in (0, 1)
        ]
        losses.append(-torch.log(1 / (1 + torch.exp(-beta * (ratios[0] - ratios[1])))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("shape", [{}, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("chunk_tokens", [0, 7])
def test_loss_and_gradient_are_those_of_the_formula(shape, chunk_tokens, batch):
    model = adapted(shape).double()
    reference = attentive_model(**shape).double()
    loss = PreferenceLoss(model, without_adapter(model), PreferenceConfig(beta=BETA), chunk_tokens)
    parameters = list(trainable_parameters(model).values())
    expected = by_formula(model, reference, *batch, BETA)
    found = loss(*batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)  # log-probabilities are float32
    for own, theirs in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_no_pass_holds_more_logits_than_a_chunk(batch, monkeypatch):
    """Neither does that of the reference, nor a validation."""
    sizes, whole = [], preference._nats

    def counted(model, features, targets):
        sizes.append(len(targets))
        return whole(model, features, targets)

    monkeypatch.setattr(preference, "_nats", counted)
    model = adapted()
    loss = PreferenceLoss(model, without_adapter(model), PreferenceConfig(), chunk_tokens=7)
    loss(*batch)
    assert sizes == 2 * [*[7] * 10, 2]  # of 3 x 2 x 12 tokens, for the reference and the model
    sizes.clear()
    validate_preferences(loss, [batch])
    assert sizes == 2 * [*[7] * 10, 2]


def test_loss_starts_at_ln_2_and_its_metrics_are_those_of_the_replies(batch):
    model = adapted(scale=0.0)
    loss = PreferenceLoss(model, without_adapter(model), PreferenceConfig(beta=BETA))
    torch.testing.assert_close(loss(*batch), torch.tensor(2.0).log())
    assert [float(value) for value in loss.metrics] == [0.0, 0.0, 0.0, 0.0]

    model = adapted()
    loss = PreferenceLoss(model, without_adapter(model), PreferenceConfig(beta=BETA))
    loss(*batch)
    found = loss.log_probabilities(*batch)
    change = found.policy - found.reference
    rewards = BETA * change
    expected = {
        "preference_accuracy": (rewards[:, 0] > rewards[:, 1]).float().mean(),
        "reward_margin": (rewards[:, 0] - rewards[:, 1]).mean(),
        "chosen_change": (change[:, 0] / torch.tensor([2, 4, 1])).mean(),
        "rejected_change": (change[:, 1] / torch.tensor([6, 5, 8])).mean(),
    }
    torch.testing.assert_close(dict(zip(loss.metric_names, loss.metrics, strict=True)), expected)


def test_loss_of_the_chosen_replies_is_added_with_its_weight(batch):
    model = adapted()
    found = PreferenceLoss(model, without_adapter(model), PreferenceConfig(beta=BETA)).log_probabilities(*batch)
    plain, weighted = (
        PreferenceLoss(model, without_adapter(model), PreferenceConfig(beta=BETA, chosen_weight=weight))(*batch)
        for weight in (0.0, 0.5)
    )
    torch.testing.assert_close(weighted - plain, -0.5 * (found.policy[:, 0] / found.tokens[:, 0]).mean())


def test_reference_of_an_adapter_shares_the_weights_and_not_the_adapter(batch):
    model = adapted(dropout=0.5)
    reference = without_adapter(model)
    before = reference(batch[0][:, 0])
    torch.testing.assert_close(before, attentive_model()(batch[0][:, 0]), rtol=0, atol=0)
    assert all(own.data_ptr() == model.get_parameter(name).data_ptr() for name, own in reference.named_parameters())
    loss = PreferenceLoss(model.train(), reference, PreferenceConfig())
    loss(*batch).backward()
    torch.optim.SGD(trainable_parameters(model).values(), lr=1.0).step()
    torch.testing.assert_close(reference(batch[0][:, 0]), before, rtol=0, atol=0)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trainable_parameters(model))
    assert loss.state_dict().keys() == {f"model.{name}" for name in model.state_dict()}


def test_validation_sums_over_pairs_and_leaves_the_mode(batch):
    model, reference = attentive_model(), disturbed(attentive_model(), 0.05)
    model.train()
    loss = PreferenceLoss(model, reference, PreferenceConfig(beta=BETA))
    batches = [tuple(part[:2] for part in batch), tuple(part[2:] for part in batch)]
    found = validate_preferences(loss, batches)
    assert model.training
    model.eval()
    torch.testing.assert_close(torch.tensor(found.loss), loss(*batch).double().detach().float(), atol=1e-5, rtol=1e-5)
    each = loss.log_probabilities(*batch)
    assert found.chosen_loss == pytest.approx(-(each.policy[:, 0].sum() / 7).item(), abs=1e-5)
    assert found.rejected_loss == pytest.approx(-(each.policy[:, 1].sum() / 19).item(), abs=1e-5)
    assert found.chosen_change == pytest.approx(((each.policy - each.reference)[:, 0].sum() / 7).item(), abs=1e-5)
    assert (found.tokens, found.accuracy * 3) == (3, pytest.approx(float((each.margins(BETA) > 0).sum())))


def test_model_without_adapter_needs_a_reference():
    with pytest.raises(CheckpointError, match="preferences need a reference"):
        preference_loss(attentive_model(), TrainerConfig())


def test_double_copy_keeps_its_own_reference(batch):
    """A replay of a failed step computes the loss of copies of the model."""
    model = adapted()
    loss = PreferenceLoss(model, without_adapter(model), PreferenceConfig())
    other = loss.of(copy.deepcopy(model), 5)
    torch.testing.assert_close(other(*batch), loss(*batch))
