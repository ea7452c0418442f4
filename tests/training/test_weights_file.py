"""Weights that a model uses in the file: aligned, the same bits, and never written."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from glassgpt.model.build import build_model, build_uninitialized
from glassgpt.model.config import ModelConfig
from glassgpt.training import checkpoint as ck
from glassgpt.training.checkpoint import weights_file
from glassgpt.training.checkpoint.weights_file import ALIGNMENT, save_aligned, use_mapped
from glassgpt.training.run_folder import RunFolder

CONFIG = ModelConfig(vocab_size=64, context_length=16, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture(autouse=True)
def mapped_however_small(monkeypatch):
    monkeypatch.setattr(weights_file, "LEAST_MAPPED_BYTES", 0)


@pytest.fixture
def checkpoint(tmp_path):
    run = RunFolder(tmp_path / "run")
    return ck.save_checkpoint(run, build_model(CONFIG), (), ck.TrainingState(step=1))


def pointers(model):
    return {name: parameter.data_ptr() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_tensors_begin_at_multiples_of_64(count, tmp_path):
    kinds = (torch.float32, torch.bfloat16, torch.int8, torch.float16, torch.uint8, torch.int64)
    tensors = {f"name{i}" * (i % 4 + 1): torch.ones(64, i + 1, dtype=kinds[i % len(kinds)]) for i in range(count)}
    save_aligned(tensors, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % ALIGNMENT == 0
    assert all(each["data_offsets"][0] % ALIGNMENT == 0 for name, each in header.items() if name != "__metadata__")
    read = load_file(tmp_path / "weights")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_a_loaded_model_uses_the_file_and_computes_the_same_bits(checkpoint, monkeypatch):
    tokens = torch.arange(8)[None]
    mapped = ck.load_model(checkpoint)
    monkeypatch.setattr(weights_file, "LEAST_MAPPED_BYTES", 1 << 60)
    copied = ck.load_model(checkpoint)
    assert all(pointer % ALIGNMENT == 0 for pointer in pointers(mapped).values())
    assert all(parameter.requires_grad for parameter in mapped.parameters())
    assert torch.equal(mapped(tokens), copied(tokens))


def test_training_a_mapped_model_leaves_the_file_as_it_is(checkpoint):
    before = (checkpoint / ck.WEIGHTS).read_bytes()
    model, other = ck.load_model(checkpoint), ck.load_model(checkpoint)
    model(torch.arange(8)[None]).sum().backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert not torch.equal(model.token_embedding.weight, other.token_embedding.weight)
    assert (checkpoint / ck.WEIGHTS).read_bytes() == before
    assert ck.find_damage(checkpoint) is None


def test_a_mapped_model_outlives_its_file(checkpoint):
    model = ck.load_model(checkpoint)
    for file in checkpoint.iterdir():
        file.unlink()
    assert model(torch.arange(8)[None]).isfinite().all()


def test_what_is_not_aligned_or_of_another_type_is_copied():
    model = build_uninitialized(CONFIG)
    memory = torch.zeros(1 << 20)
    weights, at = {}, 1
    for name, parameter in model.named_parameters():
        weights[name] = memory[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    weights["norm.weight"] = torch.ones(32, dtype=torch.float16)
    assert use_mapped(model, weights)
    found = pointers(model)
    for name, tensor in weights.items():
        is_used = tensor.data_ptr() % ALIGNMENT == 0 and tensor.dtype == torch.float32
        assert (found[name] == tensor.data_ptr()) == is_used
        assert torch.equal(model.get_parameter(name), tensor.float())


def test_weights_of_another_model_are_refused(checkpoint):
    model = build_model(CONFIG)
    weights = load_file(checkpoint / ck.WEIGHTS)
    assert not use_mapped(model, {**weights, "token_embedding.weight": torch.zeros(2, 2)})
    assert not use_mapped(model, {name: weights[name] for name in list(weights)[1:]})
