"""All commands, by the station on the way of the data where each is written. Free of torch."""

from __future__ import annotations

from collections.abc import Callable

from cyclopts import App

import glassgpt
from glassgpt.cli import configuration, data, diagnosis, evaluation, generation, inspection, interchange, training
from glassgpt.cli.examples import below_help

app = App(
    name="glassgpt",
    help="A complete GPT-2 that one can see through: prepare text, train, generate, evaluate, look inside, diagnose.",
    version=glassgpt.__version__,
    help_epilogue="Start with: glassgpt demo. Each command's own help has examples, as: glassgpt train --help. "
    "With --debug, an error shows its full traceback.",
)
config_app = App(name="config", help="Show presets and every setting.", sort_key=100)
bench_app = App(name="bench", help="Measure how fast this machine is.", sort_key=101)

WAY: tuple[tuple[App, str, Callable[..., None]], ...] = (
    (app, "demo", training.demo),
    (app, "prepare", data.prepare),
    (app, "tokenize", data.tokenize),
    (app, "train", training.train),
    (app, "generate", generation.generate),
    (app, "evaluate", evaluation.evaluate),
    (app, "sweep-decoding", evaluation.sweep_decoding),
    (app, "inspect", inspection.inspect),
    (app, "doctor", diagnosis.doctor),
    (app, "export", interchange.export),
    (app, "import", interchange.import_),
    (app, "model", configuration.model),
    (config_app, "list", configuration.config_list),
    (config_app, "show", configuration.config_show),
    (bench_app, "train", training.bench_train),
    (bench_app, "generate", generation.bench_generate),
)
"""The commands in the order in which one needs them, which is that of the help."""
for at, (parent, name, command) in enumerate(WAY):
    whole = name if parent is app else f"{parent.name[0]} {name}"
    parent.command(command, name=name, sort_key=at, help_epilogue=below_help(whole, command))
app.command(config_app)
app.command(bench_app)
