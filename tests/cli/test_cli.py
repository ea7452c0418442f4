"""The command line as users type it, including their mistakes."""

import json
import math
import re
import subprocess
import sys

import pytest

from glassgpt.cli import main
from glassgpt.cli.dispatch import split_overrides
from glassgpt.data.grammar import grammar_text
from glassgpt.errors import UsageError


@pytest.mark.slow
def test_prepare_train_generate_evaluate_export_import(glassgpt_command, tmp_path):
    """The README's commands, each in a separate process."""
    (tmp_path / "text.txt").write_text(grammar_text(1500, seed=3))
    prepared = glassgpt_command("prepare", "text.txt", "--out", "data", "--tokenizer", "bytes", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    trained = glassgpt_command(
        "train", "nano", "--data", "data", "--out", "run", "--seed", "3", "--train.max-steps", "30", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    assert "bits per byte" in trained.stdout
    asked = ("generate", "run", "--prompt", "today ", "--max-tokens", "20", "--seed", "1", "--json")
    first = glassgpt_command(*asked, "--num-samples", "2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    samples = [json.loads(line) for line in first.stdout.splitlines()]
    assert len(samples) == 2
    assert set(samples[0]) == {"prompt", "sample", "prompt_text", "text", "tokens", "finish_reason"}
    assert bytes(samples[0]["tokens"]).decode(errors="replace") == samples[0]["text"]
    again = glassgpt_command(*asked, cwd=tmp_path)
    assert json.loads(again.stdout) == samples[0]
    evaluated = glassgpt_command("evaluate", "run", "--json", cwd=tmp_path)
    figures = json.loads(evaluated.stdout)
    assert figures["bits_per_byte"] == pytest.approx(figures["validation_loss"] / math.log(2), rel=0.01)
    assert glassgpt_command("export", "run", "hf", cwd=tmp_path).returncode == 0
    assert glassgpt_command("import", "hf", "--out", "back", cwd=tmp_path).returncode == 0
    back = glassgpt_command(*("generate", "back", *asked[2:]), cwd=tmp_path)
    assert json.loads(back.stdout) == samples[0]
    tuned = glassgpt_command(
        "train",
        "nano",
        "--data",
        "data",
        "--init-from",
        "back",
        "--out",
        "tuned",
        "--train.max-steps",
        "1",
        cwd=tmp_path,
    )
    assert tuned.returncode == 0, tuned.stderr


def test_help_lists_commands_in_order_of_use_with_examples(run_main):
    _, whole, _ = run_main("--help")
    order = [whole.index(f"│ {name} ") for name in ("prepare", "train", "generate", "evaluate", "inspect", "doctor")]
    assert order == sorted(order)
    _, train, _ = run_main("train", "--help")
    assert "--train.max-steps 100" in train
    assert "glassgpt train --resume --out runs/mine" in train
    assert "[default: False]" not in train
    _, generate, _ = run_main("generate", "--help")
    assert "[default: stop]" in " ".join(generate.replace("│", " ").split())
    assert "[default: false]" in " ".join(generate.replace("│", " ").split())


def test_generate_reports_a_full_context(run_main, nano_run):
    _, _, err = run_main("generate", nano_run, "--prompt", "today", "--max-tokens", 300, "--ban", ".", "--seed", 1)
    assert "the context of 64 tokens is full; to continue, add --overflow re-prefill" in err
    _, _, err = run_main("generate", nano_run, "--prompt", "today", "--beams", 2, "--max-tokens", 300, "--best", 2)
    assert "re-prefill" not in err
    assert err.count("the context of 64 tokens is full") == 1
    _, _, err = run_main("generate", nano_run, "--prompt", "today", "--max-tokens", 10)
    assert "is full" not in err


def test_generate_prints_prompt_then_text(run_main, nano_run):
    code, out, err = run_main("generate", nano_run, "--prompt", "today the", "--max-tokens", 30, "--temperature", 0)
    assert code == 0, err
    assert out.startswith("today the")
    assert len(out.strip()) > len("today the") + 10


def test_samples_have_headings(run_main, nano_run):
    code, out, _ = run_main("generate", nano_run, "--prompt", "now", "--num-samples", 2, "--seed", 4, "--max-tokens", 5)
    assert code == 0
    assert "sample 1 of 2 (length)" in out
    assert "sample 2 of 2" in out


def test_stop_can_be_given_several_times(run_main, nano_run):
    code, out, _ = run_main(
        "generate", nano_run, "--prompt", "today ", "--stop", "is ", "--stop", "are ", "--seed", 1, "--json"
    )
    sample = json.loads(out)
    assert (code, sample["finish_reason"]) == (0, "stop")
    assert "is " not in sample["text"]
    assert "are " not in sample["text"]


def test_options_override_generation_preset(run_main, nano_run):
    asked = ("generate", nano_run, "--prompt", "today ", "--seed", 1, "--json", "--max-tokens", 30)
    texts = {
        name: run_main(*asked, *arguments)[1]
        for name, arguments in {
            "creative": ("--settings", "creative"),
            "same": ("--temperature", 1.1, "--top-p", 1, "--min-p", 0.05, "--frequency-penalty", 0.1),
            "changed": ("--settings", "creative", "--temperature", 0),
        }.items()
    }
    assert texts["creative"] == texts["same"] != texts["changed"]


def test_sampling_options_work_together(run_main, nano_run):
    code, out, err = run_main(
        "generate", nano_run, "--prompt", "today ", "--seed", 1, "--json", "--max-tokens", 12, "--min-tokens", 12,
        "--temperature-schedule", "5=1.5", "--top-k", 50, "--typical-p", 0.99, "--presence-penalty", -0.1,
        "--no-repeat-ngram", 5, "--logit-bias", "e=-2", "--logit-bias", "#97=-inf", "--ban", "the", "--ban", "is",
        "--stop-token", 10, "--stop", "zz", "--logprobs", 2, "--truncate",
    )  # fmt: skip
    assert code == 0, err
    line = json.loads(out)
    assert len(line["tokens"]) == len(line["logprobs"]) == 12
    assert "a" not in line["text"]
    assert "the" not in line["text"]


def test_constrained_output(run_main, nano_run):
    def text(*arguments):
        code, out, err = run_main("generate", nano_run, "--prompt", "today ", "--json", *arguments)
        assert code == 0, err
        return json.loads(out)["text"]

    assert re.fullmatch("[0-9]{2}[a-c]", text("--regex", "[0-9]{2}[a-c]"))
    assert text("--choice", "yes", "--choice", "no way") in ("yes", "no way")
    assert json.loads(text("--json-schema", '{"enum": [1, "x"]}')) in (1, "x")


def test_explain_shows_candidates(run_main, nano_run):
    asked = ("generate", nano_run, "--prompt", "today ", "--seed", 1, "--explain", "--settings", "technical")
    code, out, err = run_main(*asked)
    assert code == 0, err
    assert 1 <= out.count("▶") <= 20
    code, out, _ = run_main(*asked, "--json", "--max-tokens", 2)
    assert json.loads(out)["stages"][0] == "model"
    assert len(json.loads(out)["steps"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("trian", 2, "unknown command trian; did you mean train?"),
        (
            "bench trian",
            2,
            "unknown command bench trian; did you mean train?; the commands are train, generate; see: glassgpt bench",
        ),
        ("train --hlep", 2, "unknown option --hlep; did you mean --help?; see: glassgpt train --help"),
        ("train nano --max-steps 3", 2, "unknown option --max-steps; did you mean --train.max-steps?"),
        ("train nano --gpus 1.5", 2, "--gpus is '1.5'; it must be an integer; see: glassgpt train --help"),
        ("evaluate {run} --prompts 1.5", 2, "--prompts is '1.5'; it must be an integer"),
        ("generate {run} --max-steps 3", 2, "unknown option --max-steps; did you mean --max-tokens?"),
        ("generate", 2, "RUN is missing; see: glassgpt generate --help"),
        ("generate {run} midnight", 2, "unexpected argument midnight"),
        ("generate {run} --temperature hot", 2, "--temperature is 'hot'; it must be a number"),
        ("generate {run} --temperature", 2, "--temperature needs a value"),
        (
            "generate {run} --device gpu",
            2,
            "--device is 'gpu'; did you mean cpu?; it must be one of auto, cpu, cuda, mps",
        ),
        ("generate {run} --seed 1 --seed 2", 2, "--seed is given more than once"),
        ("evaluate {run} --json=3", 2, "--json is '3'; it must be given without a value"),
        ("import x --ot y", 2, "--out is missing; unknown option --ot"),
        ("train", 2, "a preset is missing"),
        ("train nan --data {data}", 2, "did you mean nano?"),
        ("train nano", 2, "glassgpt prepare"),
        ("train nano --data nowhere --out {tmp}/r", 2, "nowhere"),
        ("train nano --data {data} --out {run}", 2, "resume it with --resume"),
        ("train nano --data {data} --out {tmp}/r --train.learning-rat 1", 2, "did you mean train.learning_rate?"),
        ("train nano --data {data} --out {tmp}/r --train.max-steps", 2, "needs a value"),
        ("train nano --data {data} --out {tmp}/r --model.n-head 3 --train.batch-tokens 7", 2, "nearest"),
        ("train --resume", 2, "name it with --out"),
        ("train nano --data {data} --out {tmp}/r --seed -1", 2, "seed is -1; it must be between 0"),
        ("train nano --data {data} --out {tmp}/r --train.max-steps 1e400", 2, "it must be an integer"),
        ("train nano --data {data} --out {tmp}/r --optimizer.weight-decay inf", 2, "must be at least 0 and finite"),
        ("train nano --data {data} --out {data}/dataset.json/r", 2, "is not a writable folder"),
        ("prepare - --validation-source - --out {tmp}/d", 2, "standard input can only be read once"),
        ("bench train nano --data {data} --model.vocab-size 100", 2, "which has 257 tokens"),
        ("bench train nano --steps 1", 2, "must be at least 2"),
        ("demo --out {data}/dataset.json --force", 2, "not a run"),
        ("train --resume --out {tmp}/none", 2, "nothing to resume in"),
        ("generate {tmp}/none --prompt x", 2, "does not exist"),
        ("generate {run} --prompt {empty}", 2, "the prompt is empty"),
        ("generate {run} --prompt {long}", 2, "--truncate"),
        ("generate {run} --prompt x --temperature -1 --top-p 0", 2, "top_p is 0.0; it must be a number above 0"),
        ("generate {run} --prompt x --checkpoint step-9", 2, "it has: best, latest, step-"),
        ("generate {run} --prompt x --max-tokens many", 2, "it must be an integer"),
        ("generate {run} --prompt x --settings creatve", 2, "did you mean creative?"),
        ("generate {run} --prompt x --logit-bias the", 2, "it must be TEXT=NUMBER or #ID=NUMBER"),
        ("generate {run} --prompt x --logit-bias #999=1", 2, "ids must be between 0 and 256"),
        ("generate {run} --prompt x --stop-token 257", 2, "ids must be between 0 and 256"),
        ("generate {run} --prompt x --regex [", 2, "regex is invalid"),
        ("generate {run} --prompt x --regex a --choice b", 2, "cannot be combined"),
        ("generate {run} --prompt x --min-tokens 300", 2, "it must be at most max_tokens"),
        ("generate {run} --prompt x --logprobs 3", 2, "--json or --explain"),
        ("generate {run} --prompt x --explain --max-tokens 500", 2, "with --explain it must be at most 200"),
        ("generate {run} --prompt x --temprature 1", 2, "did you mean --temperature?"),
        ("generate {run} --train.max-steps 3", 2, "this command does not take the setting --train.max-steps"),
        ("evaluate {run} --context-length 65", 2, "--context-length must be from 1 to 64"),
        ("evaluate {run} --stride 65", 2, "--stride must be from 1 (slowest, most context) to 64"),
        ("evaluate {run} --data {tmp}/none", 2, "does not exist; create one with"),
        ("evaluate {run} --compare gredy", 2, "did you mean greedy?"),
        ("evaluate {run} --compare pure,top_p=2", 2, "settings top_p=2: top_p is 2.0; it must be a number above 0"),
        ("evaluate {run} --generate --prompts 0", 2, "--prompts must be at least 1, not 0"),
        ("evaluate {run} --generate --picture {tmp}/x.gif", 2, "must end in .png, .svg, .pdf"),
        ("evaluate {run} --picture {tmp}/x.png", 2, "add --compare SETTINGS or --generate"),
        ("evaluate {run} --embedding-model {tmp}", 2, "add --compare SETTINGS or --generate"),
        ("evaluate {run} --generate --embedding-model {tmp}", 2, "has no config.json"),
        ("evaluate {run} --json-file {tmp}", 2, "which is a folder"),
        ("evaluate {run} --json-file {run}/config.toml", 2, "already exists; overwrite it with --force"),
        ("sweep-decoding {run} --for poetry", 2, "--for must be one of creative, chat, technical, code, not poetry"),
        ("sweep-decoding {run} --for code --budget 1 --out {tmp}/s.toml", 2, "--budget must be at least 127"),
        ("sweep-decoding {run} --for code --out {tmp}/s.txt", 2, "the name must end in .toml"),
        ("sweep-decoding {tmp}/none --for code", 2, "create a run with"),
        ("model gtp2", 2, "did you mean gpt2"),
        ("model nano --model.n-head 7", 2, "the nearest divisor is 8"),
        ("export {run} {run}", 2, "not empty"),
        ("import {tmp} --out {tmp}/i", 2, "config.json"),
        ("prepare --out {tmp}/d", 2, "no source given"),
        ("prepare {tmp}/none.txt --out {tmp}/d", 2, "none.txt"),
        ("tokenize", 2, "no text given"),
        ("tokenize --cmpare", 2, "unknown option --cmpare; did you mean --compare?; see: glassgpt tokenize --help"),
        ("prepare --force --seperator=x x.txt --out {tmp}/d", 2, "did you mean --separator?; see: glassgpt prepare"),
        ("tokenize x -t nothing", 2, "nothing"),
        ("config show nan", 2, "did you mean nano?"),
        ("doctor nonsense", 2, "nonsense is not a run, a dataset"),
        ("doctor GG-NAN-999", 2, "similar codes: GG-NAN-"),
        ("prepare grammar --out {tmp}/d --tokenizer bpe", 2, "prepare also trains new ones: bpe:SIZE"),
    ],
)
def test_user_errors_get_one_line_and_an_exit_code(
    run_main, grammar_data, nano_run, tmp_path, arguments, code, message
):
    words = {"data": grammar_data, "run": nano_run, "tmp": tmp_path, "empty": "", "long": "x" * 65}
    got, out, err = run_main(*[part.format(**words) for part in arguments.split(" ")])
    assert got == code, err
    assert message in err
    assert "Traceback" not in err
    assert out == ""
    assert len(err.strip().splitlines()) <= 3
    assert not (tmp_path / "r").exists()


def test_debug_raises_the_original_error(nano_run):
    with pytest.raises(UsageError):
        main(["--debug", "export", str(nano_run), str(nano_run)])


def test_model_prints_gpt2_parameter_counts(run_main):
    code, out, _ = run_main("model", "gpt2")
    assert code == 0
    assert "total: 124,439,808 parameters" in out
    assert "38,597,376" in out
    assert "FLOP per token to train" in out
    assert "windows" not in out
    windows = ("--model.arch", "modern", "--model.bias", "false", "--model.window", 8, "--model.window-pattern", "S")
    code, out, _ = run_main("model", "nano", "--model.n-embd", 512, *windows)
    assert code == 0
    assert "which keeps only the windows: 0.1 MB" in out  # 2 layers, 8 + 1 of 64 positions; all of them are 0.5 MB


def test_config_list_and_show(run_main):
    code, out, _ = run_main("config", "list")
    assert code == 0
    assert all(name in out for name in ("nano", "demo", "gpt2-xl"))
    code, out, _ = run_main("config", "show", "nano", "--train.learning-rate", "0.5")
    assert code == 0
    assert "learning_rate = 0.5" in out


def test_every_command_has_help(run_main):
    for command in [
        "prepare",
        "tokenize",
        "model",
        "train",
        "generate",
        "evaluate",
        "sweep-decoding",
        "import",
        "export",
        "demo",
        "config",
    ]:
        code, out, _ = run_main(command, "--help")
        assert code in (0, None)
        assert f"glassgpt {command}" in out


@pytest.mark.parametrize(
    ("arguments", "rest", "overrides"),
    [
        (["--a.b", "1", "x"], ["x"], {"a.b": "1"}),
        (["--a.b-c=", "x"], ["x"], {"a.b_c": ""}),
        (["--a.b", "-1e-3"], [], {"a.b": "-1e-3"}),
        (["--prompt", "a.b", "--", "--c.d", "e"], ["--prompt", "a.b", "--", "--c.d", "e"], {}),
        (["--a.b=1", "--a.b", "1"], [], {"a.b": "1"}),
    ],
)
def test_split_overrides(arguments, rest, overrides):
    assert split_overrides(arguments) == (rest, overrides)


def test_split_overrides_rejects_conflicting_values():
    with pytest.raises(UsageError, match="given twice, as 1 and as 2"):
        split_overrides(["--a.b", "1", "--a.b", "2"])


def test_demo_runs_and_restarts_with_force(run_main, loss_curves, tmp_path, monkeypatch):
    """With a short text and a few steps, to be fast; `make demo` runs all of it."""
    from glassgpt import demo
    from glassgpt.config import load_config
    from glassgpt.training.run_folder import RunFolder

    short = {"train.max_steps": 3, "train.eval_tokens": 640, "model.n_embd": 8, "model.n_layer": 1}
    monkeypatch.setattr(demo, "load_config", lambda name, given: load_config(name, given | short))
    (tmp_path / "text.txt").write_text(grammar_text(3000, seed=3))
    monkeypatch.setattr(demo, "SOURCE", str(tmp_path / "text.txt"))
    monkeypatch.setattr(demo, "TOKENIZER", "bpe:300")
    out = tmp_path / "run"
    code, printed, err = run_main("demo", "--out", out)
    assert code == 0, err
    assert re.fullmatch(r"validation: \d+\.\d\d bits per byte", printed.splitlines()[-1])
    assert all(prompt.strip() in printed for prompt in demo.PROMPTS)
    assert RunFolder(out).curve.is_file()
    assert "start over with --force" in run_main("demo", "--out", out)[2]
    assert run_main("demo", "--out", out, "--force")[0] == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    code, _, err = run_main("demo", "--out", mine, "--force")
    assert (code, "not a run and will not be deleted" in err) == (2, True)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_hyphen_reads_standard_input(glassgpt_command, nano_run, tmp_path):
    def piped(*arguments):
        done = glassgpt_command(*arguments, stdin="today the ", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "10 characters" in piped("tokenize", "-", "-t", "bytes")
    assert piped("generate", nano_run, "--prompt", "-", "--max-tokens", 3).startswith("today the ")
    piped("prepare", "-", "--out", "data", "--tokenizer", "bytes")
    assert (tmp_path / "data" / "dataset.json").is_file()


def test_prompt_can_start_with_hyphens(run_main, nano_run):
    code, out, err = run_main("generate", nano_run, "--prompt", "-- is", "--max-tokens", 3)
    assert code == 0, err
    assert out.startswith("-- is")


def test_decomposed_prompts_are_noted_and_composed(capsys):
    import unicodedata

    from glassgpt.cli.generation import _normalized
    from glassgpt.generation.prompt_list import PromptList

    decomposed = unicodedata.normalize("NFD", "한국어")
    assert _normalized(PromptList([decomposed, None]), None).texts == [decomposed, None]
    assert "--normalize nfc" in capsys.readouterr().err
    assert _normalized(PromptList([decomposed, None]), "nfc").texts == ["한국어", None]
    assert _normalized(PromptList(["한국어 text", ""]), None).texts == ["한국어 text", ""]
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_generate_does_not_import_the_compiler(nano_run):
    """PyTorch's compiler and its sharded tensors take longer to import than a small model to answer."""
    script = (
        "import gc, sys; from glassgpt.cli import main\n"
        f"main(['generate', {str(nano_run)!r}, '--prompt', 'a', '--max-tokens', '1'])\n"
        "assert gc.isenabled() and gc.get_freeze_count()\n"
        "slow = {'torch._dynamo', 'torch._inductor', 'torch.distributed.tensor', 'sympy', 'matplotlib', 'PIL', 'transformers'}\n"
        "print({'torch', *slow} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "{'torch'}", done.stderr
