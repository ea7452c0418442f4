"""Run clients that others wrote against a server of a small model: `make test-clients`.

    python tests/clients/run.py CLIENTS_BIN LITELLM_BIN [SECONDS]

CLIENTS_BIN is the folder of an environment with requirements.txt, LITELLM_BIN of one with requirements-litellm.txt, which
needs an older openai; SECONDS is the time for schemathesis.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import torch
from seeing_run import seeing_run

import glassgpt
from glassgpt.data.grammar import grammar_text

HERE = Path(__file__).parent
CHOICES = [("the", [" dog", " zzz"]), ("a", [" cat", "QQ"]), ("one two", [" three", "#"])] * 3
COMPLY_TESTS = (
    "chat-basic-response",
    "chat-system-prompt",
    "chat-multi-turn",
    "chat-streaming-response",
    "chat-streaming-usage",
)
"""Tests of llm-comply that a small language model can pass: tools and images get 400, a request without `model` the first
one, and the texts end by their length."""
TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def glassgpt_command(*arguments):
    return [sys.executable, "-m", "glassgpt", *map(str, arguments)]


def trained_run(folder):
    (folder / "text.txt").write_text(grammar_text(2000, seed=1))
    prepare = glassgpt_command("prepare", folder / "text.txt", "--out", folder / "data", "--tokenizer", "bytes")
    train = glassgpt_command(
        "train",
        "nano",
        "--data",
        folder / "data",
        "--out",
        folder / "run",
        "--train.max-steps",
        50,
        "--model.context-length",
        256,
    )
    for command in (prepare, train):
        subprocess.run(command, check=True, capture_output=True)
    return folder / "run"


def evaluate_with_lm_eval(clients, address, folder):
    """Return the log-likelihoods of lm-eval's local-completions, by (question, choice)."""
    file = folder / "choices.jsonl"
    file.write_text("\n".join(json.dumps({"q": question, "choices": choices}) for question, choices in CHOICES))
    (folder / "tiny.yaml").write_text(TASK.format(file=file))
    arguments = f"model=tiny,base_url={address}/v1/completions,tokenizer_backend=remote,max_length=64,num_concurrent=2"
    command = [
        clients / "lm_eval", "--model", "local-completions", "--model_args", arguments, "--tasks", folder / "tiny.yaml",
        "--output_path", folder / "out", "--log_samples", "--batch_size", "4",
    ]  # fmt: skip
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    subprocess.run(command, check=True, capture_output=True, env=offline)
    samples = [json.loads(line) for path in folder.glob("out/**/samples*.jsonl") for line in path.open()]
    return {
        (sample["arguments"][f"gen_args_{at}"]["arg_0"], sample["arguments"][f"gen_args_{at}"]["arg_1"]): float(
            sample["resps"][at][0][0]
        )
        for sample in samples
        for at in range(2)
    }


@torch.inference_mode()
def log_likelihood(loaded, question, choice):
    before, after = loaded.tokenizer.encode(question), loaded.tokenizer.encode(choice)
    logprobs = loaded.model(torch.tensor([[*before, *after]]))[0].log_softmax(-1)
    return sum(float(logprobs[len(before) - 1 + at, token]) for at, token in enumerate(after))


def check_lm_eval(clients, address, folder, run):
    found, loaded = evaluate_with_lm_eval(clients, address, folder), glassgpt.load(run)
    assert len(found) == 6
    for (question, choice), value in found.items():
        expected = log_likelihood(loaded, question, choice)
        assert abs(value - expected) < 1e-4, (question, choice, value, expected)


def check_llm(clients, address, folder):
    """One conversation with the command llm, which reads its models from a file."""
    settings = folder / "llm"
    settings.mkdir()
    (settings / "extra-openai-models.yaml").write_text(
        f"- model_id: tiny\n  model_name: tiny\n  api_base: {address}/v1\n  api_key_name: none\n"
    )
    own = os.environ | {"LLM_USER_PATH": str(settings)}

    def ask(*arguments):
        command = [
            clients / "llm",
            *arguments,
            "-m",
            "tiny",
            "-o",
            "max_tokens",
            "12",
            "-o",
            "seed",
            "1",
            "--key",
            "none",
        ]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=own, stdin=subprocess.DEVNULL
        ).stdout

    answer = ask("Hello", "-s", "Be brief.")
    assert answer.strip()
    assert ask("Hello", "-s", "Be brief.", "--no-stream") == answer
    ask("And?", "-c")  # continues the conversation


@contextmanager
def served(*models):
    """Serve runs, each as NAME=RUN, and yield the address."""
    command = glassgpt_command("serve", *models, "--port", 0)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            address = server.stderr.readline().split(" at ")[1].split("/v1")[0]
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
            yield address
        finally:
            server.terminate()


def check_media(clients, folder):
    run, asked = seeing_run(folder / "seeing", glassgpt_command)
    with served(f"seeing={run}") as address:
        subprocess.run([clients / "python", HERE / "openai_media.py", address, asked], check=True)
    print("openai_media.py: passed", flush=True)


def main(clients, litellm, seconds):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_media(clients, folder)
        run = trained_run(folder)
        with served(f"tiny={run}") as address:
            scripts = ((clients, "openai_shapes.py"), (clients, "langchain_chat.py"), (litellm, "litellm_chat.py"))
            for environment, script in scripts:
                subprocess.run([environment / "python", HERE / script, address], check=True)
                print(f"{script}: passed", flush=True)
            check_llm(clients, address, folder)
            print("llm: passed", flush=True)
            subprocess.run(
                [clients / "llm-comply", "--base-url", f"{address}/v1", "--api-key", "none", "--model", "tiny",
                 "--format", "openai-chat", "--filter", ",".join(COMPLY_TESTS), "--ignore", "expected 'stop'"],
                check=True,
            )  # fmt: skip
            print("llm-comply: passed", flush=True)
            check_lm_eval(clients, address, folder, run)
            print("lm-eval: passed, log-likelihoods equal to the model's", flush=True)
            # What a schema cannot say (a valid regex, min_tokens below max_tokens) may be refused.
            subprocess.run(
                [clients / "schemathesis", "run", f"{address}/openapi.json", "--max-time", str(seconds),
                 "--exclude-checks", "positive_data_acceptance"],
                check=True, cwd=folder,
            )  # fmt: skip


if __name__ == "__main__":
    folders = [Path(each).absolute() for each in sys.argv[1:3]]
    main(*folders, int(sys.argv[3]) if len(sys.argv) > 3 else 300)
