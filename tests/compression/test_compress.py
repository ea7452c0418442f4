"""`glassgpt compress`: what the new run holds, and that every command takes it."""

import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open

from glassgpt import api
from glassgpt.api.compression import CompressionSource
from glassgpt.api.runs import write_run_files
from glassgpt.compression.methods import check_methods, in_order
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.config import load_config
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.generation.cpu import packing
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import WEIGHTS, find_checkpoint, write_manifest
from glassgpt.training.lineage import read_lineage
from glassgpt.training.run_folder import RunFolder

BUDGET = {"calibration_tokens": 2048, "eval_tokens": 4096}


def compressed(source, out, *methods):
    return out, api.compress(CompressionSource(source, **BUDGET), out, methods)


@pytest.fixture(scope="module")
def int8_run(nano_run, tmp_path_factory):
    return compressed(nano_run, tmp_path_factory.mktemp("compressed") / "int8", Int8())


@pytest.fixture(scope="module")
def int4_run(nano_run, tmp_path_factory):
    return compressed(nano_run, tmp_path_factory.mktemp("compressed") / "int4", Int4())


def stored_tensors(run):
    with safe_open(find_checkpoint(RunFolder(run), "best") / WEIGHTS, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_command_prints_and_stores_the_report(run_main, nano_run, tmp_path):
    code, out, err = run_main("compress", nano_run, "--out", tmp_path / "new", "--int8", "--eval-tokens", 4096)
    assert code == 0, err
    stored = json.loads((tmp_path / "new" / "compression.json").read_text())
    assert stored["after"]["n_bytes"] < 0.3 * stored["before"]["n_bytes"]
    assert f"{stored['after']['perplexity']:.3f}" in out
    assert f"{stored['perplexity_increase']:+.3%}" in out
    assert "The 10 prompts whose predictions differ most" in out
    assert len(stored["texts"]) == 10
    nats = [text["nats"] for text in stored["texts"]]
    assert nats == sorted(nats, reverse=True)
    assert stored["before"]["tokens_per_second"] > 0


def test_reported_perplexity_is_that_of_evaluate(int8_run, int4_run, nano_run):
    for run, measured in (int8_run, int4_run):
        for folder, expected in ((nano_run, measured.before), (run, measured.after)):
            loaded, dataset = api.load_with_dataset(folder)
            found = evaluate_dataset(loaded.model, dataset, limit=BUDGET["eval_tokens"])
            assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-6)


def test_int8_costs_little(int8_run):
    assert abs(int8_run[1].increase) < 5e-4


def test_int4_costs_little_and_less_than_rounding_to_nearest(int4_run, nano_run, tmp_path):
    _, nearest = compressed(nano_run, tmp_path / "nearest", Int4("nearest"))
    assert abs(int4_run[1].increase) < 0.01
    divergence = {
        name: sum(text.nats for text in each.texts) for name, each in (("gptq", int4_run[1]), ("nearest", nearest))
    }
    assert divergence["gptq"] < divergence["nearest"]


def test_integers_are_stored_and_sizes_add_up(int8_run, int4_run):
    for (run, measured), suffix in ((int8_run, ".int8"), (int4_run, ".int4")):
        tensors = stored_tensors(run)
        assert "blocks.0.mlp.up.weight" not in tensors
        assert tensors[f"blocks.0.mlp.up.weight{suffix}"].dtype == (torch.int8 if suffix == ".int8" else torch.uint8)
        assert tensors["token_embedding.weight.int8"].dtype == torch.int8
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) == measured.after.n_bytes


def test_int8_run_generates_the_numbers_of_precision_int8(int8_run, nano_run, monkeypatch):
    monkeypatch.setattr(packing, "MIN_TIMED_ELEMENTS", 0)
    monkeypatch.setattr(packing, "_time_kernels", lambda kernels, *rest: {k.name: 1.0 for k in kernels})
    original = prepare_for_decoding(api.load(nano_run).model, "int8")
    stored = api.load(int8_run[0]).decoding_model
    products = {name: module for name, module in original.named_modules() if isinstance(module, packing.PackedLinear)}
    assert "tied_head" in products
    for name, product in products.items():
        x = torch.randn(3, 256 if name.endswith("down") else 64, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(stored.get_submodule(name)(x), product(x), rtol=1e-6, atol=1e-6), name


def test_small_model_is_decoded_exactly(int8_run):
    loaded = api.load(int8_run[0])
    assert not packing.is_packed(loaded.decoding_model)


def test_every_command_takes_a_compressed_run(run_main, int4_run, tmp_path):
    run, _ = int4_run
    for command in (
        ("generate", run, "--prompt", "the", "--max-tokens", 5),
        ("evaluate", run),
        ("inspect", run, "--text", "--prompt", "the"),
        ("doctor", run),
        ("export", run, tmp_path / "hf"),
        ("import", tmp_path / "hf", "--out", tmp_path / "again"),
    ):
        code, _, err = run_main(*command)
        assert code == 0, (command, err)
    first, second = (api.load(folder).model.state_dict() for folder in (run, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_compressed_run_can_be_trained_from_and_compressed_again(
    int4_run, int8_run, nano_run, run_main, grammar_data, tmp_path
):
    run, _ = int4_run
    code, _, err = run_main(
        "train",
        nano_run,
        "--init-from",
        run,
        "--data",
        grammar_data,
        "--out",
        tmp_path / "healed",
        "--train.max-steps",
        1,
    )
    assert code == 0, err
    assert read_lineage(RunFolder(tmp_path / "healed")) is None
    assert not any(".int" in name for name in stored_tensors(tmp_path / "healed"))
    twice, _ = compressed(run, tmp_path / "twice", Int8())
    assert [step.partition(":")[0] for step in read_lineage(RunFolder(twice)).steps] == ["int4", "int8"]


def test_lineage_names_the_source_and_its_weights(int8_run, nano_run):
    lineage = read_lineage(RunFolder(int8_run[0]))
    checkpoint = find_checkpoint(RunFolder(nano_run), "best")
    assert (lineage.source, lineage.checkpoint) == (str(nano_run), checkpoint.name)
    manifest = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert lineage.weights_sha256 == manifest[WEIGHTS]["sha256"]
    assert lineage.steps == (Int8().describe(),)
    assert read_lineage(RunFolder(nano_run)) is None


def test_lineage_is_kept_when_the_files_of_a_run_are_written_again(int8_run, tmp_path):
    run = RunFolder(shutil.copytree(int8_run[0], tmp_path / "run"))
    expected = read_lineage(run)
    write_run_files(run, load_config(run.path, {"seed": "7"}), api.load(run.path).tokenizer)
    assert load_config(run.path).seed == 7
    assert read_lineage(run) == expected


def test_changed_weights_are_saved_as_floats(int8_run, tmp_path):
    loaded = api.load(int8_run[0])
    with torch.no_grad():
        loaded.model.blocks[0].mlp.up.weight[0, 0] += 1
    api.save_as_run(loaded.model, loaded.tokenizer, tmp_path / "changed")
    tensors = stored_tensors(tmp_path / "changed")
    assert "blocks.0.mlp.up.weight" in tensors
    assert "blocks.0.mlp.down.weight.int8" in tensors
    assert torch.equal(
        api.load(tmp_path / "changed").model.state_dict()["blocks.0.mlp.up.weight"],
        loaded.model.blocks[0].mlp.up.weight,
    )


def test_tensors_that_do_not_fit_are_refused(int4_run, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(int4_run[0], tmp_path / "run")
    checkpoint = find_checkpoint(RunFolder(tmp_path / "run"), "best")
    tensors = stored_tensors(tmp_path / "run")
    name = "blocks.1.attention.out.weight"
    for wrong in (
        {**tensors, f"{name}.scales": tensors[f"{name}.scales"][:-1]},
        {**tensors, f"{name}.offsets": tensors[f"{name}.offsets"][:, :1].clone()},
        {**tensors, f"{name}.int4": tensors[f"{name}.int4"].to(torch.int16)},
        {key: value for key, value in tensors.items() if key != f"{name}.scales"},
    ):
        save_file(wrong, checkpoint / WEIGHTS)
        os.remove(checkpoint / "manifest.json")
        write_manifest(checkpoint)
        with pytest.raises(CheckpointError, match=f"the stored tensors of {name} do not fit together"):
            api.load(tmp_path / "run")


def test_existing_run_is_kept(nano_run, int8_run):
    before = (int8_run[0] / "config.toml").read_bytes()
    with pytest.raises(UsageError, match="holds a run already"):
        api.compress(CompressionSource(nano_run), int8_run[0], [Int8()])
    assert (int8_run[0] / "config.toml").read_bytes() == before


def test_methods_are_checked_before_anything_is_loaded():
    narrow = ModelConfig(n_embd=40, n_head=2)
    with pytest.raises(UsageError, match="n_embd is 40, but 4-bit weights need multiples of 32; use --int8"):
        check_methods([Int4()], narrow)
    check_methods([Int8()], narrow)
    with pytest.raises(UsageError, match="cannot be combined"):
        check_methods([Int4(), Int8()], ModelConfig())
    with pytest.raises(UsageError, match="choose from --distil, --prune, --sparsity, --int8, --int4"):
        check_methods([], ModelConfig())
    assert in_order([Int4(), Int8()]) == [Int8(), Int4()]
