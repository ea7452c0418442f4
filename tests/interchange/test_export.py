"""`glassgpt export`: the registry of formats, the manifest, the check, and errors that leave nothing behind."""

import dataclasses
import errno
import hashlib
import json

import pytest
import torch
from safetensors import SafetensorError

from glassgpt import api
from glassgpt.data import load_tokenizer
from glassgpt.errors import DataError, InterchangeError, MissingExtraError, UsageError
from glassgpt.interchange.formats import hf
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS, export_options, find_format, require_exportable
from glassgpt.interchange.manifest import MANIFEST, weights_fingerprint
from glassgpt.model.config import ModelConfig
from small_models import attentive_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mine"
    api.save_as_run(attentive_model(), load_tokenizer("bytes"), folder)
    return folder


def test_manifest_names_the_origin_and_the_checksum_of_every_file(run, tmp_path):
    api.export(run, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["format"], manifest["weights"]) == ("hf", "float32")
    assert manifest["origin"] == {"run": "mine", "checkpoint": "step-000000", "step": 0}
    assert manifest["weights_sha256"] == weights_fingerprint(attentive_model())
    assert manifest["tokenizer"]["fingerprint"] == load_tokenizer("bytes").fingerprint
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != MANIFEST}
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in found.items()
    }
    assert str(tmp_path) not in (tmp_path / "out" / MANIFEST).read_text()


def test_fingerprint_depends_on_every_weight():
    model, other = attentive_model(), attentive_model()
    with torch.no_grad():
        other.norm.bias[3] += 1e-6
    assert weights_fingerprint(model) != weights_fingerprint(other)


def test_check_compares_the_export_with_transformers(run, tmp_path):
    found = api.export(run, tmp_path / "out", check=True)
    assert len(found) == 10
    assert max(each.max_error for each in found) < 1e-4
    assert all(each.same_greedy == each.n_greedy > 0 for each in found)
    assert min(each.argmax_share for each in found) == 1


def test_check_of_another_function_fails_and_publishes_nothing(run, tmp_path, monkeypatch):
    def write_wrongly(model, tokenizer, folder, options):
        model.norm.bias.data[0] += 0.5
        hf.FORMAT.write(model, tokenizer, folder, options)
        model.norm.bias.data[0] -= 0.5

    monkeypatch.setitem(FORMATS, "hf", dataclasses.replace(hf.FORMAT, write=write_wrongly))
    with pytest.raises(InterchangeError, match="the exported hf differs from the model"):
        api.export(run, tmp_path / "out", check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "function", "error"),
    [
        ("hf", "huggingface.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("gguf", "gguf_file.write_tokenizer", OSError("12288 requested and 4424 written")),  # numpy's words
        ("onnx", "onnx_export.write_onnx", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_full_disk_is_told_in_one_line_and_leaves_nothing(format, function, error, run, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(f"glassgpt.interchange.{function}", fail)
    with pytest.raises(DataError) as caught:
        api.export(run, tmp_path / "out", format=format)
    assert str(caught.value) == f"the disk is full ({tmp_path / 'out'}); nothing was written to {tmp_path / 'out'}"
    assert list(tmp_path.iterdir()) == []


def test_check_prints_one_row_per_prompt(run, tmp_path, run_main):
    code, out, err = run_main("export", run, tmp_path / "out", "--check")
    assert code == 0
    assert "hf: 10 of 10 greedy texts are equal" in out
    assert "AutoModelForCausalLM.from_pretrained" in err


def test_unknown_values_are_refused():
    with pytest.raises(UsageError, match="unknown format HF.* did you mean hf"):
        find_format("HF")
    with pytest.raises(UsageError, match="--weights is int3"):
        export_options(FORMATS["hf"], "int3")


def test_what_a_format_lacks_is_refused_before_the_work():
    config, options = ModelConfig(arch="modern", bias=False), ExportOptions("float32")
    only_gpt2 = dataclasses.replace(hf.FORMAT, name="other", architectures=("gpt2",), engine_packages={})
    with pytest.raises(
        UsageError, match=r"other \(transformers.*\) cannot express the architecture modern;.*--format hf"
    ):
        require_exportable(only_gpt2, config, options)
    missing = dataclasses.replace(hf.FORMAT, packages=("no_such_package",))
    with pytest.raises(MissingExtraError, match=r"glassgpt\[export\]"):
        require_exportable(missing, config, options)
    with pytest.raises(UsageError, match="--check cannot run hf"):
        require_exportable(dataclasses.replace(hf.FORMAT, open_engine=None), config, options, check=True)
