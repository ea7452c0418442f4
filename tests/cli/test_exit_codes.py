"""One rule of exit codes for all commands: 2 if the command line or what it names is wrong, 1 if the work failed."""

import shutil
import signal

import pytest

from glassgpt import errors
from glassgpt.cli import main
from glassgpt.cli.command_list import COMMANDS

WRONG = 2
FAILED = 1


@pytest.fixture(scope="module")
def damaged(nano_run, grammar_data, tmp_path_factory):
    """A run and a dataset with one byte changed, a model folder whose weights are no weights, and a text."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(nano_run, folder / "run", symlinks=True)
    (weights,) = (folder / "run" / "checkpoints" / (folder / "run/checkpoints/best").read_text().strip()).glob("model*")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    shutil.copytree(grammar_data, folder / "data")
    for shard in (folder / "data").glob("validation*.bin"):
        shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    for name in ("short", "garbled", "lacking"):
        shutil.copytree(grammar_data, folder / name)
    (shard,) = (folder / "short").glob("validation*.bin")
    shard.write_bytes(shard.read_bytes()[:-2])
    (folder / "garbled" / "tokenizer.json").write_text("{")
    (folder / "lacking" / "tokenizer.json").unlink()
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    (folder / "book.txt").write_text("a text\n")
    (folder / "bad.jsonl").write_text("{]\n")
    return folder


CASES = [
    # What the command line names does not exist.
    (WRONG, "generate {tmp}/none", "none does not exist; create a run with: glassgpt train"),
    (WRONG, "complete {tmp}/book.txt --at 1 --model {tmp}/none", "none does not exist; create a run with"),
    (WRONG, "complete {damaged}/book.txt --at x --model {run}", "it must be LINE or LINE:COLUMN"),
    (WRONG, "evaluate {run} --code mbpp --problems {tmp}/none", "none, which does not exist"),
    (FAILED, "evaluate {run} --code mbpp --problems {damaged}/bad.jsonl", "give JSON, one object per line"),
    (WRONG, "evaluate {tmp}/none", "none does not exist; create a run with"),
    (WRONG, "finetune {tmp}/none --data {data} --out {tmp}/r", "none does not exist; create a run with"),
    (WRONG, "finetune {run} --format preference --data {tmp}/none --out {tmp}/r", "none is not a file"),
    (WRONG, "merge {tmp}/none --out {tmp}/r", "none does not exist; create a run with"),
    (WRONG, "merge {run} --out {tmp}/r", "is not an adapter: it holds all its weights already"),
    (WRONG, "sweep-decoding {tmp}/none --for code", "none does not exist; create a run with"),
    (WRONG, "inspect {tmp}/none --text", "none does not exist; create a run with"),
    (WRONG, "serve {tmp}/none", "none does not exist; create a run with"),
    (WRONG, "replay {tmp}/none {run}", "none does not exist; give a file that glassgpt serve --record wrote"),
    (WRONG, "replay {run} {run}", "{run} is a folder; give a file that glassgpt serve --record wrote"),
    (WRONG, "ask {tmp}/none why? --model {run}", "none does not exist"),
    (WRONG, "ask {data} why? --model {run}", "is not an index"),
    (WRONG, "ask {tmp}/none {empty} --model {run}", "the question is empty"),
    (WRONG, "index {tmp}/none --out {tmp}/i", "none does not exist; give files or folders"),
    (WRONG, "train-image-tokenizer {tmp}/none --out {tmp}/r", "none is not a folder; give a folder of pictures"),
    (WRONG, "train-image-tokenizer {data} --out {tmp}/r --device cpu", "has 0 different pictures"),
    (WRONG, "search {tmp}/none x", "none does not exist; create an index with: glassgpt index"),
    (WRONG, "search {run} x", "{run} is not an index"),
    (WRONG, "evaluate", "no run is given; give the folder of a run"),
    (WRONG, "evaluate {run} --index {run} --questions {run}", "is not an index"),
    (FAILED, "index {damaged}/bad.jsonl --out {tmp}/i", "no document can be indexed; the first problem: "),
    (WRONG, "chat {tmp}/none", "none does not exist; create a run with"),
    (WRONG, "compress {tmp}/none --int8 --out {tmp}/r", "none does not exist; create a run with"),
    (WRONG, "export {tmp}/none {tmp}/hf", "none does not exist; create a run with"),
    (WRONG, "export {run} {tmp}/r --format pdf", "unknown format pdf; --format must be one of hf"),
    (WRONG, "doctor {tmp}/none", "none is not a run, a dataset"),
    (WRONG, "model {tmp}/none.toml", "none.toml does not exist"),
    (WRONG, "config show {tmp}/none.toml", "none.toml does not exist"),
    (WRONG, "bench train {tmp}/none.toml", "none.toml does not exist"),
    (WRONG, "bench generate {tmp}/none.toml", "none.toml does not exist"),
    (WRONG, "import {tmp}/a/b --out {tmp}/r", "neither a folder nor a hub id"),
    (WRONG, "prepare {tmp}/none --out {tmp}/d", "not found"),
    (WRONG, "prepare {tmp}/book.txt --out {tmp}/d --tokenizer bytes --pattern llama", "give --tokenizer bpe:SIZE"),
    (WRONG, "prepare {tmp}/none --format code --out {tmp}/d --tokenizer bpe:300", "not found"),
    (WRONG, "prepare {tmp}/book.txt --suffix .py --out {tmp}/d", "suffix is for --format code"),
    (WRONG, "tokenize text -t {tmp}/none", "not found"),
    (WRONG, "train --resume --out {tmp}/none", "nothing to resume"),
    (WRONG, "train nano --data {tmp}/none --out {tmp}/r", "none does not exist; create one with: glassgpt prepare"),
    (WRONG, "train nano --data {tmp}/book.txt --out {tmp}/r", "--out {tmp}/book-data"),
    (WRONG, "train nano --data {data} --init-from {tmp}/none --out {tmp}/r", "none does not exist"),
    (WRONG, "learn list x", "unexpected argument x"),
    (WRONG, "learn start 99 --out {tmp}/r", "there is no lesson 99"),
    (WRONG, "learn check x", "x is not a lesson; give the number of a lesson or of an exercise"),
    (WRONG, "learn hint x", "x is not a lesson; give the number of a lesson or of an exercise"),
    (WRONG, "evaluate {run} --data {tmp}/none", "none does not exist; create one with: glassgpt prepare"),
    (WRONG, "generate {run} --draft {tmp}/none", "none does not exist"),
    (WRONG, "generate {run} --prompts {tmp}/none", "must be a readable file"),
    (WRONG, "generate {run} --checkpoint step-9", "it has: best, latest, step-"),
    (WRONG, "evaluate {run} --checkpoint step-9", "it has: best, latest, step-"),
    # It is something else.
    (WRONG, "generate {data}", "is a dataset, not a run; train on it with: glassgpt train PRESET --data {data}"),
    (WRONG, "generate {damaged}/book.txt", "is a file, not the folder of a run"),
    (
        WRONG,
        "generate {damaged}/hf",
        "is a model in Hugging Face format, not a run; make it a run with: glassgpt import",
    ),
    (
        WRONG,
        "generate {run}/checkpoints/step-000300",
        "is a checkpoint, not a run; give its run: {run} --checkpoint step-",
    ),
    (WRONG, "model {data}", "is a dataset, not a run"),
    (
        WRONG,
        "train nano --data {damaged}/book.txt --out {tmp}/r",
        "prepare {damaged}/book.txt --out {damaged}/book-data",
    ),
    (WRONG, "train nano --data {damaged} --out {tmp}/r", "prepare {damaged} --out {damaged}-data"),
    (WRONG, "evaluate {run} --data {run}", "is a run, not a dataset"),
    (WRONG, "evaluate {run} --data {damaged}/book.txt", "prepare {damaged}/book.txt --out {damaged}/book-data"),
    (WRONG, "import {run} --out {tmp}/r", "is a run already; it needs no import"),
    (WRONG, "import {tmp} --out {tmp}/r", "is not a Hugging Face model: it has no config.json"),
    (WRONG, "import {damaged}/book.txt --out {tmp}/r", "is a file; give the folder"),
    (WRONG, "import {damaged}/hf --out {run}", "holds a run already; choose another --out"),
    (WRONG, "train nano --data {data} --out {run}", "holds a run already; resume it with --resume"),
    (WRONG, "sweep nano --data {data} --out {run}", "exists and is not a sweep; choose another --out"),
    (WRONG, "sweep nano --data {tmp}/none --out {tmp}/r", "none does not exist; create one with: glassgpt prepare"),
    (WRONG, "prepare {tmp} --out {tmp}/d", "contains no readable file"),
    # A value is wrong.
    (WRONG, "generate {run} --top-p 0", "top_p is 0.0; it must be"),
    (WRONG, "generate {run} --prompt {empty}", "the prompt is empty"),
    (WRONG, "generate {run} --prompt {long}", "--truncate"),
    (WRONG, "generate {run} --regex [", "regex is invalid"),
    (WRONG, "generate {run} --beams 2 --top-k 3", "beam search does not support"),
    (WRONG, "generate {run} --stop-token 999", "ids must be between"),
    (WRONG, "inspect {run} --text --prompt {empty}", "the text is empty"),
    (WRONG, "inspect {run} --text --ablate head:9.9", "there is no block 9"),
    (WRONG, "evaluate {run} --compare pure,top_p=2", "top_p is 2.0"),
    (WRONG, "evaluate {run} --chat", "--chat needs something to evaluate on"),
    (WRONG, "evaluate {run} --gsm8k {damaged}/book.txt", "--gsm8k is for chats; add --chat"),
    (WRONG, "evaluate {run} --decoding creative", "--decoding is for chats; add --chat"),
    (WRONG, "evaluate {run} --chat --compare greedy,pure", "--compare cannot be combined with --chat"),
    (WRONG, "evaluate {run} {run} --chat", "{run} is given twice; give each run once"),
    (WRONG, "evaluate {run} {run}", "several runs are compared with --chat only"),
    (WRONG, "evaluate {run} --chat --gsm8k {tmp}/none", "--gsm8k is {tmp}/none, which is not a file"),
    (WRONG, "evaluate {run} --chat --shots 2", "add --gsm8k FILE"),
    (WRONG, "doctor {run} --text --top-p 0", "top_p is 0.0; it must be"),
    (WRONG, "prepare grammar --out {tmp}/d --tokenizer bpe", "prepare also trains new ones"),
    (WRONG, "prepare grammar --out {tmp}/d --validation-fraction 2", "it must be between 0 and 1"),
    (WRONG, "demo --out {damaged}", "is not a run and will not be deleted; choose another --out"),
    (WRONG, "tokenize", "no text given"),
    (WRONG, "config list nonsense", "unexpected argument nonsense"),
    # The command line is right, but the work fails.
    (FAILED, "generate {damaged}/run", "is damaged"),
    (FAILED, "evaluate {damaged}/run", "is damaged"),
    (FAILED, "evaluate {run} --chat --gsm8k {damaged}/bad.jsonl", "bad.jsonl, line 1: not valid JSON"),
    (FAILED, "inspect {damaged}/run --text", "is damaged"),
    (FAILED, "compress {damaged}/run --int8 --data {data} --out {tmp}/r", "is damaged"),
    (FAILED, "export {damaged}/run {tmp}/hf", "is damaged"),
    (FAILED, "evaluate {run} --data {damaged}/data", "is damaged"),
    (FAILED, "import {damaged}/hf --out {tmp}/r", ""),
    (FAILED, "prepare {damaged}/bad.jsonl --out {tmp}/d", "not valid JSON"),
    (FAILED, "doctor {damaged}/data", ""),
    (FAILED, "train nano --data {damaged}/short --out {tmp}/r", "validation-00000.bin is truncated or damaged"),
    (FAILED, "sweep nano --data {damaged}/short --out {tmp}/r", "validation-00000.bin is truncated or damaged"),
    (WRONG, "train nano --data {damaged}/short --train.max-steps 0 --out {tmp}/r", "is truncated or damaged"),
    (FAILED, "train nano --data {damaged}/garbled --out {tmp}/r", "the tokenizer is damaged"),
    (WRONG, "train nano --data {damaged}/lacking --out {tmp}/r", "lacking has no tokenizer.json; if it is"),
    (WRONG, "tokenize text -t {damaged}", "has no tokenizer.json; if it is a run or a dataset, restore that file"),
    (WRONG, "doctor {data} --report", "--report writes into a run; give the folder of a run instead of"),
    (WRONG, "doctor {tmp}/none --report", "none is not a run, a dataset"),
    (FAILED, "generate {run} --prompt x --choice long --max-tokens 2", "does not match the form"),
    (FAILED, "generate {run} --prompt x --logit-bias #120=-inf --regex x", "every token is forbidden"),
]


@pytest.mark.parametrize(("code", "arguments", "message"), CASES, ids=[arguments for _, arguments, _ in CASES])
def test_exit_code_says_whether_the_command_line_or_the_work_was_wrong(
    run_main, nano_run, grammar_data, damaged, tmp_path, code, arguments, message
):
    words = {"run": nano_run, "data": grammar_data, "tmp": tmp_path, "damaged": damaged, "empty": "", "long": "x" * 65}
    got, out, err = run_main(*[part.format(**words) for part in arguments.split(" ")])
    told = " ".join((out + err).split())
    assert (got, message.format(**words) in told) == (code, True), told
    assert "Traceback" not in err
    if code == WRONG:
        assert not (tmp_path / "r").exists()
        assert not (tmp_path / "d").exists()


def test_every_command_is_in_the_table():
    named = {arguments.split(" {")[0] for _, arguments, _ in CASES}
    for command in COMMANDS:
        assert any(each == command.name or each.startswith(f"{command.name} ") for each in named), command.name


def test_every_error_has_one_of_the_two_codes():
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.GlassGPTError)
    ]
    assert len(classes) > 20
    for each in classes:
        assert each.exit_code == (FAILED if each is errors.GenerationFailedError or not issubclass(each, errors.UsageError)
                                  or issubclass(each, errors.GenerationFailedError) else WRONG)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ("generate {run} --prompt x --temp 0 -n 3", "generate {run} --prompt x --temperature 0 --max-tokens 3"),
        ("generate {run} -p x --temp=0 -n=3", "generate {run} --prompt x --temperature 0 --max-tokens 3"),
        (
            "generate {run} --num-return-sequences 2 -n 3 --seed 1",
            "generate {run} --num-samples 2 --max-tokens 3 --seed 1",
        ),
        (
            "config show nano --lr 0.5 --wd 0.25",
            "config show nano --train.learning-rate 0.5 --optimizer.weight-decay 0.25",
        ),
    ],
)
def test_usual_names_are_accepted(run_main, nano_run, arguments, same):
    found = [run_main(*each.format(run=nano_run).split(" ")) for each in (arguments, same)]
    assert found[0][:2] == found[1][:2]
    assert found[0][0] == 0


def test_value_that_looks_like_a_short_name_is_a_value(run_main, nano_run):
    code, out, _ = run_main("generate", nano_run, "--prompt", "--lr", "--max-tokens", 2, "--seed", 1)
    assert code == 0
    assert out.startswith("--lr")


@pytest.mark.parametrize("option", ["--output", "-o"])
def test_required_option_may_be_given_by_its_usual_name(run_main, tmp_path, option):
    code, _, err = run_main("import", tmp_path, option, tmp_path / "r")
    assert code == 2
    assert "is not a Hugging Face model" in err


def test_usual_name_of_a_required_option_is_accepted_where_texts_may_begin_with_a_hyphen(run_main, tmp_path):
    code, _, err = run_main("prepare", tmp_path / "none.txt", "--output", tmp_path / "d")
    assert code == WRONG
    assert "none.txt' not found" in err


def press_ctrl_c_while_a_class_is_made():
    """Raise what Python 3.11 makes of Ctrl-C in `type.__new__`."""
    raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()


def press_ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize("press", [press_ctrl_c, press_ctrl_c_while_a_class_is_made])
def test_ctrl_c_anywhere_ends_in_one_line(run_main, monkeypatch, press):
    monkeypatch.setattr("glassgpt.data.show.show_tokens", lambda *_, **__: press())
    code, out, err = run_main("tokenize", "a", "-t", "bytes")
    assert (code, out, err) == (130, "", "interrupted\n")


def test_second_ctrl_c_ends_the_process_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr("glassgpt.data.show.show_tokens", lambda *_, **__: press_ctrl_c())
    monkeypatch.setattr("glassgpt.console.info", lambda _: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            main(["tokenize", "a", "-t", "bytes"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_DFL]
