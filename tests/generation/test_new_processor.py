"""A new logits processor is one file and its line in the registry."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glassgpt

PROCESSOR = '''
"""`toy_shift`: make token 0 more probable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glassgpt.generation.processors.base import (
    SAMPLING,
    SEARCHES_DO_NOT_SAMPLE,
    LogitsProcessor,
    ProcessorOptions,
)
from glassgpt.schema import setting


@dataclass(frozen=True)
class ToyOptions(ProcessorOptions):
    """Settings of the toy."""

    toy_shift: float = setting(
        0.0, help="Add ten times this to token 0.", group=SAMPLING, minimum=0, maximum=9, note="0 disables it",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    def build(self, tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the shift, unless it is 0."""
        if (shift := self.toy_shift) > 0:
            yield LogitsProcessor("toy_shift", lambda logits, _: add(logits, shift), reads_history=False)


def add(logits, shift):
    """Add a multiple of the shift to token 0."""
    shifted = logits.clone()
    shifted[:, 0] += 10 * shift
    return shifted
'''

CHECK = """
import sys
from pathlib import Path
from glassgpt.cli.generation_flags import OPTIONS, options_from_flags
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.presets import parse_generation_preset
from glassgpt.generation.reference import settings_reference
from glassgpt.generation.strategy_options import reject_sampling_options

assert "torch" not in sys.modules
assert OPTIONS["toy_shift"].flag == "--toy-shift"
assert options_from_flags({}, None, {"toy_shift": 2.0}).toy_shift == 2.0
assert parse_generation_preset("toy_shift = 3", "mine") == {"toy_shift": 3.0}
assert options_from_kwargs({"toy_shift": 4.0}).toy_shift == 4.0
assert "| `toy_shift` | `--toy-shift` | a number between 0 and 9 (0 disables it) | `0.0` |" in settings_reference()
for call in (GenerationOptions(toy_shift=10.0).check,
             lambda: reject_sampling_options(GenerationOptions(toy_shift=1.0), "beam search")):
    try:
        call()
    except Exception as error:
        assert "toy_shift is" in str(error)
    else:
        raise AssertionError("accepted")

import torch
from glassgpt.data import load_tokenizer
from glassgpt.generation.engine.generate import generate
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

model = build_model(ModelConfig(vocab_size=257, context_length=32, n_layer=1, n_head=1, n_embd=8)).eval()
# The toy comes last: nothing before it may remove the token.
options = GenerationOptions(toy_shift=9.0, temperature=0.1, top_k=0, top_p=1.0, max_tokens=5, seed=1)
assert generate(model, load_tokenizer("bytes"), "a", options)[0].tokens == [0] * 5

from glassgpt.cli import main
main(["generate", "--help"])
"""


@pytest.mark.slow
def test_a_processor_of_one_file_reaches_flags_presets_arguments_docs_and_generation(tmp_path):
    package = tmp_path / "glassgpt"
    shutil.copytree(Path(glassgpt.__file__).parent, package)  # with its bytecode
    processors = package / "generation" / "processors"
    (processors / "toy.py").write_text(PROCESSOR)
    registry = (processors / "registry.py").read_text()
    line = "    TypicalPOptions,\n):"
    assert line in registry
    registry = registry.replace(line, "    TypicalPOptions,\n    ToyOptions,\n):")
    importing = "from glassgpt.generation.processors.top_k import TopKOptions"
    assert importing in registry
    registry = registry.replace(importing, f"from glassgpt.generation.processors.toy import ToyOptions\n{importing}")
    (processors / "registry.py").write_text(registry)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--toy-shift" in done.stdout
