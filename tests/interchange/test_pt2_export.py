"""torch.export: the file runs without glassgpt, for every batch size and length."""

import subprocess
import sys

import pytest
import torch

from glassgpt import api
from glassgpt.data import load_tokenizer
from small_models import LLAMA, attentive_model

MODERN = {"arch": "modern", "bias": False, "n_head": 4, "n_kv_head": 2, "window": 8, "n_embd": 48}
SHAPES = {"gpt2": {"n_layer": 1}, "modern": MODERN, "llama": LLAMA}
# Runs in a fresh process in which glassgpt cannot be imported.
ALONE = """
import sys
sys.modules["glassgpt"] = None
import json, torch
folder = sys.argv[1]
module = torch.export.load(f"{folder}/model.pt2").module(check_guards=False)
inputs = json.load(open(f"{folder}/inputs.json"))
cases = torch.load(f"{sys.argv[2]}/cases.pt", weights_only=True)
count, (_, heads, _, width) = inputs["past_key_values"]["count"], inputs["past_key_values"]["shape"]
for tokens, n_past, expected in cases:
    batch, total = tokens.shape
    past = [torch.zeros(batch, heads, 0, width)] * count
    for part in (tokens[:, :n_past], tokens[:, n_past:]):
        if part.size(1):
            done = past[0].size(2)
            positions = torch.arange(done, done + part.size(1)).expand(batch, -1)
            mask = torch.ones(batch, done + part.size(1), dtype=torch.long)
            with torch.no_grad():
                logits, *past = module(part, mask, positions, past)
    error = float((logits - expected[:, n_past:]).abs().max() / expected.abs().max())
    assert error <= 1e-5, (tuple(tokens.shape), n_past, error)
print("equal", len(cases))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_file_runs_without_glassgpt_for_every_batch_size_and_length(name, tmp_path):
    """A tracer takes sizes for constants where the code compares them (pytorch#150364)."""
    model = attentive_model(**SHAPES[name])
    api.save_as_run(model, load_tokenizer("bytes"), tmp_path / "run")
    found = api.export(tmp_path / "run", tmp_path / "out", format="pt2", check=True)
    assert all(each.same_greedy == each.n_greedy > 0 for each in found)
    torch.manual_seed(0)
    cases = []
    for batch, past, new in [(1, 0, 1), (1, 0, 48), (3, 0, 7), (3, 4, 1), (1, 9, 5), (3, 9, 9), (2, 47, 1)]:
        tokens = torch.randint(257, (batch, past + new))
        cases.append((tokens, past, model(tokens).detach()))
    torch.save(cases, tmp_path / "cases.pt")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "out"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == f"equal {len(cases)}", done.stderr


FULL = """
import resource, signal, sys
from glassgpt import api
from glassgpt.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    api.export(sys.argv[1], sys.argv[2], format="pt2")
except DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path):
    """PyTorch's own writer would end the process."""
    api.save_as_run(attentive_model(n_layer=1), load_tokenizer("bytes"), tmp_path / "run")
    command = [sys.executable, "-c", FULL, str(tmp_path / "run"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "the disk is full" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
