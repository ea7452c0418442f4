"""All commands, by the station on the way of the data where each is written. Free of torch."""

from __future__ import annotations

from cyclopts import App

import glassgpt
from glassgpt.cli import configuration, data, diagnosis, evaluation, generation, inspection, interchange, training

app = App(
    name="glassgpt",
    help="A complete GPT-2 that one can see through: prepare text, train, generate, evaluate, look inside, diagnose.",
    version=glassgpt.__version__,
    help_epilogue="Every command takes --debug for a full traceback. Start with: glassgpt demo",
)
config_app = App(name="config", help="Show presets and every setting.")
bench_app = App(name="bench", help="Measure how fast this machine is.")
app.command(config_app)
app.command(bench_app)

app.command(data.prepare)
app.command(data.tokenize)
app.command(configuration.model)
config_app.command(configuration.config_list, name="list")
config_app.command(configuration.config_show, name="show")
app.command(training.train)
app.command(training.demo)
bench_app.command(training.bench_train, name="train")
app.command(generation.generate)
bench_app.command(generation.bench_generate, name="generate")
app.command(evaluation.evaluate)
app.command(evaluation.sweep_decoding, name="sweep-decoding")
app.command(diagnosis.doctor)
app.command(inspection.inspect)
app.command(interchange.import_, name="import")
app.command(interchange.export)
