"""Wanda and SparseGPT: against their readable references, least squares and the best of all masks; and `compress --sparsity`."""

import itertools
import json

import pytest
import torch
from torch import nn

from glassgpt import api
from glassgpt.api.compression import CompressionSource
from glassgpt.compression import layerwise
from glassgpt.compression.layerwise import LAZY_COLUMNS
from glassgpt.compression.methods import check_methods
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.methods.prune import Prune
from glassgpt.compression.methods.sparsity import Sparsity
from glassgpt.compression.sparsity import smallest, sparsegpt, sparsegpt_readable, wanda, wanda_readable
from glassgpt.errors import UsageError
from glassgpt.evaluation.observer import SILENT
from glassgpt.model.config import ModelConfig
from glassgpt.training.lineage import read_lineage
from glassgpt.training.run_folder import RunFolder
from small_models import attentive_model

PATTERNS = [(0.5, 0), (0.3, 0), (0.5, 4)]
BUDGET = {"calibration_tokens": 2048, "eval_tokens": 4096}


def layer(rows, width, seed=0):
    """Weights and inputs of a layer; the inputs are correlated and of different size, as in a trained model."""
    torch.manual_seed(seed)
    x = torch.randn(4 * width, width) @ (torch.randn(width, width) * torch.logspace(-0.5, 0.5, width)) / width**0.5
    return torch.randn(rows, width), x, x.T @ x / len(x)


def error(x, weight, pruned):
    """Squared error of the outputs, by row."""
    return (x @ (pruned - weight).T).square().sum(dim=0)


# The methods


@pytest.mark.parametrize(("share", "group"), PATTERNS)
def test_wanda_is_its_readable_reference(share, group):
    weight, _, gram = layer(6, 40)
    assert torch.equal(wanda(weight, gram, share, group), wanda_readable(weight, gram, share, group))


@pytest.mark.parametrize(("share", "group"), PATTERNS)
@pytest.mark.parametrize("width", [12, LAZY_COLUMNS + 12])
def test_sparsegpt_is_its_readable_reference(share, group, width):
    weight, _, gram = layer(5, width)
    gram[3] = gram[:, 3] = 0  # an input that is never used
    found, expected = (method(weight, gram, share, group) for method in (sparsegpt, sparsegpt_readable))
    assert torch.equal(found == 0, expected == 0)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("method", [wanda, sparsegpt])
@pytest.mark.parametrize(("share", "group"), PATTERNS)
def test_as_many_weights_are_zero_as_were_asked_for(method, share, group):
    weight, _, gram = layer(10, 40)
    zeros = method(weight, gram, share, group) == 0
    assert zeros.float().mean() == pytest.approx(share)
    if group:
        assert (zeros.unflatten(1, (-1, 4)).sum(dim=2) == 2).all()


def test_of_equal_values_the_first_are_chosen():
    assert smallest(torch.tensor([[1.0, 0, 1, 0, 0]]), 2).tolist() == [[False, True, False, True, False]]


def test_weights_that_remain_are_the_least_squares_solution(monkeypatch):
    """If all zeros come first, what SparseGPT changes the rest to is the best that these columns can do (`torch.linalg.lstsq`)."""
    monkeypatch.setattr(layerwise, "DAMPING", 0.0)
    weight, x, gram = layer(1, 8)
    weight[:, :4] *= 1e-3  # the cheapest ones
    found = sparsegpt(weight, gram, 0.5, 0)
    assert (found[0, :4] == 0).all()
    expected = torch.linalg.lstsq(x[:, 4:], x @ weight[0]).solution
    assert torch.allclose(found[0, 4:], expected, atol=1e-4)


@pytest.mark.parametrize(("share", "group"), PATTERNS)
def test_each_zero_is_made_up_for_by_least_squares_of_the_columns_to_its_right(share, group, monkeypatch):
    monkeypatch.setattr(layerwise, "DAMPING", 0.0)
    weight, x, gram = layer(3, 12)
    found = sparsegpt(weight, gram, share, group)
    for row in range(3):
        left, wanted = weight[row].clone(), x @ weight[row]
        for column in range(12):
            if found[row, column] == 0:
                left[column] = 0
                rest = wanted - x[:, : column + 1] @ left[: column + 1]
                if column < 11:
                    left[column + 1 :] = torch.linalg.lstsq(x[:, column + 1 :], rest).solution
        assert torch.allclose(found[row], left, atol=1e-3)


def masks_of_two_of_four(width):
    for chosen in itertools.product(itertools.combinations(range(4), 2), repeat=width // 4):
        mask = torch.zeros(width, dtype=torch.bool)
        for group, pair in enumerate(chosen):
            mask[[4 * group + i for i in pair]] = True
        yield mask


def test_with_independent_inputs_both_find_the_best_of_all_masks(monkeypatch):
    monkeypatch.setattr(layerwise, "DAMPING", 0.0)
    torch.manual_seed(1)
    weight, x = torch.randn(6, 8), torch.diag(torch.logspace(-1, 1, 8))
    for method in (wanda, sparsegpt):
        found = error(x, weight, method(weight, x.T @ x, 0.5, 4))
        best = torch.stack([error(x, weight, weight.masked_fill(mask, 0)) for mask in masks_of_two_of_four(8)]).amin(0)
        assert torch.allclose(found, best, rtol=1e-4)


def test_with_correlated_inputs_sparsegpt_comes_closer_to_the_best_of_all_masks_than_wanda():
    weight, x, gram = layer(50, 8)
    best = torch.full((50,), torch.inf)
    for mask in masks_of_two_of_four(8):  # each with the least squares solution of what remains
        kept = torch.zeros_like(weight)
        kept[:, ~mask] = torch.linalg.lstsq(x[:, ~mask], x @ weight.T).solution.T
        best = torch.minimum(best, error(x, weight, kept))
    chosen = {method: error(x, weight, method(weight, gram, 0.5, 4)) for method in (wanda, sparsegpt)}
    assert all((each >= best * 0.999).all() for each in chosen.values())
    assert best.sum() < chosen[sparsegpt].sum() < 0.8 * chosen[wanda].sum()


# Models and runs


@pytest.mark.parametrize("shape", [{}, {"arch": "modern", "bias": False, "n_head": 4}], ids=["gpt2", "modern"])
def test_only_the_matrices_of_blocks_change_and_the_model_stays_as_it_was(shape):
    model = attentive_model(**shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    pruned = Sparsity("2:4", "wanda").apply(model, text, SILENT.progress)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    linear = {f"{name}.weight" for name, module in model.blocks.named_modules(prefix="blocks") if isinstance(module, nn.Linear)}  # fmt: skip
    for name, tensor in pruned.state_dict().items():
        if name in linear:
            assert ((tensor == 0).unflatten(1, (-1, 4)).sum(dim=2) >= 2).all()
        else:
            assert torch.equal(tensor, before[name])


@pytest.fixture(scope="module")
def sparse_runs(nano_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    made = {}
    for method in ("sparsegpt", "wanda"):
        source = CompressionSource(nano_run, **BUDGET)
        made[method] = folder / method, api.compress(source, folder / method, [Sparsity("0.5", method), Int8()])
    return made


def test_sparsegpt_costs_less_perplexity_than_wanda(sparse_runs):
    costs = {method: report.increase for method, (_, report) in sparse_runs.items()}
    assert 0 < costs["sparsegpt"] < costs["wanda"]


def test_zeros_stay_zero_in_8_bits_and_in_what_is_stored(sparse_runs):
    out, _ = sparse_runs["sparsegpt"]
    model = api.load(out).model
    assert all((block.mlp.up.weight == 0).float().mean() > 0.49 for block in model.blocks)
    assert read_lineage(RunFolder(out)).steps == (
        "sparsity: 0.5 of the blocks' weights are zero, by SparseGPT",
        "int8: rounded to nearest, a scale per output channel",
    )


def test_command_makes_a_sparse_run(run_main, nano_run, tmp_path):
    options = ["--sparsity", "2:4", "--method", "wanda", "--eval-tokens", 4096, "--calibration-tokens", 1024]
    code, _, err = run_main("compress", nano_run, "--out", tmp_path / "new", *options)
    assert code == 0, err
    stored = json.loads((tmp_path / "new" / "compression.json").read_text())
    assert stored["after"]["n_bytes"] == stored["before"]["n_bytes"]
    weight = api.load(tmp_path / "new").model.blocks[1].mlp.down.weight
    assert ((weight == 0).unflatten(1, (-1, 4)).sum(dim=2) == 2).all()


@pytest.mark.parametrize(
    ("methods", "shape", "message"),
    [
        ([Sparsity("1")], {}, "--sparsity is 1; it must be a share above 0 and below 1, or 2:4"),
        ([Sparsity("1:4")], {}, "--sparsity is 1:4"),
        ([Sparsity("nan")], {}, "--sparsity is nan"),
        ([Sparsity("0.5", "magnitude")], {}, "--method is magnitude; it must be sparsegpt or wanda"),
        ([Sparsity("2:4")], {"n_inner": 70}, "the MLP's width is 70, but 2:4 sparsity needs multiples of 4"),
        ([Sparsity(), Int4()], {}, "--sparsity and --int4 cannot be combined: 4-bit weights have no exact zero"),
        ([Prune(), Sparsity()], {}, "--prune trains its model, which --sparsity cannot be combined with"),
    ],
)
def test_mistakes_are_reported_before_anything_is_loaded(methods, shape, message):
    with pytest.raises(UsageError, match=message):
        check_methods(methods, ModelConfig(**shape))
