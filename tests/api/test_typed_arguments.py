"""Keyword arguments of `generate` and its like are typed, from the one schema."""

import importlib.util
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import glassgpt
from glassgpt.generation.arguments import GenerationArguments
from glassgpt.generation.options import GenerationOptions
from glassgpt.schema import settings_of
from glassgpt.schema.type_hints import alternatives

ROOT = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location("generation_arguments", ROOT / "tools" / "generation_arguments.py")
generation_arguments = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generation_arguments)


def test_file_is_what_the_schema_gives():
    assert generation_arguments.source() == generation_arguments.FILE.read_text(encoding="utf-8"), "run: make arguments"


def test_names_and_types_are_those_of_the_options():
    accepted = typing.get_type_hints(GenerationArguments)
    declared = {each.name: each.type for each in settings_of(GenerationOptions)}
    assert accepted.keys() == declared.keys()
    assert not GenerationArguments.__required_keys__
    for name, kind in declared.items():
        assert set(alternatives(kind)) <= set(alternatives(accepted[name])), name
        wider = set(alternatives(accepted[name])) - set(alternatives(kind))
        assert all(typing.get_origin(each) is list or "Mapping" in str(each) for each in wider), (name, wider)


@pytest.mark.parametrize(
    "name", ["generate", "generate_many", "iterate_many", "samples", "samples_many", "stream", "stream_chunks", "explain", "trace",
             "agenerate", "agenerate_many", "aiterate_many", "astream"],
)  # fmt: skip
def test_every_method_takes_them_and_says_what_it_does(name):
    method = getattr(glassgpt.LoadedModel, name)
    assert inspect.signature(method).parameters["options"].annotation == "Unpack[GenerationArguments]"
    assert len(inspect.getdoc(method)) > 40


RIGHT = """
import glassgpt

m = glassgpt.load("runs/demo")
preset: glassgpt.GenerationArguments = {"max_tokens": 3, "stop_tokens": [1]}
bias: dict[str, float] = {"a": 1.0}
text: str = m.generate("It was", temperature=0.7, top_k=5, stop=["."], ban=("x",), logit_bias=bias, seed=None)
options = glassgpt.GenerationOptions(temperature=0.3)
m.generate("It was", strategy=glassgpt.BeamOptions(beams=2), **preset)
for completion in m.iterate_many(["a", None], num_samples=2):
    index: int = completion.index
    finished: str = completion.samples[0].finish_reason


async def main() -> None:
    async for completion in m.aiterate_many(["a"], overflow="re-prefill"):
        print(completion.text.upper())
    texts: list[str] = await m.agenerate_many(["a"], max_tokens=3)
    async for piece in m.astream("a"):
        print(piece.upper(), texts)
"""
WRONG = """
import glassgpt

m = glassgpt.load("runs/demo")
m.generate("It was", temprature=0.7)
m.generate("It was", temperature="hot")
m.generate("It was", stop="end")
m.stream("It was", overflow="wrap")
m.trace("a", beams=1)
m.aiterate_many("ab", max_token=3)
glassgpt.GenerationOptions(temprature=0.3)
m.generate("It was", seed=0.5)
"""


@pytest.mark.slow
def test_type_checker_accepts_right_calls_and_names_each_wrong_one(tmp_path):
    """A process of 4 seconds: nothing but the type checker itself shows what an editor would."""
    pytest.importorskip("pyright")
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    settings = {
        "include": ["."],
        "typeCheckingMode": "strict",
        "extraPaths": [str(ROOT / "src")],
        "reportUnknownMemberType": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "--project",
        str(tmp_path),
    ]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120).stdout)
    errors = [(Path(each["file"]).name, each["range"]["start"]["line"]) for each in found["generalDiagnostics"]]
    lines = [number for number, line in enumerate(WRONG.splitlines()) if "(" in line and "load" not in line]
    assert sorted(set(errors)) == [("wrong.py", number) for number in lines], found["generalDiagnostics"]
